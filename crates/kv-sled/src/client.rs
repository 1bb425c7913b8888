//! The sled database: opening it, reading, writing and making durable, with everything it gets wrong
//! put right here.
//!
//! - sled panics on some damaged files and on some failures: every call into it is fenced.
//! - Its `flush` is `sync_file_range`, which leaves file size and device cache alone: [`Client::sync`]
//!   is the real one.
//! - A write that fails in its thread pool may leave `flush` waiting for ever: a second one, from
//!   another thread, wakes it.
//! - It frees the memory of replaced pages lazily and, under bulk writes, gigabytes late:
//!   [`Client::reclaim`] drives it.
//! - A leftover of an interrupted open makes the next one fail: it is moved aside first.

use std::fs::{self, File};
use std::ops::{Bound, ControlFlow};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use kv_core::Result;
use parking_lot::{Condvar, Mutex};

use crate::error::{from_io, from_sled};
use crate::record::corrupt;

/// The unit of sled's log. Nodes of the tree up to a quarter of it go into the log. What is larger
/// goes into a file of its own that is never synced, so nothing of ours may be: a leaf holds up to
/// 24 records and an index 320 keys of 800 bytes.
pub(crate) const SEGMENT: usize = 2 << 20;

/// After this long a flush is given a push.
const FLUSH_PATIENCE: Duration = Duration::from_secs(1);

/// Several changes that become durable together or not at all.
#[derive(Debug, Default)]
pub(crate) struct Batch(sled::Batch);

impl Batch {
    pub(crate) fn insert(&mut self, key: &[u8], value: Vec<u8>) {
        self.0.insert(key, value);
    }

    pub(crate) fn remove(&mut self, key: &[u8]) {
        self.0.remove(key);
    }
}

/// How the database is opened.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ClientOptions {
    /// For pages in memory.
    pub(crate) cache_bytes: u64,
    /// How often sled cleans up its log, and with it syncs the file.
    pub(crate) clean_every: Duration,
}

/// An open database.
pub(crate) struct Client {
    db: sled::Db,
    /// A handle of our own on sled's log, to sync it.
    log: File,
    log_path: PathBuf,
    flushes: FlushAid,
    #[cfg(test)]
    pub(crate) faults: crate::tests::Faults,
}

impl Client {
    /// Opens the database in `dir`, which must be locked. Blocks.
    pub(crate) fn open(dir: &Path, options: ClientOptions) -> Result<Self> {
        set_leftovers_aside(dir)?;
        let config = sled::Config::new()
            .path(dir)
            .segment_size(SEGMENT)
            .cache_capacity(options.cache_bytes)
            .flush_every_ms(Some(u64::try_from(options.clean_every.as_millis()).unwrap_or(u64::MAX)));
        let db = fenced(|| config.open().map_err(from_sled))?;
        let log_path = dir.join("db");
        let log = File::open(&log_path).map_err(from_io)?;
        let flushes = FlushAid::start(db.clone())?;
        Ok(Self {
            db,
            log,
            log_path,
            flushes,
            #[cfg(test)]
            faults: Default::default(),
        })
    }

    pub(crate) fn get(&self, key: &[u8]) -> Result<Option<impl AsRef<[u8]> + use<>>> {
        fenced(|| self.db.get(key).map_err(from_sled))
    }

    /// Shows all records in a range to `visit`, in order, until it breaks.
    pub(crate) fn scan(
        &self,
        range: (Bound<Vec<u8>>, Bound<Vec<u8>>),
        mut visit: impl FnMut(&[u8], &[u8]) -> Result<ControlFlow<()>>,
    ) -> Result<()> {
        #[cfg(test)]
        self.faults.scan()?;
        fenced(|| {
            for record in self.db.range::<Vec<u8>, _>(range) {
                let (key, value) = record.map_err(from_sled)?;
                if visit(&key, &value)?.is_break() {
                    break;
                }
            }
            Ok(())
        })
    }

    /// Applies a batch. From here on readers see it; it is not durable yet.
    pub(crate) fn apply(&self, batch: Batch) -> Result<()> {
        #[cfg(test)]
        self.faults.apply()?;
        fenced(|| self.db.apply_batch(batch.0).map_err(from_sled))
    }

    /// When it returns, everything applied before survives the death of the process.
    pub(crate) fn flush(&self) -> Result<()> {
        self.flushes.during(|| fenced(|| self.db.flush().map_err(from_sled)))?;
        #[cfg(test)]
        self.faults.flushed()?;
        Ok(())
    }

    /// When it returns, everything flushed before survives the loss of power.
    pub(crate) fn sync(&self) -> Result<()> {
        #[cfg(test)]
        crate::tests::sync_fault(&self.log_path)?;
        self.log.sync_data().map_err(from_io)
    }

    /// Frees memory that sled has done with. To be called between batches, when no page is in use.
    pub(crate) fn reclaim(&self) {
        // Each round moves on by one step of three and frees a bounded number of bags.
        for _ in 0..8 {
            sled::crossbeam_pin().flush();
        }
    }

    /// The size of the log.
    pub(crate) fn log_len(&self) -> Result<u64> {
        Ok(fs::metadata(&self.log_path).map_err(from_io)?.len())
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("log", &self.log_path).finish_non_exhaustive()
    }
}

/// Runs a call into sled. A panic there means that it met something it did not expect in its files.
fn fenced<T>(call: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|panic| {
        let text = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied())
            .unwrap_or("no message");
        Err(corrupt(format!("sled gave up: {text}")))
    })
}

/// Moves aside what a crash during an open leaves: sled takes its own unfinished snapshot for a real
/// one. A finished snapshot that is damaged goes too; the log alone holds everything, and what comes
/// of it is verified.
fn set_leftovers_aside(dir: &Path) -> Result<()> {
    for entry in fs::read_dir(dir).map_err(from_io)? {
        let entry = entry.map_err(from_io)?;
        let name = entry.file_name();
        let Some(name) = name.to_str().filter(|name| name.starts_with("snap.")) else { continue };
        if name.ends_with(".generating") || !snapshot_is_whole(&fs::read(entry.path()).map_err(from_io)?) {
            tracing::warn!(file = name, "setting an unfinished or damaged sled snapshot aside");
            fs::rename(entry.path(), dir.join(format!("quarantine.{name}"))).map_err(from_io)?;
        }
    }
    Ok(())
}

/// A snapshot ends in eight bytes of length and a CRC of what is before.
fn snapshot_is_whole(bytes: &[u8]) -> bool {
    let Some((content, trailer)) = bytes.split_last_chunk::<12>() else { return false };
    !content.is_empty() && crc32fast::hash(content).to_le_bytes() == trailer[8..]
}

/// Wakes a flush that waits for a write which failed: sled's pool thread notes the failure and tells
/// nobody, and another flush finds it and tells everybody.
struct FlushAid {
    shared: Arc<AidShared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct AidShared {
    state: Mutex<AidState>,
    changed: Condvar,
}

#[derive(Default)]
struct AidState {
    flushing: bool,
    stop: bool,
}

impl FlushAid {
    fn start(db: sled::Db) -> Result<Self> {
        let shared = Arc::new(AidShared::default());
        let aid = Arc::clone(&shared);
        let run = move || {
            let mut state = aid.state.lock();
            while !state.stop {
                if !state.flushing {
                    aid.changed.wait(&mut state);
                } else if aid.changed.wait_for(&mut state, FLUSH_PATIENCE).timed_out()
                    && db.context.global_error().is_err()
                {
                    // The flush that waits answers with the failure; this one has nothing to say.
                    drop(fenced(|| db.flush().map_err(from_sled)));
                }
            }
        };
        let thread = thread::Builder::new().name("kv-sled-flush".to_owned()).spawn(run).map_err(from_io)?;
        Ok(Self { shared, thread: Some(thread) })
    }

    fn during<T>(&self, flush: impl FnOnce() -> T) -> T {
        self.set_flushing(true);
        let result = flush();
        self.set_flushing(false);
        result
    }

    fn set_flushing(&self, flushing: bool) {
        self.shared.state.lock().flushing = flushing;
        if flushing {
            self.shared.changed.notify_one();
        }
    }
}

impl Drop for FlushAid {
    fn drop(&mut self) {
        self.shared.state.lock().stop = true;
        self.shared.changed.notify_one();
        if let Some(thread) = self.thread.take() {
            // It holds a part of the database, which must be gone when this returns. It does not
            // panic, and if it did there would be nothing to do about it.
            drop(thread.join());
        }
    }
}
