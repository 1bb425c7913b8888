//! Opening a directory: what it must look like, what is checked, and what is put right first.

use std::fs::{self, File};
use std::ops::{Bound, ControlFlow};
use std::path::{Path, PathBuf};
use std::time::Duration;

use kv_backend::{Change, Hub, HubOptions};
use kv_core::{Entry, Error, Operation, Result, Version};

use crate::client::{Batch, Client, ClientOptions};
use crate::config::{Durability, EngineConfig, Verify};
use crate::error::from_io;
use crate::name::Namespaces;
use crate::private;
use crate::record::{self, Event, Left, META, Meta, Record, corrupt, unseal};
use crate::view::{read_value, scan_events};

/// Says that the directory was set up: what is missing after that was lost.
const MARKER: &str = "kv-sled.format";

/// How often sled cleans up its log. It syncs the file each time, also between cleaning and the reuse
/// of what was cleaned, which is why it comes often where power may fail.
pub(crate) const CLEAN_EVERY: Duration = Duration::from_millis(500);
const CLEAN_EVERY_POWER: Duration = Duration::from_millis(50);

/// The directory of a store, made if it is missing, by its one true name.
pub(crate) fn directory(path: &Path) -> Result<PathBuf> {
    let not_a_directory = || {
        Error::invalid_config(format!("{} is not a directory", path.display()))
            .with_operation(Operation::Open)
    };
    if path.exists() && !path.is_dir() {
        return Err(not_a_directory());
    }
    private::make_directory(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotADirectory | std::io::ErrorKind::AlreadyExists => not_a_directory(),
        // Where nobody can make one, such as below /proc. Nothing that was stored is missing.
        std::io::ErrorKind::NotFound => {
            Error::invalid_config(format!("the directory {} cannot be made", path.display()))
                .with_operation(Operation::Open)
                .with_source(error)
        }
        _ => from_io(error),
    })?;
    path.canonicalize().map_err(from_io)
}

/// Whether something of this name in a directory is a part of a store.
fn is_ours(name: &str) -> bool {
    [crate::dirlock::LOCK_FILE, MARKER, "db", "conf", "blobs"].contains(&name) || name.contains("snap.")
}

/// Refuses a directory with something else in it: nobody wants a database in their home directory. Nor with
/// links in it, which lead somewhere else. Changes nothing.
pub(crate) fn check_contents(dir: &Path) -> Result<()> {
    let (mut is_store, mut foreign) = (false, None);
    for entry in fs::read_dir(dir).map_err(from_io)? {
        let entry = entry.map_err(from_io)?;
        let name = entry.file_name();
        if name.to_str().is_some_and(is_ours) {
            private::check_is_no_link(&entry)?;
        } else if name != "lost+found" {
            foreign = Some(name.clone());
        }
        is_store |= name == MARKER || name == "db";
    }
    match foreign {
        Some(name) if !is_store => Err(Error::invalid_config(format!(
            "{} holds something else ({}): name an empty directory or one that does not exist",
            dir.display(),
            name.display()
        ))
        .with_operation(Operation::Open)),
        _ => Ok(()),
    }
}

/// Opens the database in a locked directory and checks it.
pub(crate) fn open(dir: &Path, config: EngineConfig) -> Result<(Client, Meta)> {
    check_contents(dir)?;
    let marked = dir.join(MARKER).exists();
    let power = config.durability == Durability::Power;
    let options = ClientOptions {
        cache_bytes: config.page_cache_bytes(),
        clean_every: if power { CLEAN_EVERY_POWER } else { CLEAN_EVERY },
    };
    if !marked {
        // Only once: whoever lets others in afterwards has a reason.
        private::close_directory(dir)?;
    }
    let client = Client::open(dir, options)?;
    let meta = match client.get(META)? {
        Some(bytes) => {
            let meta = Meta::decode(bytes.as_ref())?;
            if config.verify == Verify::Open {
                verify(&client, &meta)?;
            }
            meta
        }
        None if marked => {
            return Err(corrupt("the store was set up and is empty now: its log was lost or damaged"));
        }
        None => {
            refuse_foreign(&client)?;
            Meta::default()
        }
    };
    if !marked {
        set_up(dir, &client, &meta)?;
    }
    Ok((client, meta))
}

/// Makes what was opened as durable as the mode promises of what is seen.
pub(crate) fn sync(dir: &Path, client: &Client, config: EngineConfig) -> Result<()> {
    if config.durability == Durability::Power {
        client.sync()?;
        sync_directory(dir)?;
    }
    Ok(())
}

/// Writes the first state and, when that is safe, the marker.
fn set_up(dir: &Path, client: &Client, meta: &Meta) -> Result<()> {
    let mut batch = Batch::default();
    batch.insert(META, meta.encode());
    client.apply(batch)?;
    client.flush()?;
    client.sync()?;
    fs::write(dir.join(MARKER), format!("kv-sled format {}\n", record::FORMAT)).map_err(from_io)?;
    private::close_files(dir, is_ours).map_err(from_io)?;
    File::open(dir.join(MARKER)).and_then(|file| file.sync_all()).map_err(from_io)?;
    sync_directory(dir)
}

fn sync_directory(dir: &Path) -> Result<()> {
    // Elsewhere directories cannot be opened and need no sync.
    if cfg!(unix) {
        for dir in [Some(dir), dir.parent()].into_iter().flatten() {
            File::open(dir).and_then(|dir| dir.sync_all()).map_err(from_io)?;
        }
    }
    Ok(())
}

/// A sled database that somebody else made is left alone.
fn refuse_foreign(client: &Client) -> Result<()> {
    let mut foreign = false;
    client.scan((Bound::Unbounded, Bound::Unbounded), |_, _| {
        foreign = true;
        Ok(ControlFlow::Break(()))
    })?;
    if foreign {
        return Err(corrupt("this sled database holds records and none of them is ours"));
    }
    Ok(())
}

/// Reads every record: each must be whole, and together they must be exactly those there were when
/// the last change was made. So a state that is opened is one the store had.
fn verify(client: &Client, meta: &Meta) -> Result<()> {
    let mut records = 0u64;
    let mut digest = 0u64;
    client.scan((Bound::Unbounded, Bound::Unbounded), |key, bytes| {
        if key != META {
            let (_, stamp) = unseal(key, bytes).map_err(|error| error.with_key(printable(key)))?;
            records += 1;
            digest = digest.wrapping_add(stamp.seal);
        }
        Ok(ControlFlow::Continue(()))
    })?;
    if (records, digest) != (meta.records, meta.digest) {
        return Err(corrupt(format!(
            "{records} records were found and {} should be there, at version {}: a part of the log was lost \
             or is older than the rest",
            meta.records, meta.version
        )));
    }
    Ok(())
}

/// The key of a record for people: the entry's name where it is one.
fn printable(key: &[u8]) -> String {
    match key.split_first() {
        Some((&record::space::DATA, name)) => String::from_utf8_lossy(name).into_owned(),
        _ => format!("record {}", key.escape_ascii()),
    }
}

/// The hub with the history there is on disk.
pub(crate) fn load_history(client: &Client, meta: &Meta, config: EngineConfig) -> Result<Hub> {
    let options = HubOptions::default().with_max_events(config.history);
    let hub = Hub::new(crate::BACKEND, options, Version::new(meta.oldest()));
    publish_history(client, &hub, meta.oldest())?;
    Ok(hub)
}

/// Publishes the changes on disk that were made after a version.
pub(crate) fn publish_history(client: &Client, hub: &Hub, after: u64) -> Result<()> {
    let mut namespaces = Namespaces::default();
    scan_events(client, after, u64::MAX, |version, event, _| {
        hub.publish([change(client, &mut namespaces, version, event)?]).wake();
        Ok(ControlFlow::Continue(()))
    })
}

fn change(client: &Client, namespaces: &mut Namespaces, version: u64, event: Event) -> Result<Change> {
    let mut entry = |record: &Record| {
        let name = namespaces.name(&event.name, record.namespace)?;
        let value = read_value(client, record)?;
        let (version, created) = (Version::new(record.version), Version::new(record.created));
        Ok((name.namespace, Entry::new(name.key, value, version, created)))
    };
    match (&event.left, &event.before) {
        (Left::Entry(record), _) => entry(record).map(|(namespace, entry)| Change::put(namespace, entry)),
        (Left::Nothing(cause), Some(before)) => entry(before)
            .map(|(namespace, previous)| Change::delete(namespace, previous, Version::new(version), *cause)),
        (Left::Nothing(_), None) => Err(corrupt("a change deleted what was not there")),
    }
}
