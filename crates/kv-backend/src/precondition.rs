//! Judging a precondition where the store itself sees what is stored.

use kv_core::{Entry, Error, ErrorKind, Precondition, Result};

/// Whether `precondition` holds for what is stored under the key, in the critical section of the
/// write it guards.
///
/// # Errors
///
/// `AlreadyExists`, `NotFound` or `PreconditionFailed`, with the version that was found.
pub fn check_precondition(precondition: &Precondition, stored: Option<&Entry>) -> Result<()> {
    let current = stored.map(|entry| entry.version);
    let held = match precondition {
        Precondition::Any => true,
        Precondition::Absent if stored.is_some() => return Err(ErrorKind::AlreadyExists { current }.into()),
        Precondition::Absent => true,
        Precondition::Present if stored.is_none() => return Err(ErrorKind::NotFound.into()),
        Precondition::Present => true,
        Precondition::At(version) => current == Some(*version),
        Precondition::Value(value) => stored.is_some_and(|entry| entry.value == *value),
        _ => return Err(Error::unsupported("this precondition")),
    };
    if held { Ok(()) } else { Err(ErrorKind::PreconditionFailed { current }.into()) }
}

#[cfg(test)]
mod tests {
    use kv_core::{Bytes, Key, Version};

    use super::*;

    #[test]
    fn each_precondition_is_refused_in_its_own_words() {
        let version = Version::new(7);
        let current = Some(version);
        let entry = Entry::new(Key::new("a").unwrap(), Bytes::new(), version, version);
        let refused = |precondition, stored: Option<&Entry>| {
            check_precondition(&precondition, stored).err().map(|error| error.kind().clone())
        };
        let other = Precondition::At(Version::new(6));
        let empty = || Precondition::Value(Bytes::new());
        for precondition in [Precondition::Any, Precondition::Present, Precondition::At(version), empty()] {
            assert_eq!(refused(precondition, Some(&entry)), None);
        }
        for precondition in [Precondition::Any, Precondition::Absent] {
            assert_eq!(refused(precondition, None), None);
        }
        assert_eq!(refused(Precondition::Absent, Some(&entry)), Some(ErrorKind::AlreadyExists { current }));
        assert_eq!(refused(Precondition::Present, None), Some(ErrorKind::NotFound));
        assert_eq!(refused(other, Some(&entry)), Some(ErrorKind::PreconditionFailed { current }));
        let absent = Some(ErrorKind::PreconditionFailed { current: None });
        assert_eq!(refused(Precondition::At(version), None), absent);
        assert_eq!(refused(empty(), None), absent, "no value is not the empty value");
    }
}
