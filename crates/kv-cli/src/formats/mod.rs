//! What can be imported and exported, as streams of rows.

pub(crate) mod consul;
pub(crate) mod dir;
pub(crate) mod jsonl;

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use clap::ValueEnum;
use kv_core::{Key, Prefix};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::exit::Failure;

/// How many rows may wait between the reader and the store.
const AHEAD: usize = 32;

/// What a source is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Source {
    /// A directory tree; each file becomes a key
    Dir,
    /// JSON lines, as `kv export` writes them
    Jsonl,
    /// The JSON array `consul kv export` writes
    Consul,
}

/// One thing found in a source.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Row {
    /// A value for a key.
    Entry { key: Key, value: Bytes },
    /// What cannot become a key with a value, and why.
    Refused { name: String, why: String },
}

impl Row {
    fn refused(name: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Refused { name: name.into(), why: why.into() }
    }
}

/// Takes each row; fails when nobody wants more.
type Emit<'e> = &'e mut dyn FnMut(Row) -> Result<(), Failure>;

/// A source that was opened and of which it is known what it is.
pub(crate) enum Opened {
    Dir(PathBuf),
    Jsonl(Box<dyn BufRead + Send>),
    Consul(Box<dyn BufRead + Send>),
}

impl Opened {
    /// Opens a source and finds out what it is, unless that is given. Blocks until there is
    /// something to look at.
    pub(crate) fn open(path: &Path, given: Option<Source>) -> Result<Self, Failure> {
        let failed = |error| Failure::io(format!("cannot read {path:?}"), error);
        let mut reader: Box<dyn BufRead + Send> = if path.as_os_str() == "-" {
            Box::new(BufReader::new(io::stdin()))
        } else {
            let is_dir = std::fs::metadata(path).map_err(failed)?.is_dir();
            match (is_dir, given) {
                (true, None | Some(Source::Dir)) => return Ok(Self::Dir(path.to_owned())),
                (true, Some(_)) => return Err(Failure::Usage(format!("{path:?} is a directory"))),
                (false, Some(Source::Dir)) => {
                    return Err(Failure::Usage(format!("{path:?} is not a directory")));
                }
                (false, _) => Box::new(BufReader::new(File::open(path).map_err(failed)?)),
            }
        };
        let source = match given {
            Some(source) => source,
            None => look(&mut reader).map_err(failed)?.ok_or_else(|| {
                Failure::Usage(format!(
                    "{path:?} is neither a directory nor JSON lines nor the JSON of consul kv export"
                ))
            })?,
        };
        match source {
            Source::Jsonl => Ok(Self::Jsonl(reader)),
            Source::Consul => Ok(Self::Consul(reader)),
            Source::Dir => Err(Failure::Usage("standard input is not a directory".to_owned())),
        }
    }

    fn read(self, below: &Prefix, max_value: usize, emit: Emit<'_>) -> Result<(), Failure> {
        match self {
            Self::Dir(root) => dir::read(&root, below, max_value, emit),
            Self::Jsonl(reader) => jsonl::read(reader, below, max_value, emit),
            Self::Consul(reader) => consul::read(reader, below, emit),
        }
    }

    /// Reads the source on a thread of its own, a few rows ahead. The handle tells how it ended.
    pub(crate) fn rows(
        self,
        below: Prefix,
        max_value: usize,
    ) -> (mpsc::Receiver<Row>, JoinHandle<Result<(), Failure>>) {
        let (sender, rows) = mpsc::channel(AHEAD);
        let reader = tokio::task::spawn_blocking(move || {
            let mut emit = |row| sender.blocking_send(row).map_err(|_| Failure::BrokenPipe);
            self.read(&below, max_value, &mut emit)
        });
        (rows, reader)
    }
}

/// What a stream is, by its first byte that is not blank; an empty one has no rows in any format.
fn look(reader: &mut dyn BufRead) -> io::Result<Option<Source>> {
    loop {
        let bytes = reader.fill_buf()?;
        if bytes.is_empty() {
            return Ok(Some(Source::Jsonl));
        }
        match bytes.iter().position(|byte| !byte.is_ascii_whitespace()) {
            Some(at) => {
                return Ok(match bytes.get(at) {
                    Some(b'{') => Some(Source::Jsonl),
                    Some(b'[') => Some(Source::Consul),
                    _ => None,
                });
            }
            None => {
                let blank = bytes.len();
                reader.consume(blank);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_byte_tells_the_format() {
        for (text, expected) in [
            ("", Some(Source::Jsonl)),
            (" \n\n", Some(Source::Jsonl)),
            (" \n{\"key\":\"a\"}", Some(Source::Jsonl)),
            ("\t[", Some(Source::Consul)),
            ("key: value", None),
        ] {
            assert_eq!(
                look(&mut BufReader::with_capacity(2, text.as_bytes())).unwrap(),
                expected,
                "{text:?}"
            );
        }
    }
}
