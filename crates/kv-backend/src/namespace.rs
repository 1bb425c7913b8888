//! How keys lie below a store's namespace on a backend whose names are paths.

use kv_core::{Key, Prefix, Result};

/// The namespace of one store handle: maps keys to the names the backend sees and back.
///
/// The native name of `a/b` in the namespace `app` is `app/a/b`: what a native tool shows. No key
/// can reach outside, because keys and namespaces hold no `.` or `..` and no empty segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    /// Empty, or the namespace with a slash behind it.
    path: String,
}

impl Namespace {
    /// The namespace below `prefix`; the root prefix is no namespace at all.
    ///
    /// # Errors
    ///
    /// `InvalidKey` if it is too long to be a namespace.
    pub fn new(prefix: &Prefix) -> Result<Self> {
        prefix.check_namespace()?;
        let path = if prefix.is_root() { String::new() } else { format!("{prefix}/") };
        Ok(Self { path })
    }

    /// What every native name begins with: empty, or `app/`.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The native name of a key.
    #[must_use]
    pub fn native(&self, key: &Key) -> String {
        [&self.path, key.as_str()].concat()
    }

    /// What the native names below `prefix` begin with: empty, or ending in a slash.
    #[must_use]
    pub fn native_prefix(&self, prefix: &Prefix) -> String {
        if prefix.is_root() { self.path.clone() } else { [&self.path, prefix.as_str(), "/"].concat() }
    }

    /// The key a native name stands for; `None` for a name outside the namespace or one that is not
    /// canonical and so not ours.
    #[must_use]
    pub fn key(&self, native: &str) -> Option<Key> {
        Key::from_canonical(native.strip_prefix(&self.path)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn namespace(text: &str) -> Namespace {
        Namespace::new(&Prefix::new(text).unwrap()).unwrap()
    }

    #[test]
    fn keys_round_trip_below_the_namespace() {
        for path in ["", "app", "app/x"] {
            let namespace = namespace(path);
            for text in ["a", "a/b", "a b", "a%20b", "ü"] {
                let key = Key::new(text).unwrap();
                let native = namespace.native(&key);
                assert!(native.starts_with(path));
                assert_eq!(namespace.key(&native), Some(key));
            }
        }
    }

    #[test]
    fn names_that_are_not_ours_are_not_keys() {
        let namespace = namespace("app");
        for native in ["app", "app/", "apple/a", "app//a", "app/a/", "other/a", "app/a/../b"] {
            assert_eq!(namespace.key(native), None, "{native}");
        }
    }

    #[test]
    fn prefixes_end_at_a_path_boundary() {
        let root = Prefix::root();
        let below = Prefix::new("a/b").unwrap();
        assert_eq!(namespace("").native_prefix(&root), "");
        assert_eq!(namespace("app").native_prefix(&root), "app/");
        assert_eq!(namespace("").native_prefix(&below), "a/b/");
        assert_eq!(namespace("app").native_prefix(&below), "app/a/b/");
    }
}
