//! A directory tree as rows: a file is a key, its path below the root the key's name.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::path::Path;

use bytes::Bytes;
use kv_core::{Key, Prefix};
use walkdir::{DirEntry, WalkDir};

use super::{Emit, LeftOut, Row};
use crate::exit::Failure;

/// Reads every file below `root`, in order of name. Links are left out unless they are followed; what
/// cannot become a key is refused by name, and the rest goes on.
pub(super) fn read(
    root: &Path,
    follow: bool,
    below: &Prefix,
    max_value: usize,
    emit: Emit<'_>,
) -> Result<(), Failure> {
    for found in WalkDir::new(root).min_depth(1).follow_links(follow).sort_by_file_name() {
        let row = match found {
            Ok(entry) if entry.file_type().is_dir() => continue,
            Ok(entry) => row(root, &entry, follow, below, max_value),
            Err(error) => {
                let name = error.path().map_or_else(|| shown(root), |path| relative(root, path));
                match error.io_error() {
                    // A link to a directory that it lies in.
                    None => Row::LeftOut { name, what: LeftOut::DeadLink },
                    Some(_) if error.path().is_some_and(is_dead_link) => {
                        Row::LeftOut { name, what: LeftOut::DeadLink }
                    }
                    Some(why) => Row::refused(name, unreadable(why)),
                }
            }
        };
        emit(row)?;
    }
    Ok(())
}

/// Whether this is a link to nothing, or to itself.
fn is_dead_link(path: &Path) -> bool {
    path.is_symlink()
        && std::fs::metadata(path).is_err_and(|error| {
            // In a circle of links the system says that there are too many.
            error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(TOO_MANY_LINKS)
        })
}

#[cfg(unix)]
const TOO_MANY_LINKS: i32 = nix::libc::ELOOP;
/// No code of a system without links.
#[cfg(not(unix))]
const TOO_MANY_LINKS: i32 = i32::MIN;

fn row(root: &Path, entry: &DirEntry, follow: bool, below: &Prefix, max_value: usize) -> Row {
    let name = relative(root, entry.path());
    let kind = entry.file_type();
    if kind.is_symlink() {
        return Row::LeftOut { name, what: LeftOut::Link };
    }
    if !kind.is_file() {
        return Row::LeftOut { name, what: LeftOut::Special };
    }
    match key(root, entry, below).and_then(|key| Ok((key, contents(entry.path(), follow, max_value)?))) {
        Ok((key, value)) => Row::entry(key, value),
        Err(why) => Row::refused(name, why),
    }
}

fn key(root: &Path, entry: &DirEntry, below: &Prefix) -> Result<Key, String> {
    let path = entry.path().strip_prefix(root).unwrap_or(entry.path());
    let name = path.to_str().ok_or("the name is not UTF-8")?;
    #[cfg(windows)]
    let name = &name.replace('\\', "/");
    below.join(name).map_err(|error| error.kind().to_string())
}

fn contents(path: &Path, follow: bool, max_value: usize) -> Result<Bytes, String> {
    let refuse = |error: io::Error| unreadable(&error);
    let file = open(path, follow).map_err(refuse)?;
    let meta = file.metadata().map_err(refuse)?;
    if !meta.is_file() {
        return Err("not a regular file".to_owned());
    }
    let too_large = |size: u64| format!("too large: {size} bytes, the limit is {max_value}");
    if meta.len() > max_value as u64 {
        return Err(too_large(meta.len()));
    }
    let mut bytes = Vec::new();
    // It may have grown, and the files of some file systems say that they are empty.
    file.take((max_value as u64).saturating_add(1)).read_to_end(&mut bytes).map_err(refuse)?;
    if bytes.len() > max_value {
        return Err(too_large(bytes.len() as u64));
    }
    Ok(bytes.into())
}

/// Opens a file without waiting for what may have taken its place by now, or following it unless
/// links are followed.
fn open(path: &Path, follow: bool) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::custom_flags(
        &mut options,
        nix::libc::O_NONBLOCK | if follow { 0 } else { nix::libc::O_NOFOLLOW },
    );
    options.open(path)
}

fn unreadable(error: &io::Error) -> String {
    format!("cannot be read: {error}")
}

fn relative(root: &Path, path: &Path) -> String {
    shown(path.strip_prefix(root).unwrap_or(path))
}

/// A path as it can be shown on a terminal.
fn shown(path: &Path) -> String {
    format!("{path:?}")
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn rows(root: &Path, max_value: usize) -> Vec<Row> {
        rows_of(root, false, max_value)
    }

    fn rows_of(root: &Path, follow: bool, max_value: usize) -> Vec<Row> {
        let mut rows = Vec::new();
        let below = Prefix::new("at").unwrap();
        read(root, follow, &below, max_value, &mut |row| {
            rows.push(row);
            Ok(())
        })
        .unwrap();
        rows
    }

    fn entry(key: &str, value: &[u8]) -> Row {
        Row::entry(Key::new(key).unwrap(), Bytes::copy_from_slice(value))
    }

    #[test]
    fn files_become_keys_in_order() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("b/c")).unwrap();
        fs::create_dir(root.path().join("empty")).unwrap();
        fs::write(root.path().join("b/c/d e%20?"), [0, 255]).unwrap();
        fs::write(root.path().join("a"), "").unwrap();
        assert_eq!(rows(root.path(), 10), [entry("at/a", b""), entry("at/b/c/d e%20?", &[0, 255])]);
    }

    #[test]
    fn a_file_at_the_limit_goes_and_one_above_does_not() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("fits"), "1234").unwrap();
        fs::write(root.path().join("large"), "12345").unwrap();
        let refused = Row::refused("\"large\"", "too large: 5 bytes, the limit is 4");
        assert_eq!(rows(root.path(), 4), [entry("at/fits", b"1234"), refused]);
    }

    #[cfg(unix)]
    #[test]
    fn what_is_no_key_is_refused_by_name() {
        use std::os::unix::ffi::OsStrExt;

        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("line\nend"), "").unwrap();
        fs::write(root.path().join("emoji😀"), "").unwrap();
        fs::write(root.path().join(std::ffi::OsStr::from_bytes(b"latin\xe9")), "").unwrap();
        let refused: Vec<_> = rows(root.path(), 10)
            .into_iter()
            .map(|row| match row {
                Row::Refused { name, why } => (name, why),
                other => panic!("{other:?}"),
            })
            .collect();
        let names: Vec<_> = refused.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["\"emoji😀\"", "\"latin\\xE9\"", "\"line\\nend\""]);
        for ((_, why), part) in refused.iter().zip(["U+1F600", "not UTF-8", "U+000A"]) {
            assert!(why.contains(part), "{why}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn links_are_left_out_or_followed() {
        use std::os::unix::fs::symlink;

        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("sub")).unwrap();
        fs::write(root.path().join("sub/file"), "x").unwrap();
        for (to, name) in [("sub/file", "a"), ("sub", "b"), ("nowhere", "c"), ("..", "sub/d"), ("e", "e")] {
            symlink(to, root.path().join(name)).unwrap();
        }
        let _socket = std::os::unix::net::UnixListener::bind(root.path().join("socket")).unwrap();
        let left = |name: &str, what| Row::LeftOut { name: format!("{name:?}"), what };
        assert_eq!(
            rows(root.path(), 10),
            [
                left("a", LeftOut::Link),
                left("b", LeftOut::Link),
                left("c", LeftOut::Link),
                left("e", LeftOut::Link),
                left("socket", LeftOut::Special),
                left("sub/d", LeftOut::Link),
                entry("at/sub/file", b"x"),
            ]
        );
        let followed = rows_of(root.path(), true, 10);
        let keys: Vec<_> = followed.iter().filter(|row| matches!(row, Row::Entry { .. })).collect();
        assert_eq!(keys, [&entry("at/a", b"x"), &entry("at/b/file", b"x"), &entry("at/sub/file", b"x")]);
        let dead = followed.iter().filter(|row| matches!(row, Row::LeftOut { what: LeftOut::DeadLink, .. }));
        let dead: Vec<_> = dead.collect();
        assert_eq!(
            dead,
            [
                &left("b/d", LeftOut::DeadLink),
                &left("c", LeftOut::DeadLink),
                &left("e", LeftOut::DeadLink),
                &left("sub/d", LeftOut::DeadLink),
            ]
        );
        assert_eq!(followed.len(), keys.len() + dead.len() + 1, "{followed:?}");
    }
}
