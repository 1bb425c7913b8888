//! What can be imported and exported, as streams of rows.

mod array;
pub(crate) mod consul;
pub(crate) mod dir;
mod etcdctl;
pub(crate) mod jsonl;
mod nested;
mod text;

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use clap::ValueEnum;
use kv_core::{Key, Prefix};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use self::text::Text;
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
    /// What `etcdctl get PREFIX --prefix -w json` writes
    Etcdctl,
    /// One JSON document: objects are folders, texts, numbers and flags are values
    Json,
}

/// When the entry of a row goes by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RowExpiry {
    /// It does not.
    Never,
    /// After a time; at least one of the two is known.
    Ttl { granted: Option<Duration>, remaining: Option<Duration> },
    /// With the session that put it.
    Session,
    /// With a lease, of which it is not told how long it lasts.
    Lease,
}

/// What is left out of an import without being a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum LeftOut {
    /// A symbolic link, where links are not followed.
    Link,
    /// A link that leads nowhere, or back to a directory it lies in.
    DeadLink,
    /// A device, pipe or socket.
    Special,
}

/// One thing found in a source.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Row {
    /// A value for a key.
    Entry { key: Key, value: Bytes, expiry: RowExpiry },
    /// What cannot become a key with a value, and why.
    Refused { name: String, why: String },
    /// What is not meant to become a key.
    LeftOut { name: String, what: LeftOut },
}

impl Row {
    /// A permanent entry.
    fn entry(key: Key, value: Bytes) -> Self {
        Self::Entry { key, value, expiry: RowExpiry::Never }
    }

    fn refused(name: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Refused { name: name.into(), why: why.into() }
    }
}

/// What a JSON escape makes of one byte at worst: `\u0000`.
const ESCAPE: usize = 6;
/// Room for the key and the rest of a row.
const AROUND: usize = 16 << 10;

/// The length from which on a row of JSON cannot hold a value the store takes.
fn longest_row(max_value: usize) -> usize {
    max_value.saturating_mul(ESCAPE).saturating_add(AROUND)
}

/// Takes each row; fails when nobody wants more.
type Emit<'e> = &'e mut dyn FnMut(Row) -> Result<(), Failure>;

/// A source that was opened and of which it is known what it is.
#[derive(Debug)]
pub(crate) enum Opened {
    /// A directory tree, and whether links in it are followed.
    Dir {
        root: PathBuf,
        follow: bool,
    },
    Jsonl(Text),
    Consul(Text),
    Etcdctl(Text),
    Json(Text),
}

impl Opened {
    /// Opens a source and finds out what it is, unless that is given. Blocks until there is
    /// something to look at; what is no file is read to its end, as it is read twice.
    pub(crate) fn open(path: &Path, given: Option<Source>, follow: bool) -> Result<Self, Failure> {
        let failed = |error| Failure::io(format!("cannot read {path:?}"), error);
        let (mut reader, file): (Box<dyn BufRead>, _) = if path.as_os_str() == "-" {
            (Box::new(BufReader::new(io::stdin())), None)
        } else {
            let meta = std::fs::metadata(path).map_err(failed)?;
            match (meta.is_dir(), given) {
                (true, None | Some(Source::Dir)) => return Ok(Self::Dir { root: path.to_owned(), follow }),
                (true, Some(_)) => return Err(Failure::Usage(format!("{path:?} is a directory"))),
                (false, Some(Source::Dir)) => {
                    return Err(Failure::Usage(format!("{path:?} is not a directory")));
                }
                (false, _) => {}
            }
            let file = File::open(path).map_err(failed)?;
            let again = if meta.is_file() { Some(file.try_clone().map_err(failed)?) } else { None };
            (Box::new(BufReader::new(file)), again)
        };
        if follow {
            return Err(Failure::Usage(format!(
                "--follow is for the links in a directory, and {path:?} is none"
            )));
        }
        let mut reader = text::without_mark(&mut reader).map_err(failed)?;
        let source = match given {
            Some(source) => source,
            None => look(&mut reader).map_err(failed)?.ok_or_else(|| {
                Failure::Usage(format!(
                    "{path:?} is neither a directory nor JSON lines nor the JSON of consul kv export or etcdctl get"
                ))
            })?,
        };
        let text = match file {
            Some(file) => Text::file(file),
            None => Text::copy(&mut reader).map_err(failed)?,
        };
        match source {
            Source::Jsonl => Ok(Self::Jsonl(text)),
            Source::Consul => Ok(Self::Consul(text)),
            Source::Etcdctl => Ok(Self::Etcdctl(text)),
            Source::Json => Ok(Self::Json(text)),
            Source::Dir => Err(Failure::Usage("standard input is not a directory".to_owned())),
        }
    }

    fn read(&self, below: &Prefix, max_value: usize, emit: Emit<'_>) -> Result<(), Failure> {
        match self {
            Self::Dir { root, follow } => dir::read(root, *follow, below, max_value, emit),
            Self::Jsonl(text) => jsonl::read(text.reader()?, below, max_value, emit),
            Self::Consul(text) => consul::read(text.reader()?, below, max_value, emit),
            Self::Etcdctl(text) => etcdctl::read(text.reader()?, below, max_value, emit),
            Self::Json(text) => nested::read(text.reader()?, below, max_value, emit),
        }
    }

    /// Reads all of a text without doing anything with it: whether every row is one, before the
    /// first of them changes a store. Tells how many keys it has, where that is known so early.
    pub(crate) fn check(&self, below: &Prefix, max_value: usize) -> Result<Option<u64>, Failure> {
        if let Self::Dir { .. } = self {
            // Each file is a row whatever it holds.
            return Ok(None);
        }
        let mut keys = 0;
        let mut count = |row| {
            keys += u64::from(matches!(row, Row::Entry { .. }));
            Ok(())
        };
        self.read(below, max_value, &mut count)?;
        Ok(Some(keys))
    }

    /// Reads the source on a thread of its own, a few rows ahead. The handle tells how it ended.
    pub(crate) fn rows(
        self: Arc<Self>,
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
                    Some(b'{') if bytes.get(at..).is_some_and(|rest| rest.starts_with(etcdctl::BEGIN)) => {
                        Some(Source::Etcdctl)
                    }
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
