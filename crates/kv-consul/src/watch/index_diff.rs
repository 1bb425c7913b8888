//! What a watch knows: the index of each key it has seen, without values. Comparing a new state with it
//! gives the changes, deletes included.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use crate::client::scope::Scope;

/// The keys seen so far.
#[derive(Debug, Default)]
pub(crate) struct IndexDiff {
    keys: HashMap<Box<str>, Mark>,
    pass: u64,
}

#[derive(Clone, Copy, Debug)]
struct Mark {
    modified: u64,
    /// Whether it is an entry, and not a lock's record or a foreign name.
    visible: bool,
    pass: u64,
}

/// How a key stands to what was known of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// As it was.
    None,
    /// An entry was put.
    Put,
    /// An entry turned into something that is none.
    Vanished,
    /// Something that is no entry changed.
    Hidden,
    /// It is older than what was known: the server has lost its state.
    Older,
}

impl IndexDiff {
    /// Begins to compare with a new state.
    pub(crate) fn begin(&mut self) {
        self.pass += 1;
    }

    /// Compares one key of the new state, and remembers it.
    pub(crate) fn see(&mut self, native: &str, modified: u64, visible: bool) -> Change {
        let mark = Mark { modified, visible, pass: self.pass };
        let old = match self.keys.get_mut(native) {
            Some(old) if modified < old.modified => return Change::Older,
            Some(old) => Some(std::mem::replace(old, mark)),
            None => {
                self.keys.insert(native.into(), mark);
                None
            }
        };
        match old {
            Some(old) if old.modified == modified && old.visible == visible => Change::None,
            _ if visible => Change::Put,
            Some(old) if old.visible => Change::Vanished,
            _ => Change::Hidden,
        }
    }

    /// Whether a key was in the last state.
    pub(crate) fn has(&self, native: &str) -> bool {
        self.keys.contains_key(native)
    }

    /// The names that are not in the new state.
    pub(crate) fn missing(&self) -> Vec<&str> {
        self.keys.iter().filter(|(_, mark)| mark.pass != self.pass).map(|(key, _)| key.as_ref()).collect()
    }

    /// Whether the new state has anything of a scope.
    pub(crate) fn shows(&self, scope: &Scope) -> bool {
        let new = |mark: &Mark| mark.pass == self.pass;
        match scope {
            Scope::Key(name) => self.keys.get(name.as_str()).is_some_and(new),
            Scope::Tree(_) | Scope::Branch(_) => {
                self.keys.iter().any(|(key, mark)| new(mark) && scope.contains(key))
            }
        }
    }

    /// The keys that are not in the new state, and whether they were entries.
    pub(crate) fn finish(&mut self) -> Vec<(Box<str>, bool)> {
        let pass = self.pass;
        self.keys.extract_if(|_, mark| mark.pass != pass).map(|(key, mark)| (key, mark.visible)).collect()
    }

    /// Moves out what it knows of these keys.
    pub(crate) fn part(&mut self, mut wanted: impl FnMut(&str) -> bool) -> Self {
        Self { keys: self.keys.extract_if(|key, _| wanted(key)).collect(), pass: self.pass }
    }

    /// Adds what another one knows, of other keys.
    pub(crate) fn absorb(&mut self, other: Self) {
        for (key, mark) in other.keys {
            if let Entry::Vacant(slot) = self.keys.entry(key) {
                slot.insert(Mark { pass: 0, ..mark });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_compared_with_the_one_before_gives_the_changes() {
        let mut known = IndexDiff::default();
        known.begin();
        assert_eq!(known.see("a", 1, true), Change::Put);
        assert_eq!(known.see("b", 2, true), Change::Put);
        assert_eq!(known.see("b/.lock", 3, false), Change::Hidden);
        assert!(known.finish().is_empty());
        known.begin();
        assert_eq!(known.see("a", 1, true), Change::None);
        assert_eq!(known.see("b", 5, false), Change::Vanished);
        assert_eq!(known.finish(), [("b/.lock".into(), false)]);
        known.begin();
        assert_eq!(known.see("a", 0, true), Change::Older);
    }

    #[test]
    fn a_state_that_was_read_in_part_is_compared_again() {
        let mut known = IndexDiff::default();
        known.begin();
        known.see("a", 1, true);
        known.see("b", 1, true);
        known.finish();
        known.begin();
        assert_eq!(known.see("a", 2, true), Change::Put);
        // The connection broke here.
        known.begin();
        assert_eq!(known.see("a", 2, true), Change::None);
        assert_eq!(known.finish(), [("b".into(), true)]);
    }

    #[test]
    fn what_was_absorbed_is_missed_when_it_is_not_seen() {
        let mut known = IndexDiff::default();
        known.see("a", 1, true);
        let mut all = IndexDiff::default();
        all.absorb(known);
        all.begin();
        assert_eq!(all.see("c", 4, true), Change::Put);
        assert_eq!(all.finish(), [("a".into(), true)]);
    }
}
