//! `kv export`: everything below a prefix, row by row.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use futures_util::TryStreamExt;
use kv_core::{ListItem, ListOptions, Operation};
use tempfile::NamedTempFile;

use crate::cli::Export;
use crate::exit::Failure;
use crate::formats::{consul, jsonl};
use crate::output::{Output, to_person, write_failed};
use crate::progress::Progress;
use crate::session::Session;

pub(crate) async fn run(session: &Session, args: Export) -> Result<(), Failure> {
    let prefix = super::prefix(&args.prefix, Operation::List)?;
    let mut options = ListOptions::default();
    options.timeout = session.timeout();
    let mut listing = session.store().await?.list_with(&prefix, options).await?;

    let mut sink = Sink::open(args.file)?;
    let mut progress = Progress::begin("exported", !sink.is_stdout() || !to_person());
    if args.consul {
        sink.write(b"[")?;
    }
    while let Some(item) = listing.try_next().await? {
        let ListItem::Entry(entry) = item else { continue };
        let name = match prefix.relative(&entry.key) {
            Some(name) if args.relative => name,
            _ => entry.key.as_str(),
        };
        if args.consul {
            sink.write(if progress.keys() == 0 { b"\n" } else { b",\n" })?;
            sink.json(&consul::Written::new(name, &entry))?;
        } else {
            sink.json(&jsonl::Written::new(name, &entry, args.meta))?;
            sink.write(b"\n")?;
        }
        progress.done(entry.value.len());
    }
    if args.consul {
        sink.write(b"\n]\n")?;
    }
    sink.finish(&progress)
}

/// Where an export goes.
enum Sink {
    Stdout(Output),
    /// A file that takes its name when it is complete.
    New {
        temp: BufWriter<NamedTempFile>,
        path: PathBuf,
    },
    /// A device or pipe, which must not be replaced by a file.
    Special {
        file: BufWriter<File>,
        path: PathBuf,
    },
}

impl Sink {
    fn open(path: Option<PathBuf>) -> Result<Self, Failure> {
        let Some(path) = path.filter(|path| path.as_os_str() != "-") else {
            return Ok(Self::Stdout(Output::stdout()));
        };
        let failed = |error| Failure::io(format!("cannot write {path:?}"), error);
        match std::fs::metadata(&path) {
            Ok(meta) if !meta.is_file() => {
                let file = File::options().write(true).open(&path).map_err(failed)?;
                Ok(Self::Special { file: BufWriter::new(file), path })
            }
            _ => {
                let beside = path.parent().filter(|beside| !beside.as_os_str().is_empty());
                let temp = NamedTempFile::new_in(beside.unwrap_or(Path::new("."))).map_err(failed)?;
                Ok(Self::New { temp: BufWriter::new(temp), path })
            }
        }
    }

    fn is_stdout(&self) -> bool {
        matches!(self, Self::Stdout(_))
    }

    fn writer(&mut self) -> &mut dyn Write {
        match self {
            Self::Stdout(out) => out,
            Self::New { temp, .. } => temp,
            Self::Special { file, .. } => file,
        }
    }

    fn failed(&self, error: std::io::Error) -> Failure {
        match self {
            Self::Stdout(_) => write_failed(error),
            Self::New { path, .. } | Self::Special { path, .. } => {
                Failure::io(format!("cannot write {path:?}"), error)
            }
        }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.writer().write_all(bytes).map_err(|error| self.failed(error))
    }

    fn json(&mut self, row: &impl serde::Serialize) -> Result<(), Failure> {
        serde_json::to_writer(self.writer(), row).map_err(|error| self.failed(error.into()))
    }

    /// Makes sure that everything is where it should be.
    fn finish(mut self, progress: &Progress) -> Result<(), Failure> {
        self.writer().flush().map_err(|error| self.failed(error))?;
        match self {
            Self::Stdout(_) => return Ok(()),
            Self::Special { .. } => {}
            Self::New { temp, path } => {
                let failed = |error| Failure::io(format!("cannot write {path:?}"), error);
                let temp = temp.into_inner().map_err(|error| failed(error.into_error()))?;
                temp.as_file().sync_all().map_err(failed)?;
                temp.persist(&path).map_err(|error| failed(error.error))?;
            }
        }
        progress.say(&format!("kv: exported {} keys, {} bytes", progress.keys(), progress.bytes()));
        Ok(())
    }
}
