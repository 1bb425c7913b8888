//! Keys as Consul names them, which names are not entries, and names in URLs.

use kv_backend::Namespace;
use kv_core::{Error, ErrorKind, Key, Prefix, Result, WatchTarget};

use crate::config::LockLayout;

/// Flags of a key that Consul's own lock made.
pub(crate) const LOCK_FLAG: u64 = 3_304_740_253_564_472_344;

/// Flags of the keys of a semaphore, which `consul lock -n 2` makes.
pub(crate) const SEMAPHORE_FLAG: u64 = 16_210_313_421_097_356_768;

/// The last segment of a lock's record, as `consul lock` names it.
const RECORD: &str = ".lock";

/// How the keys of one store lie in Consul's key space.
#[derive(Clone, Debug)]
pub(crate) struct Names {
    namespace: Namespace,
    layout: LockLayout,
}

impl Names {
    /// The keys below `namespace`, with lock records laid out so.
    pub(crate) fn new(namespace: &Prefix, layout: LockLayout) -> Result<Self> {
        Ok(Self { namespace: Namespace::new(namespace)?, layout })
    }

    /// The native name of a key.
    pub(crate) fn native(&self, key: &Key) -> String {
        self.namespace.native(key)
    }

    /// What the native names below `prefix` begin with.
    pub(crate) fn native_prefix(&self, prefix: &Prefix) -> String {
        self.namespace.native_prefix(prefix)
    }

    /// The native names a watch is about.
    ///
    /// # Errors
    ///
    /// `Unsupported` for a target that this crate does not know.
    pub(crate) fn scope(&self, target: &WatchTarget) -> Result<Scope> {
        Ok(match target {
            WatchTarget::Key(key) => Scope::Key(self.native(key)),
            WatchTarget::Prefix(prefix) => Scope::Tree(self.native_prefix(prefix)),
            WatchTarget::Tree(key) => Scope::Branch(self.native(key)),
            _ => return Err(Error::unsupported("this kind of watch target")),
        })
    }

    /// The key of an entry; `None` for lock records and for foreign names that are no keys.
    pub(crate) fn entry(&self, native: &str, flags: u64) -> Option<Key> {
        if flags == SEMAPHORE_FLAG || (self.locks_keys() && flags == LOCK_FLAG) {
            return None;
        }
        self.namespace.key(native).filter(|key| key.name() != RECORD)
    }

    /// Whether names alone tell records from entries.
    pub(crate) fn names_tell_records(&self) -> bool {
        !self.locks_keys()
    }

    /// Refuses a key that can only be the record of a lock.
    pub(crate) fn check_writable(&self, key: &Key) -> Result<()> {
        if key.name() == RECORD {
            return Err(is_record(key, "names ending in \"/.lock\" are the records of locks on Consul"));
        }
        Ok(())
    }

    /// The native name of the record of the lock `key`.
    pub(crate) fn lock_record(&self, key: &Key) -> String {
        let native = self.native(key);
        if self.locks_keys() { native } else { format!("{native}/{RECORD}") }
    }

    /// The name of the lock whose record has this native name; `None` if it is none of ours.
    pub(crate) fn lock(&self, native: &str) -> Option<Key> {
        if self.locks_keys() {
            return self.namespace.key(native).filter(|key| key.name() != RECORD);
        }
        self.namespace.key(native.strip_suffix(RECORD)?.strip_suffix('/')?)
    }

    /// Whether the lock `k` is taken on the key `k` itself.
    pub(crate) fn locks_keys(&self) -> bool {
        self.layout == LockLayout::Key
    }
}

/// The refusal of a write to a lock's record.
pub(crate) fn is_record(key: &Key, why: &str) -> Error {
    Error::new(ErrorKind::InvalidKey { reason: why.to_owned() }).with_key(key.as_str())
}

/// A part of Consul's key space one query can read.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Scope {
    /// One native name.
    Key(String),
    /// Every native name that begins so; empty, or ending in a slash.
    Tree(String),
    /// One native name and every name below it.
    Branch(String),
}

impl Scope {
    /// The native name or what the names begin with.
    pub(crate) fn text(&self) -> &str {
        match self {
            Self::Key(text) | Self::Tree(text) | Self::Branch(text) => text,
        }
    }

    /// Whether a native name lies within.
    pub(crate) fn contains(&self, native: &str) -> bool {
        match self {
            Self::Key(own) => own == native,
            Self::Tree(start) => native.starts_with(start.as_str()),
            Self::Branch(own) => {
                native.strip_prefix(own.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            }
        }
    }

    /// What Consul is asked for: it knows no branches, only all names that begin with a text.
    pub(crate) fn asked(&self) -> Self {
        match self {
            Self::Branch(own) => Self::Tree(own.clone()),
            own => own.clone(),
        }
    }

    /// The name on which a token needs the right to read the scope.
    pub(crate) fn right(&self) -> String {
        match self {
            Self::Branch(own) => format!("{own}/"),
            own => own.text().to_owned(),
        }
    }

    /// Whether all of `other` lies within.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Key(own), Self::Key(other)) => own == other,
            (Self::Key(_), Self::Tree(_) | Self::Branch(_)) => false,
            (Self::Branch(_), other) => self.contains(other.text().trim_end_matches('/')),
            (Self::Tree(start), other) => other.text().starts_with(start.as_str()),
        }
    }

    /// A name nobody uses, within the scope or below it, where a token that may read the scope may read
    /// too. The index of its absence is that of the whole key space.
    pub(crate) fn absent(&self) -> Self {
        match self {
            Self::Key(own) | Self::Branch(own) => Self::Key(format!("{own}/.kv-absent")),
            Self::Tree(start) => Self::Key(format!("{start}.kv-absent")),
        }
    }

    /// The tree one level up.
    fn parent(&self) -> Self {
        let path = self.text().trim_end_matches('/');
        Self::Tree(path.rfind('/').map_or("", |at| &path[..=at]).to_owned())
    }

    /// The smallest tree that covers both.
    pub(crate) fn common(&self, other: &Self) -> Self {
        let mut tree = match self {
            Self::Key(_) => self.parent(),
            Self::Tree(_) | Self::Branch(_) => self.clone(),
        };
        while !tree.covers(other) {
            tree = tree.parent();
        }
        tree
    }

    /// The smallest scope around this one whose name every Consul accepts in a URL.
    ///
    /// From 1.21 on a server may refuse names with other characters than these, or with traversal
    /// and spaces at the edges, in URLs only.
    pub(crate) fn accepted(&self) -> Self {
        let plain = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b',' | b'_' | b'.' | b'/' | b'-');
        let mut scope = self.clone();
        while !scope.text().bytes().all(plain) {
            scope = scope.parent();
        }
        scope
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(layout: LockLayout) -> Names {
        Names::new(&Prefix::new("app").unwrap(), layout).unwrap()
    }

    #[test]
    fn records_are_no_entries() {
        let ours = names(LockLayout::Record);
        assert_eq!(ours.entry("app/a", 5), Some(Key::new("a").unwrap()));
        assert_eq!(ours.entry("app/a/.lock", LOCK_FLAG), None);
        assert_eq!(ours.entry("app/a/0123", SEMAPHORE_FLAG), None);
        assert_eq!(ours.entry("app/leader", LOCK_FLAG), Some(Key::new("leader").unwrap()));
        assert_eq!(names(LockLayout::Key).entry("app/leader", LOCK_FLAG), None);
        for foreign in ["app/", "app/dir/", "apple/a", "app//a"] {
            assert_eq!(ours.entry(foreign, 0), None, "{foreign}");
        }
    }

    #[test]
    fn the_record_lies_where_the_native_tool_puts_it() {
        let key = Key::new("jobs/nightly").unwrap();
        assert_eq!(names(LockLayout::Record).lock_record(&key), "app/jobs/nightly/.lock");
        assert_eq!(names(LockLayout::Key).lock_record(&key), "app/jobs/nightly");
        assert_eq!(names(LockLayout::Record).lock("app/jobs/nightly/.lock"), Some(key.clone()));
        assert_eq!(names(LockLayout::Key).lock("app/jobs/nightly"), Some(key.clone()));
        for other in ["app/jobs/nightly", "app/.lock", "app/a.lock", "apple/a/.lock", "app/a//.lock"] {
            assert_eq!(names(LockLayout::Record).lock(other), None, "{other}");
        }
        let record = Key::new("jobs/.lock").unwrap();
        assert!(names(LockLayout::Record).check_writable(&record).is_err());
        assert!(names(LockLayout::Record).check_writable(&key).is_ok());
    }

    #[test]
    fn common_scopes_end_at_a_path_boundary() {
        let key = |text: &str| Scope::Key(text.into());
        let tree = |text: &str| Scope::Tree(text.into());
        assert_eq!(key("a/b/c").common(&key("a/b/d")), tree("a/b/"));
        assert_eq!(key("a/bc").common(&key("a/bd")), tree("a/"));
        assert_eq!(tree("a/b/").common(&key("a/b/c/d")), tree("a/b/"));
        assert_eq!(key("a/b").common(&tree("a/b/")), tree("a/"));
        assert_eq!(key("a").common(&key("b")), tree(""));
        assert!(tree("a/").covers(&key("a/b")) && !tree("a/").covers(&key("ab")));
        assert!(tree("").covers(&tree("x/")) && !key("a").covers(&tree("a/")));
        let branch = |text: &str| Scope::Branch(text.into());
        assert!(branch("a").covers(&key("a")) && branch("a").covers(&tree("a/")));
        assert!(branch("a").covers(&branch("a/b")) && !branch("a").covers(&key("a-b")));
        assert!(!branch("a").covers(&tree("")) && !tree("a/").covers(&branch("a")));
        assert!(!key("a").covers(&branch("a")) && tree("").covers(&branch("a")));
        assert_eq!(branch("a/b").common(&key("a/b/c")), branch("a/b"));
        assert_eq!(branch("a/b").common(&key("a/c")), tree("a/"));
    }

    #[test]
    fn refused_names_fall_back_to_an_ancestor() {
        assert_eq!(Scope::Key("app/a b/c".into()).accepted(), Scope::Tree("app/".into()));
        assert_eq!(Scope::Tree("app/ü/x/".into()).accepted(), Scope::Tree("app/".into()));
        assert_eq!(Scope::Key("ü".into()).accepted(), Scope::Tree(String::new()));
        assert_eq!(Scope::Key("app/x-1.y".into()).accepted(), Scope::Key("app/x-1.y".into()));
    }
}
