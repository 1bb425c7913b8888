//! What a node's access control list tells beyond access: that it has a time to live, and when the
//! key came to be where the node is older.
//!
//! ZooKeeper hides both: a TTL node looks like any other, and a parent that becomes a key keeps the
//! creation of the parent. The list is set in the same step as the node, is read in one request with
//! the node's state, and leaves the data raw. A mark grants nothing: it has no permissions.

use std::time::Duration;

use crate::session::{ALL_PERMISSIONS, AclEntry};

const TTL: &str = "kv-ttl.";
const CREATED: &str = "kv-created.";

/// What a list says of its node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Marks {
    /// The time to live the node was created with.
    pub(crate) ttl: Option<Duration>,
    /// The transaction by which an implicit parent became a key.
    pub(crate) created: Option<i64>,
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

/// The same list, saying when the key came to be.
pub(crate) fn with_created(mut acl: Vec<AclEntry>, zxid: i64) -> Vec<AclEntry> {
    acl.retain(|entry| !(entry.scheme == "digest" && entry.id.starts_with(CREATED)));
    acl.push(mark(CREATED, zxid));
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
        let acl = with_created(Access::Creator.acl_with_ttl(Duration::from_millis(1500)), 7);
        assert_eq!(Marks::read(&acl), Marks { ttl: Some(Duration::from_millis(1500)), created: Some(7) });
        let again = with_created(acl, 9);
        assert_eq!(Marks::read(&again).created, Some(9));
        assert_eq!(again.iter().filter(|entry| entry.id.starts_with(CREATED)).count(), 1);
        let foreign = AclEntry { permissions: 1, scheme: "digest".to_owned(), id: "kv-ttl.x:y".to_owned() };
        assert_eq!(Marks::read(&[foreign]), Marks::default());
    }
}
