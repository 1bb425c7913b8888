//! What a node's access control list tells beyond access: that it has a time to live, when the key came
//! to be where the node is older, and that an empty node is an entry of ours.
//!
//! ZooKeeper hides both: a TTL node looks like any other, and a parent that becomes a key keeps the
//! creation of the parent. The list is set in the same step as the node, is read in one request with
//! the node's state, and leaves the data raw. A mark grants nothing: it has no permissions.

use std::time::Duration;

use crate::client::wire::{ALL_PERMISSIONS, AclEntry};

const TTL: &str = "kv-ttl.";
const CREATED: &str = "kv-created.";
const MADE: &str = "kv-made.";
const VALUE: &str = "kv-value.";

/// What a list says of its node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Marks {
    /// The time to live the node was created with.
    pub(crate) ttl: Option<Duration>,
    /// The transaction by which an implicit parent became a key.
    pub(crate) created: Option<i64>,
    /// The version of the node's data whose set makes a key of an implicit parent. Noted before that
    /// set, and replaced by its transaction before the next one.
    pub(crate) made: Option<i32>,
    /// The node was created with an empty value, and is no other program's container.
    pub(crate) value: bool,
}

impl Marks {
    pub(crate) fn read(acl: &[AclEntry]) -> Self {
        let number = |kind: &str| {
            acl.iter()
                .filter(|entry| entry.scheme == "digest")
                .find_map(|entry| entry.id.strip_prefix(kind)?.split(':').next()?.parse::<u64>().ok())
        };
        Self {
            ttl: number(TTL).map(Duration::from_millis),
            created: number(CREATED).and_then(|zxid| i64::try_from(zxid).ok()),
            made: number(MADE).and_then(|version| i32::try_from(version).ok()),
            value: number(VALUE).is_some(),
        }
    }
}

/// Who may do what with the nodes this handle creates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Anybody everything: there are no credentials.
    Anyone,
    /// The credentials of this session everything, others nothing.
    Creator,
}

impl Access {
    pub(crate) fn acl(self) -> Vec<AclEntry> {
        let (scheme, id) = match self {
            Self::Anyone => ("world", "anyone"),
            Self::Creator => ("auth", ""),
        };
        vec![AclEntry { permissions: ALL_PERMISSIONS, scheme: scheme.to_owned(), id: id.to_owned() }]
    }

    pub(crate) fn acl_with_ttl(self, ttl: Duration) -> Vec<AclEntry> {
        let mut acl = self.acl();
        acl.push(mark(TTL, ttl.as_millis()));
        acl
    }
}

/// The same list, saying that the node is created with an empty value.
pub(crate) fn with_empty_value(mut acl: Vec<AclEntry>) -> Vec<AclEntry> {
    acl.push(mark(VALUE, 0));
    acl
}

/// The same list, saying when the key came to be that the data's version `made` made, if not how.
pub(crate) fn with_created(acl: Vec<AclEntry>, zxid: i64, made: Option<i32>) -> Vec<AclEntry> {
    // A later set may have been noted meanwhile.
    let keeps = Marks::read(&acl).made.filter(|noted| Some(*noted) != made);
    let mut acl = without(without(acl, CREATED), MADE);
    acl.push(mark(CREATED, zxid));
    acl.extend(keeps.map(|version| mark(MADE, version)));
    acl
}

/// The same list, saying that the set that brings the data to this version makes a key.
pub(crate) fn with_made(acl: Vec<AclEntry>, version: i32) -> Vec<AclEntry> {
    let mut acl = without(acl, MADE);
    acl.push(mark(MADE, version));
    acl
}

fn without(mut acl: Vec<AclEntry>, kind: &str) -> Vec<AclEntry> {
    acl.retain(|entry| !(entry.scheme == "digest" && entry.id.starts_with(kind)));
    acl
}

fn mark(kind: &str, number: impl std::fmt::Display) -> AclEntry {
    // The server shows the part behind the colon as `x` to whom it hides passwords.
    AclEntry { permissions: 0, scheme: "digest".to_owned(), id: format!("{kind}{number}:x") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_read_back_and_foreign_entries_are_not_marks() {
        assert_eq!(Marks::read(&Access::Anyone.acl()), Marks::default());
        let acl = with_created(Access::Creator.acl_with_ttl(Duration::from_millis(1500)), 7, None);
        assert_eq!(
            Marks::read(&acl),
            Marks { ttl: Some(Duration::from_millis(1500)), created: Some(7), ..Marks::default() }
        );
        let empty = with_created(with_empty_value(Access::Anyone.acl()), 8, None);
        assert_eq!(Marks::read(&empty), Marks { created: Some(8), value: true, ..Marks::default() });
        let made = with_made(with_made(empty, 2), 4);
        assert_eq!(Marks::read(&made).made, Some(4));
        assert_eq!(Marks::read(&with_created(made.clone(), 9, Some(2))).made, Some(4), "it came later");
        assert_eq!(Marks::read(&with_created(made, 9, Some(4))).made, None);
        let again = with_created(acl, 9, None);
        assert_eq!(Marks::read(&again).created, Some(9));
        assert_eq!(again.iter().filter(|entry| entry.id.starts_with(CREATED)).count(), 1);
        let foreign = AclEntry { permissions: 1, scheme: "digest".to_owned(), id: "kv-ttl.x:y".to_owned() };
        assert_eq!(Marks::read(&[foreign]), Marks::default());
    }
}
