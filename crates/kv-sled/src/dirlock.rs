//! One process has a directory at a time: the lock, and who holds it.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use fs4::{FileExt, TryLockError};
use kv_core::{Error, ErrorKind, Result};

use crate::error::from_io;
use crate::{ancestry, private};

/// Its name in the directory. The file stays when the lock is released: removing it could remove
/// somebody else's lock.
pub(crate) const LOCK_FILE: &str = "kv-sled.lock";

/// Between two looks at the lock while we wait: at first, as the engine's own is free a moment after it
/// was closed, and at last.
const FIRST_POLL: Duration = Duration::from_micros(250);
const POLL: Duration = Duration::from_millis(10);

/// The lock on a directory; dropping it releases it, and so does the end of the process, however it
/// ends.
#[derive(Debug)]
pub(crate) struct DirLock {
    _locked: Locked,
}

impl DirLock {
    /// Takes the lock, waiting so long for it, but not for a process that started this one: that one is
    /// likely to wait for this one. Blocks.
    ///
    /// # Errors
    ///
    /// `InUse` with the process id of the holder; `InvalidConfig` for a lock file that leads elsewhere.
    pub(crate) fn acquire(dir: &Path, wait: Duration) -> Result<Self> {
        let file = private::lock_file(&dir.join(LOCK_FILE))?;
        if !poll_lock(&file, wait, || holder(&file).is_some_and(ancestry::is_ancestor))? {
            return Err(in_use(holder(&file), wait));
        }
        let mut locked = Locked(file);
        write_holder(&mut locked.0).map_err(from_io)?;
        Ok(Self { _locked: locked })
    }
}

/// Waits until nobody holds a lock on `path`: sled lets go of its own only after the database was
/// dropped.
pub(crate) fn wait_until_unlocked(path: &Path, wait: Duration) -> Result<()> {
    match File::open(path) {
        Ok(file) => {
            if poll_lock(&file, wait, || false)? {
                drop(Locked(file));
            }
            // What sled says if it is still locked is clear enough.
            Ok(())
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(from_io(error)),
    }
}

/// Whether the file is locked now, which it is not if somebody else still has it after `wait`, or if two
/// looks in a row say that waiting is `hopeless`: one alone can come between two holders.
fn poll_lock(file: &File, wait: Duration, hopeless: impl Fn() -> bool) -> Result<bool> {
    let deadline = Instant::now().checked_add(wait);
    let mut pause = FIRST_POLL;
    let mut was_hopeless = false;
    loop {
        match FileExt::try_lock(file) {
            Ok(()) => return Ok(true),
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) => return Err(from_io(error)),
        }
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            return Ok(false);
        }
        let is_hopeless = hopeless();
        if is_hopeless && was_hopeless {
            return Ok(false);
        }
        was_hopeless = is_hopeless;
        thread::sleep(pause);
        pause = (pause * 2).min(POLL);
    }
}

/// A file with a lock on it.
///
/// Dropping it unlocks: closing the file alone would leave the lock to whatever process was forked
/// meanwhile, until that process runs another program.
#[derive(Debug)]
struct Locked(File);

impl Drop for Locked {
    fn drop(&mut self) {
        if let Err(error) = FileExt::unlock(&self.0) {
            tracing::warn!(%error, "unlocking a file of the sled store failed; closing it does the same");
        }
    }
}

fn write_holder(file: &mut File) -> std::io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    file.write_all(format!("{}\n", std::process::id()).as_bytes())
}

/// The process id in a lock file; unknown where it cannot be read, as on Windows while it is locked.
fn holder(mut file: &File) -> Option<u32> {
    let mut text = String::new();
    file.rewind().ok()?;
    file.take(32).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

fn in_use(holder: Option<u32>, waited: Duration) -> Error {
    let error = Error::new(ErrorKind::InUse { holder });
    if let Some(holder) = holder.filter(|holder| ancestry::is_ancestor(*holder)) {
        let who = match ancestry::name(holder) {
            Some(name) => format!("process {holder} ({name})"),
            None => format!("process {holder}"),
        };
        return error.with_detail(format!(
            "{who} started this process and has the directory itself, so waiting for it would not help: \
             a sled directory is for one process at a time. Use a server such as etcd or Consul for both"
        ));
    }
    let advice = "one process at a time can have a sled directory: end the other one, wait for it \
                  (?wait=10s), or use a server such as etcd or Consul for several processes";
    let detail = if waited.is_zero() { advice.to_owned() } else { format!("after {waited:?}: {advice}") };
    error.with_detail(detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_one_is_told_who_holds_it() {
        let dir = tempfile::tempdir().unwrap();
        let first = DirLock::acquire(dir.path(), Duration::ZERO).unwrap();
        let error = DirLock::acquire(dir.path(), Duration::from_millis(30)).unwrap_err();
        assert_eq!(error.kind(), &ErrorKind::InUse { holder: Some(std::process::id()) });
        drop(first);
        DirLock::acquire(dir.path(), Duration::ZERO).unwrap();
    }

    /// What a child of this process holds between `fork` and `exec`: the same open file.
    #[test]
    fn a_child_that_was_forked_meanwhile_does_not_keep_it() {
        let dir = tempfile::tempdir().unwrap();
        let first = DirLock::acquire(dir.path(), Duration::ZERO).unwrap();
        let _inherited = first._locked.0.try_clone().unwrap();
        drop(first);
        DirLock::acquire(dir.path(), Duration::ZERO).unwrap();
    }

    #[test]
    fn whoever_waits_gets_it_when_it_is_released() {
        let dir = tempfile::tempdir().unwrap();
        let first = DirLock::acquire(dir.path(), Duration::ZERO).unwrap();
        let waiting = thread::spawn({
            let dir = dir.path().to_owned();
            move || DirLock::acquire(&dir, Duration::from_secs(20)).map(drop)
        });
        thread::sleep(Duration::from_millis(50));
        assert!(!waiting.is_finished());
        drop(first);
        waiting.join().unwrap().unwrap();
    }
}
