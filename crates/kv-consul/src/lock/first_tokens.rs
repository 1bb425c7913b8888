//! The tokens of acquisitions: the first index at which each was seen.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use kv_core::FencingToken;

use crate::client::wire::Kv;

/// How many acquisitions are remembered.
const MAX_KNOWN: usize = 4096;

/// What tells one acquisition of a lock from every other. Each counts the lock index up or makes a new record.
#[derive(Debug)]
struct Acquisition {
    session: String,
    created: u64,
    lock_index: u64,
}

impl Acquisition {
    /// Whether it still has the record that looked so. The same session that acquires once more changes nothing
    /// of this, and a write that is no acquisition sets the lock index back to zero.
    fn goes_on(&self, now: &Self) -> bool {
        let same = (&self.session, self.created) == (&now.session, now.created);
        same && (now.lock_index == self.lock_index || now.lock_index == 0)
    }
}

/// The tokens of the acquisitions that were seen: the first index at which each was.
#[derive(Debug, Default)]
pub(crate) struct FirstTokens {
    by_record: Mutex<HashMap<String, (Acquisition, u64)>>,
}

impl FirstTokens {
    /// The token of the acquisition that has this record, which some session holds.
    pub(crate) fn token(&self, record: &Kv, session: &str) -> FencingToken {
        let (created, lock_index) = (record.create_index, record.lock_index);
        let acquisition = Acquisition { session: session.to_owned(), created, lock_index };
        let mut known = self.by_record.lock().unwrap_or_else(PoisonError::into_inner);
        match known.get_mut(&record.key) {
            Some((known, first)) if known.goes_on(&acquisition) => {
                *known = acquisition;
                return FencingToken::new(*first);
            }
            // An answer that came late, of an acquisition that is over.
            Some((_, first)) if record.modify_index < *first => {}
            _ => {
                if known.len() >= MAX_KNOWN {
                    known.clear();
                }
                known.insert(record.key.clone(), (acquisition, record.modify_index));
            }
        }
        FencingToken::new(record.modify_index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(session: &str, created: u64, modified: u64, lock_index: u64) -> Kv {
        Kv {
            key: "l/.lock".to_owned(),
            value: None,
            flags: 0,
            create_index: created,
            modify_index: modified,
            lock_index,
            session: Some(session.to_owned()),
        }
    }

    #[test]
    fn an_acquisition_keeps_its_first_token_and_the_next_has_a_greater_one() {
        let tokens = FirstTokens::default();
        for (session, created, modified, lock_index, token) in [
            ("a", 5, 5, 1, 5),
            // Written on by the holder.
            ("a", 5, 8, 1, 5),
            ("b", 5, 11, 2, 11),
            // Acquired once more by the same session.
            ("b", 5, 12, 3, 12),
            // A new record, of the same session.
            ("b", 20, 20, 1, 20),
            ("b", 20, 25, 1, 20),
            // Late: what is known of the present holder stays.
            ("b", 5, 12, 3, 12),
            ("b", 20, 30, 1, 20),
            // Written on by somebody, and then acquired once more.
            ("b", 20, 31, 0, 20),
            ("b", 20, 40, 1, 40),
        ] {
            let told = tokens.token(&record(session, created, modified, lock_index), session);
            assert_eq!(told.get(), token, "{session} {created} {modified} {lock_index}");
        }
    }

    #[test]
    fn no_more_than_so_many_are_remembered() {
        let tokens = FirstTokens::default();
        for at in 0..MAX_KNOWN as u64 * 2 {
            let kv = Kv { key: at.to_string(), ..record("a", 1, at + 1, 1) };
            tokens.token(&kv, "a");
        }
        assert!(tokens.by_record.lock().unwrap().len() <= MAX_KNOWN);
    }
}
