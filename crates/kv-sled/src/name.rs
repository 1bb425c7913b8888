//! Names: a key together with the namespace it was given in, and the ranges names lie in.

use std::collections::HashMap;
use std::fmt;
use std::ops::Bound;
use std::sync::Arc;

use kv_backend::Namespace;
use kv_core::{Key, Prefix, Result};

use crate::record::{corrupt, space};

/// A key as a handle knows it and as the tree does.
#[derive(Clone)]
pub(crate) struct Name {
    pub(crate) namespace: Arc<Namespace>,
    pub(crate) key: Key,
    pub(crate) native: Arc<str>,
}

impl Name {
    pub(crate) fn new(namespace: &Arc<Namespace>, key: &Key) -> Self {
        Self { namespace: Arc::clone(namespace), key: key.clone(), native: namespace.native(key).into() }
    }

    /// How many bytes of the native name are the namespace: what is stored to take it apart again.
    pub(crate) fn namespace_len(&self) -> u16 {
        u16::try_from(self.namespace.path().len()).unwrap_or(u16::MAX)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.native, f)
    }
}

/// The namespaces seen so far, to take stored names apart.
#[derive(Debug, Default)]
pub(crate) struct Namespaces(HashMap<String, Arc<Namespace>>);

impl Namespaces {
    /// The name stored as `native`, of which `namespace_len` bytes are the namespace.
    pub(crate) fn name(&mut self, native: &str, namespace_len: u16) -> Result<Name> {
        let path = native.get(..usize::from(namespace_len)).ok_or_else(|| wrong(native))?;
        let namespace = match self.0.get(path) {
            Some(namespace) => Arc::clone(namespace),
            None => {
                let prefix = Prefix::new(path).map_err(|_| wrong(native))?;
                let namespace = Arc::new(Namespace::new(&prefix).map_err(|_| wrong(native))?);
                self.0.insert(path.to_owned(), Arc::clone(&namespace));
                namespace
            }
        };
        let key = namespace.key(native).ok_or_else(|| wrong(native))?;
        Ok(Name { namespace, key, native: native.into() })
    }
}

fn wrong(native: &str) -> kv_core::Error {
    corrupt(format!("the stored name {native:?} is no key"))
}

/// A range of names.
#[derive(Clone, Debug)]
pub(crate) struct NameRange {
    pub(crate) from: Bound<String>,
    pub(crate) to: Bound<String>,
}

impl NameRange {
    /// All names that begin with `prefix`, which is empty or ends in a slash.
    pub(crate) fn below(prefix: &str) -> Self {
        Self { from: Bound::Included(prefix.to_owned()), to: behind(prefix) }
    }

    /// The part of it within `from` and `to`.
    pub(crate) fn within(mut self, from: Bound<String>, to: Bound<String>) -> Self {
        let later = match (&self.from, &from) {
            (_, Bound::Unbounded) => false,
            (Bound::Included(own) | Bound::Excluded(own), Bound::Included(given)) => given > own,
            (Bound::Included(own) | Bound::Excluded(own), Bound::Excluded(given)) => given >= own,
            (Bound::Unbounded, _) => true,
        };
        if later {
            self.from = from;
        }
        let earlier = match (&self.to, &to) {
            (_, Bound::Unbounded) => false,
            (Bound::Included(own) | Bound::Excluded(own), Bound::Included(given)) => given < own,
            (Bound::Included(own) | Bound::Excluded(own), Bound::Excluded(given)) => given <= own,
            (Bound::Unbounded, _) => true,
        };
        if earlier {
            self.to = to;
        }
        self
    }

    /// Whether no name can be in it. `BTreeMap::range` panics on some of these.
    pub(crate) fn is_empty(&self) -> bool {
        match (&self.from, &self.to) {
            (Bound::Included(from), Bound::Included(to)) => from > to,
            (Bound::Included(from) | Bound::Excluded(from), Bound::Excluded(to))
            | (Bound::Excluded(from), Bound::Included(to)) => from >= to,
            _ => false,
        }
    }

    /// The keys of entries with names in it.
    pub(crate) fn data_keys(&self) -> (Bound<Vec<u8>>, Bound<Vec<u8>>) {
        let key = |name: &String| crate::record::data_key(name);
        let from = match &self.from {
            Bound::Included(name) => Bound::Included(key(name)),
            Bound::Excluded(name) => Bound::Excluded(key(name)),
            Bound::Unbounded => Bound::Included(vec![space::DATA]),
        };
        let to = match &self.to {
            Bound::Included(name) => Bound::Included(key(name)),
            Bound::Excluded(name) => Bound::Excluded(key(name)),
            Bound::Unbounded => Bound::Excluded(vec![space::DATA + 1]),
        };
        (from, to)
    }
}

/// The end of the names that begin with `prefix`, which is empty or ends in a slash.
pub(crate) fn behind(prefix: &str) -> Bound<String> {
    match prefix.strip_suffix('/') {
        // The character after the slash.
        Some(path) => Bound::Excluded([path, "0"].concat()),
        None => Bound::Unbounded,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_names_come_apart_as_they_were_put_together() {
        let mut namespaces = Namespaces::default();
        for (path, key) in [("", "a"), ("", "app/a"), ("app", "a"), ("app/x", "a/b"), ("ü", "ö")] {
            let namespace = Arc::new(Namespace::new(&Prefix::new(path).unwrap()).unwrap());
            let name = Name::new(&namespace, &Key::new(key).unwrap());
            let again = namespaces.name(&name.native, name.namespace_len()).unwrap();
            assert_eq!(again.namespace.path(), namespace.path());
            assert_eq!(again.key, name.key);
        }
        for (native, len) in [("ab", 1), ("a", 2), ("ü", 1), ("", 0), ("a//b", 2)] {
            assert!(namespaces.name(native, len).is_err(), "{native} {len}");
        }
    }

    #[test]
    fn a_range_below_a_prefix_holds_that_subtree_and_nothing_else() {
        let range = NameRange::below("a/");
        let holds = |name: &str| {
            let key = crate::record::data_key(name);
            std::ops::RangeBounds::contains(&range.data_keys(), &key)
        };
        assert!(holds("a/b") && holds("a/\u{ffef}/c"));
        assert!(!holds("a") && !holds("a-b") && !holds("a0") && !holds("ab") && !holds("b"));
    }

    #[test]
    fn the_narrower_bound_wins() {
        let text = |text: &str| text.to_owned();
        let range = NameRange::below("a/").within(Bound::Excluded(text("a/c")), Bound::Included(text("z")));
        assert_eq!(range.from, Bound::Excluded(text("a/c")));
        assert_eq!(range.to, Bound::Excluded(text("a0")));
        let range = range.within(Bound::Unbounded, Bound::Excluded(text("a/c")));
        assert!(range.is_empty());
        let all = NameRange::below("").within(Bound::Unbounded, Bound::Included(text("k")));
        assert_eq!(all.to, Bound::Included(text("k")));
        assert!(!all.is_empty());
    }
}
