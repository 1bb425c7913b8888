//! `kv export`: everything below a prefix, row by row.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt};
use kv_core::{Entry, Error, GetOptions, ListItem, ListOptions, Operation, Power, Store, StoreExt};
use tempfile::NamedTempFile;

use crate::cli::Export;
use crate::exit::Failure;
use crate::formats::{consul, jsonl};
use crate::output::{Output, to_person, write_failed};
use crate::progress::{Progress, Unfinished};
use crate::session::Session;

/// How many keys are asked at a time when they expire.
const IN_FLIGHT: usize = 32;

pub(crate) async fn run(session: &Session, args: Export) -> Result<(), Failure> {
    let prefix = super::prefix(&args.prefix, Operation::List)?;
    // What `consul kv import` reads has no place for it.
    let expiring = !(args.no_expiry || args.consul);
    let store = session.store().await?;
    let with_list = expiring && store.capabilities().has(Power::ListExpiry);
    let mut options = ListOptions::default();
    if with_list {
        options = options.with_expiry();
    }
    options.timeout = session.timeout();
    let listing =
        session.request(Operation::List, prefix.as_str(), store.list_with(&prefix, options)).await?;
    let entries = listing.try_filter_map(|item| {
        std::future::ready(Ok(match item {
            ListItem::Entry(entry) => Some(entry),
            _ => None,
        }))
    });
    let one_by_one = expiring && !with_list;
    let (store, timeout) = (&**store, session.timeout());
    let mut entries = entries
        .map_ok(|entry| async move {
            if one_by_one { with_expiry(store, entry, timeout).await } else { Ok(Some(entry)) }
        })
        .try_buffered(IN_FLIGHT)
        .boxed_local();

    let mut sink = Sink::open(args.file)?;
    let unfinished = match &sink {
        Sink::New { path, .. } => Some(Unfinished::begin(format!("{path:?} was not written"))),
        _ => None,
    };
    let mut progress = Progress::begin("exported", !sink.is_stdout() || !to_person());
    let mut gone = 0_u64;
    if args.consul {
        sink.write(b"[")?;
    }
    while let Some(entry) = entries.try_next().await? {
        let Some(entry) = entry else {
            gone += 1;
            continue;
        };
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
    if progress.keys() == 0 {
        // An empty file is mistaken for a good one.
        progress.say(&format!("kv: nothing was exported: there are no keys below {}", super::shown(&prefix)));
    }
    if gone > 0 {
        progress.say(&format!("kv: left out {gone} keys that went while they were exported"));
    }
    sink.finish(&progress)?;
    if let Some(unfinished) = unfinished {
        unfinished.finish();
    }
    Ok(())
}

/// The entry with its expiry, which the lists of this store do not tell. `None` where the key has gone since: one that
/// expired must not come back for good. Of one that was put since, the new expiry is told.
async fn with_expiry(
    store: &dyn Store,
    mut entry: Entry,
    timeout: Option<Duration>,
) -> Result<Option<Entry>, Error> {
    let mut options = GetOptions::default().with_expiry();
    options.timeout = timeout;
    let now = store.get_with(&entry.key, options).await?;
    Ok(now.map(|now| {
        entry.expiry = now.expiry;
        entry
    }))
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
        if let Self::Stdout(out) = self {
            return out.bare_json(row);
        }
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
