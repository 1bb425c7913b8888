//! Keys and sets of prefixes as callers give them.

use std::ops::Bound;

use kv_core::{Error, Key, ListOptions, Operation, Prefix, Result};

/// The key that was meant, or the refusal, naming the operation.
pub(crate) fn to_key<K: TryInto<Key, Error: Into<Error>>>(key: K, operation: Operation) -> Result<Key> {
    key.try_into().map_err(|error| error.into().with_operation(operation))
}

/// Several prefixes of which none covers another, in order. Each covers what lies strictly below it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Prefixes(Vec<Prefix>);

impl Prefixes {
    /// The prefixes that were meant, without those that others cover.
    pub(crate) fn new<P: TryInto<Prefix, Error: Into<Error>>>(
        prefixes: impl IntoIterator<Item = P>,
        operation: Operation,
    ) -> Result<Self> {
        let given = prefixes
            .into_iter()
            .map(|prefix| prefix.try_into().map_err(|error| error.into().with_operation(operation)))
            .collect::<Result<Vec<Prefix>>>()?;
        if given.is_empty() {
            let reason = "it needs a prefix; the empty text is the whole namespace";
            return Err(Error::invalid_argument(reason).with_operation(operation));
        }
        let covered =
            |prefix: &Prefix| given.iter().any(|other| other != prefix && other.covers_prefix(prefix));
        let mut outermost: Vec<Prefix> = given.iter().filter(|prefix| !covered(prefix)).cloned().collect();
        // Keys are in the order of their bytes, where `a-b/c` comes before `a/b`.
        outermost.sort_by_key(|prefix| format!("{prefix}/"));
        outermost.dedup();
        Ok(Self(outermost))
    }

    pub(crate) fn as_slice(&self) -> &[Prefix] {
        &self.0
    }

    pub(crate) fn covers(&self, key: &Key) -> bool {
        self.0.iter().any(|prefix| prefix.covers(key))
    }

    /// The innermost prefix that covers all of them.
    pub(crate) fn ancestor(&self) -> Prefix {
        let mut common: Option<Vec<&str>> = None;
        for prefix in &self.0 {
            let segments: Vec<&str> =
                prefix.as_str().split('/').filter(|segment| !segment.is_empty()).collect();
            common = Some(match common {
                None => segments,
                Some(common) => {
                    common.into_iter().zip(segments).take_while(|(a, b)| a == b).map(|(a, _)| a).collect()
                }
            });
        }
        // A part of a prefix is a prefix.
        Prefix::new(&common.unwrap_or_default().join("/")).unwrap_or_default()
    }

    /// Options of a list below the ancestor that leave out what lies before and behind all of them.
    pub(crate) fn range(&self) -> ListOptions {
        let mut options = ListOptions::default();
        if let [first, .., last] = self.as_slice() {
            options.start = first.to_key().map_or(Bound::Unbounded, Bound::Excluded);
            // `0` is the byte after `/`. Nothing is cut off where that name is too long.
            options.end = Key::new(&format!("{last}0")).map_or(Bound::Unbounded, Bound::Excluded);
        }
        options
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefixes(of: &[&str]) -> Prefixes {
        Prefixes::new(of.iter().copied(), Operation::List).unwrap()
    }

    fn names(prefixes: &Prefixes) -> Vec<&str> {
        prefixes.as_slice().iter().map(Prefix::as_str).collect()
    }

    #[test]
    fn covered_prefixes_go_and_the_rest_is_in_key_order() {
        assert_eq!(names(&prefixes(&["b", "a/x", "a-b", "a/x/y", "b", "a"])), ["a-b", "a", "b"]);
        assert_eq!(names(&prefixes(&["a", ""])), [""]);
        assert!(Prefixes::new(Vec::<&str>::new(), Operation::List).is_err());
        assert!(Prefixes::new(["a/../b"], Operation::List).is_err());
    }

    #[test]
    fn the_ancestor_is_the_innermost() {
        assert_eq!(prefixes(&["a/b/c", "a/b/d/e"]).ancestor().as_str(), "a/b");
        assert_eq!(prefixes(&["ab", "a"]).ancestor().as_str(), "");
        assert_eq!(prefixes(&["a/b"]).ancestor().as_str(), "a/b");
    }

    /// Catches a range that cuts off keys below the first or the last prefix.
    #[test]
    fn the_range_holds_all_that_is_covered() {
        let several = prefixes(&["a/b", "a/d", "a/b-x"]);
        let range = several.range();
        for covered in ["a/b-x/1", "a/b/!", "a/b/1", "a/d/1", "a/d/\u{d7ff}"] {
            let key: Key = covered.parse().unwrap();
            assert!(several.covers(&key) && range.in_range(&key), "{covered}");
        }
        for outside in ["a/a/1", "a/d0", "a/e/1"] {
            assert!(!range.in_range(&outside.parse().unwrap()), "{outside}");
        }
    }
}
