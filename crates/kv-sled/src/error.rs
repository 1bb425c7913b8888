//! What sled and the file system fail with, as errors of the API. One total function each.

use std::io;

use kv_core::{Error, ErrorKind};

/// A failure of sled.
pub(crate) fn from_sled(error: sled::Error) -> Error {
    let kind = match &error {
        sled::Error::Io(error) => return of_io(error).with_source(copy(error)),
        // Said of pages that are not where they should be, of a settings file that makes no sense
        // and of a tree that is not there: all of them files that are not what was written.
        sled::Error::Corruption { .. }
        | sled::Error::ReportableBug(_)
        | sled::Error::Unsupported(_)
        | sled::Error::CollectionNotFound(_) => ErrorKind::Corrupt,
    };
    Error::new(kind).with_source(error)
}

/// A failure of the file system.
pub(crate) fn from_io(error: io::Error) -> Error {
    of_io(&error).with_source(error)
}

fn of_io(error: &io::Error) -> Error {
    // EIO has no kind of its own.
    const EIO: i32 = 5;
    if Error::out_of_files(error).is_some() {
        // Whether something was written before is for the caller to say.
        return Error::new(ErrorKind::Unavailable).with_detail(Error::OUT_OF_FILES);
    }
    Error::new(match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            ErrorKind::NoSpace
        }
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => ErrorKind::PermissionDenied,
        // What should be in a file is not.
        io::ErrorKind::UnexpectedEof | io::ErrorKind::NotFound | io::ErrorKind::InvalidData => {
            ErrorKind::Corrupt
        }
        _ if cfg!(unix) && error.raw_os_error() == Some(EIO) => ErrorKind::Corrupt,
        _ => ErrorKind::Unavailable,
    })
}

fn copy(error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_failure_has_its_kind() {
        let io = |kind| sled::Error::Io(io::Error::from(kind));
        for (error, kind) in [
            (io(io::ErrorKind::StorageFull), ErrorKind::NoSpace),
            (io(io::ErrorKind::QuotaExceeded), ErrorKind::NoSpace),
            (io(io::ErrorKind::PermissionDenied), ErrorKind::PermissionDenied),
            (io(io::ErrorKind::ReadOnlyFilesystem), ErrorKind::PermissionDenied),
            (io(io::ErrorKind::UnexpectedEof), ErrorKind::Corrupt),
            (io(io::ErrorKind::Interrupted), ErrorKind::Unavailable),
            (sled::Error::Io(io::Error::from_raw_os_error(24)), ErrorKind::Unavailable),
            (sled::Error::Io(io::Error::from_raw_os_error(28)), ErrorKind::NoSpace),
            (sled::Error::Io(io::Error::from_raw_os_error(5)), ErrorKind::Corrupt),
            (sled::Error::Corruption { at: None, bt: () }, ErrorKind::Corrupt),
            (sled::Error::ReportableBug("x".to_owned()), ErrorKind::Corrupt),
            (sled::Error::Unsupported("x".to_owned()), ErrorKind::Corrupt),
        ] {
            let text = error.to_string();
            let error = from_sled(error);
            assert_eq!(error.kind(), &kind, "{text}");
            assert!(std::error::Error::source(&error).is_some());
        }
    }
}
