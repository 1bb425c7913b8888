//! How keys are znodes: paths, the marker of implicit parents, and names that are no keys.

use bytes::Bytes;
use kv_core::{Error, ErrorKind, Key, Prefix, Result};

/// The data of a node that is there only because keys lie below it. It is no entry.
///
/// Distinctive, and readable in `zkCli.sh`. As a value it is refused.
pub(crate) const MARKER: &[u8] = b"\0kv: no entry, only a parent\0";

/// Whether a node with this data is an implicit parent.
pub(crate) fn is_marker(data: &[u8]) -> bool {
    data == MARKER
}

/// Whether a node whose data is this long can be an implicit parent.
pub(crate) fn may_be_marker(data_length: i32) -> bool {
    usize::try_from(data_length).is_ok_and(|length| length == MARKER.len())
}

/// Refuses a value that would read as an implicit parent.
pub(crate) fn check_value(key: &Key, value: &Bytes) -> Result<()> {
    if is_marker(value) {
        return Err(Error::new(ErrorKind::InvalidValue {
            reason: "these very bytes mark a parent without an entry on ZooKeeper".to_owned(),
        })
        .with_key(key.as_str()));
    }
    Ok(())
}

/// The sequence number of a lock's record, if `name` is one: Curator's `…lock-0000000007`, kazoo's
/// `…__lock__0000000007`. The server's counter is signed and may wrap.
pub(crate) fn lock_sequence(name: &str) -> Option<i32> {
    let digits_from = name.len().checked_sub(10)?;
    let digits = name.get(digits_from..)?;
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let rest = name.get(..digits_from)?;
    let (rest, sign) = match rest.strip_suffix('-') {
        // `lock-` itself ends in a dash; a sign is a second one.
        Some(before) if before.ends_with("lock-") || before.ends_with("__lock__") => (before, "-"),
        _ => (rest, ""),
    };
    if !(rest.ends_with("lock-") || rest.ends_with("__lock__")) {
        return None;
    }
    format!("{sign}{digits}").parse().ok()
}

const PIN: &str = "~kv-pin-";

/// The longest key.
const LONGEST_KEY: usize = 512;

/// A new name of a node that keeps the one above it in its place for a moment. It is too long for a
/// key, and comes after every record of a lock.
pub(crate) fn pin_name() -> String {
    format!("{PIN}{}{}", uuid::Uuid::new_v4(), "-".repeat(LONGEST_KEY))
}

/// Whether it is such a name.
pub(crate) fn is_pin(name: &str) -> bool {
    name.len() > LONGEST_KEY && name.starts_with(PIN)
}

/// The node below `parent` with this name.
pub(crate) fn child(parent: &str, name: &str) -> String {
    if parent == "/" { format!("/{name}") } else { format!("{parent}/{name}") }
}

/// The node above `path`; `None` for the root.
pub(crate) fn parent(path: &str) -> Option<&str> {
    match path.rfind('/')? {
        0 if path.len() > 1 => Some("/"),
        0 => None,
        at => path.get(..at),
    }
}

/// The last segment of a path.
pub(crate) fn name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// Where the keys of one store handle lie.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    /// Empty, or `/app`.
    root: String,
}

impl Layout {
    pub(crate) fn new(namespace: &Prefix) -> Result<Self> {
        namespace.check_namespace()?;
        if namespace.as_str().split('/').next() == Some("zookeeper") {
            return Err(reserved(namespace.as_str()));
        }
        let root = if namespace.is_root() { String::new() } else { format!("/{namespace}") };
        Ok(Self { root })
    }

    /// The node all keys lie below.
    pub(crate) fn root(&self) -> &str {
        if self.root.is_empty() { "/" } else { &self.root }
    }

    /// The node of a key. Every key has one; [`check_writable`](Self::check_writable) says which of
    /// them may be written.
    pub(crate) fn path(&self, key: &Key) -> String {
        format!("{}/{key}", self.root)
    }

    /// The node the keys of a prefix lie below.
    pub(crate) fn prefix_path(&self, prefix: &Prefix) -> String {
        if prefix.is_root() { self.root().to_owned() } else { format!("{}/{prefix}", self.root) }
    }

    /// The key of a node; `None` for nodes that are no keys: the root, foreign names that are not
    /// canonical, lock records and ZooKeeper's own tree.
    pub(crate) fn key(&self, path: &str) -> Option<Key> {
        let key = Key::from_canonical(path.strip_prefix(&self.root)?.strip_prefix('/')?)?;
        (!self.is_reserved(&key) && lock_record(&key).is_none()).then_some(key)
    }

    /// A node as people know it, also where it is no key: its path below the namespace.
    pub(crate) fn shown<'a>(&self, path: &'a str) -> &'a str {
        path.strip_prefix(&self.root).unwrap_or(path).trim_start_matches('/')
    }

    /// Whether the keys below this prefix are out of reach.
    pub(crate) fn is_reserved_prefix(&self, prefix: &Prefix) -> bool {
        self.root.is_empty() && prefix.as_str().split('/').next() == Some("zookeeper")
    }

    fn is_reserved(&self, key: &Key) -> bool {
        self.root.is_empty() && key.segments().next() == Some("zookeeper")
    }

    /// Whether a key can have an entry here; reading another one finds nothing.
    pub(crate) fn is_readable(&self, key: &Key) -> bool {
        !self.is_reserved(key) && lock_record(key).is_none()
    }

    /// Refuses keys that may not be written.
    pub(crate) fn check_writable(&self, key: &Key) -> Result<()> {
        if self.is_reserved(key) {
            return Err(reserved(key.as_str()));
        }
        if let Some(segment) = lock_record(key) {
            return Err(Error::new(ErrorKind::InvalidKey {
                reason: format!("the segment {segment:?} is the name of a lock's record on ZooKeeper"),
            })
            .with_key(key.as_str()));
        }
        Ok(())
    }
}

fn lock_record(key: &Key) -> Option<&str> {
    key.segments().find(|segment| lock_sequence(segment).is_some())
}

fn reserved(name: &str) -> Error {
    Error::new(ErrorKind::InvalidKey {
        reason: "\"zookeeper\" at the top is the server's own; open the store with a namespace".to_owned(),
    })
    .with_key(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lock_records_of_both_layouts_are_known() {
        for (name, sequence) in [
            ("_c_0ab3-lock-0000000007", Some(7)),
            ("0ab3__lock__0000000012", Some(12)),
            ("x-lock--2147483648", Some(i32::MIN)),
            ("x__lock__-0000000001", Some(-1)),
            ("lock-0000000000", Some(0)),
            ("lock-000000000", None),
            ("lock-00000000000", None),
            ("latch-0000000001", None),
            ("lock", None),
            ("lock-ü000000001", None),
        ] {
            assert_eq!(lock_sequence(name), sequence, "{name}");
        }
    }

    #[test]
    fn keys_round_trip_and_other_nodes_are_none() {
        for namespace in ["", "app", "app/x"] {
            let layout = Layout::new(&Prefix::new(namespace).unwrap()).unwrap();
            for text in ["a", "a/b", "a b", "a%20b", "ü", "a/zookeeper"] {
                let key = Key::new(text).unwrap();
                assert_eq!(layout.key(&layout.path(&key)), Some(key));
            }
            assert_eq!(layout.key(layout.root()), None);
            assert_eq!(layout.key(&child(layout.root(), "a/x-lock-0000000001")), None);
            assert_eq!(layout.key(&child(layout.root(), "\u{1}")), None);
            assert_eq!(layout.key(&child(layout.root(), &pin_name())), None);
            assert!(is_pin(&pin_name()) && lock_sequence(&pin_name()).is_none());
        }
        let top = Layout::new(&Prefix::root()).unwrap();
        assert_eq!(top.key("/zookeeper/config"), None);
        assert!(top.check_writable(&Key::new("zookeeper/x").unwrap()).is_err());
        assert!(Layout::new(&Prefix::new("zookeeper/x").unwrap()).is_err());
        let app = Layout::new(&Prefix::new("app").unwrap()).unwrap();
        assert_eq!(app.key("/apple/a"), None);
        assert!(app.check_writable(&Key::new("zookeeper").unwrap()).is_ok());
        assert!(app.check_writable(&Key::new("a/x-lock-0000000001/b").unwrap()).is_err());
    }

    #[test]
    fn parents() {
        assert_eq!(parent("/a/b"), Some("/a"));
        assert_eq!(parent("/a"), Some("/"));
        assert_eq!(parent("/"), None);
        assert_eq!(child("/", "a"), "/a");
        assert_eq!(name("/a/b"), "b");
    }
}
