//! Files for nobody but their owner, and none that lead somewhere else.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::Path;

use kv_core::{Error, Operation, Result};

use crate::error::from_io;

/// Makes a directory that only its owner can enter, whatever the umask. One that is there is left as it is.
pub(crate) fn make_directory(path: &Path) -> io::Result<()> {
    // Above it is what others may share.
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    match fs::create_dir(path) {
        Ok(()) => close_to_others(path, 0o700),
        Err(_) if path.is_dir() => Ok(()),
        Err(error) => Err(error),
    }
}

/// Takes the rights of everybody else away from a directory.
pub(crate) fn close_directory(dir: &Path) -> Result<()> {
    match close_to_others(dir, 0o700) {
        // Such as the root of a file system, which is the administrator's to open and to close.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            tracing::warn!(dir = %dir.display(), "the directory of the sled store is somebody else's: who can read it is up to them");
            Ok(())
        }
        closed => closed.map_err(from_io),
    }
}

/// Takes the rights of everybody else away from the files of a store, which `is_ours` knows by name.
pub(crate) fn close_files(dir: &Path, is_ours: fn(&str) -> bool) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        let closed = match (entry.file_name().to_str().is_some_and(is_ours), kind.is_dir(), kind.is_file()) {
            (true, true, _) => {
                close_to_others(&entry.path(), 0o700).and_then(|()| close_files(&entry.path(), |_| true))
            }
            (true, _, true) => close_to_others(&entry.path(), 0o600),
            _ => Ok(()),
        };
        match closed {
            // What the engine makes and removes may be gone by now.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            closed => closed?,
        }
    }
    Ok(())
}

#[cfg(unix)]
fn close_to_others(path: &Path, mode: u32) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

/// Elsewhere a directory inherits the rights of the one above it.
#[cfg(not(unix))]
fn close_to_others(_: &Path, _: u32) -> io::Result<()> {
    Ok(())
}

/// The lock file, made if it is missing. Whatever else is under its name is refused and left alone.
pub(crate) fn lock_file(path: &Path) -> Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    // Never through a link: neither is one followed to make a file, nor is what it leads to written to.
    match only_for_the_owner(options.clone().create_new(true)).open(path) {
        Ok(file) => return Ok(file),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(from_io(error)),
    }
    let found = fs::symlink_metadata(path).map_err(from_io)?;
    if !found.is_file() {
        return Err(not_a_file(path));
    }
    let file = options.open(path).map_err(from_io)?;
    if !is_same(&file.metadata().map_err(from_io)?, &found) {
        return Err(not_a_file(path));
    }
    Ok(file)
}

/// Refuses links among the files of a store.
pub(crate) fn check_is_no_link(entry: &fs::DirEntry) -> Result<()> {
    if entry.file_type().map_err(from_io)?.is_symlink() {
        return Err(not_a_file(&entry.path()));
    }
    Ok(())
}

fn not_a_file(path: &Path) -> Error {
    Error::invalid_config(format!(
        "{} is a link or something else that is no file of a store: remove it, or name another directory",
        path.display()
    ))
    .with_operation(Operation::Open)
}

#[cfg(unix)]
fn only_for_the_owner(options: &mut OpenOptions) -> &mut OpenOptions {
    use std::os::unix::fs::OpenOptionsExt;
    options.mode(0o600)
}

#[cfg(not(unix))]
fn only_for_the_owner(options: &mut OpenOptions) -> &mut OpenOptions {
    options
}

/// Whether what was opened is what was looked at before.
#[cfg(unix)]
fn is_same(opened: &fs::Metadata, found: &fs::Metadata) -> bool {
    use std::os::unix::fs::MetadataExt;
    (opened.dev(), opened.ino()) == (found.dev(), found.ino())
}

#[cfg(not(unix))]
fn is_same(opened: &fs::Metadata, _: &fs::Metadata) -> bool {
    opened.is_file()
}
