//! One condition of a transaction, as comparisons of etcd's.
//!
//! etcd compares fields of a record, and an absent key as one whose fields are 0. What must be true
//! of an absent key, or of a lock's record that is no entry, can be the opposite of a list of
//! comparisons.

use kv_core::{Compare, Condition, Error, Key, Result, Test, Version};

use super::guards::revision;
use crate::client::{Check, Field};
use crate::record;

/// Comparisons of which all must hold, or not all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Term {
    pub(crate) checks: Vec<Check>,
    pub(crate) holds: bool,
}

impl Term {
    pub(crate) fn all(checks: Vec<Check>) -> Self {
        Self { checks, holds: true }
    }

    fn not_all(checks: Vec<Check>) -> Self {
        Self { checks, holds: false }
    }
}

/// The comparisons of one condition. `None`: it always holds.
pub(crate) fn term(name: &str, test: &Test) -> Result<Option<Term>> {
    // A lock's record is no entry, so its key is absent.
    let entry = record::spelt_lease(name.as_bytes())
        .map(|lease| Check::new(name, Compare::NotEqual, Field::Lease(lease)));
    let of_entry = |mut checks: Vec<Check>| {
        checks.extend(entry.clone());
        checks
    };
    let term = match test {
        Test::Absent if entry.is_none() => Term::all(vec![Check::absent(name)]),
        Test::Absent => Term::not_all(of_entry(vec![Check::exists(name)])),
        Test::Present => Term::all(of_entry(vec![Check::exists(name)])),
        Test::Version(compare, version) => {
            return Ok(number(name, *compare, *version, Field::Version, of_entry, entry.is_some()));
        }
        Test::Created(compare, version) => {
            return Ok(number(name, *compare, *version, Field::Created, of_entry, entry.is_some()));
        }
        Test::Value(Compare::NotEqual, value) => {
            Term::not_all(of_entry(vec![Check::new(name, Compare::Equal, Field::Value(value.clone()))]))
        }
        Test::Value(compare, value) => {
            Term::all(of_entry(vec![Check::new(name, *compare, Field::Value(value.clone()))]))
        }
        _ => return Err(Error::unsupported("this kind of condition")),
    };
    Ok(Some(term))
}

/// Whether a key exists where all these conditions hold; `None`: either can be.
pub(crate) fn presence(conditions: &[Condition], key: &Key) -> Option<bool> {
    conditions.iter().filter(|condition| condition.key == *key).find_map(|condition| match &condition.test {
        Test::Absent => Some(false),
        Test::Version(Compare::NotEqual, _)
        | Test::Created(Compare::NotEqual, _)
        | Test::Value(Compare::NotEqual, _) => None,
        Test::Present | Test::Version(..) | Test::Created(..) | Test::Value(..) => Some(true),
        _ => None,
    })
}

/// The comparisons of a version. Every version of an entry is from 1 to `i64::MAX`.
fn number(
    name: &str,
    compare: Compare,
    version: Version,
    field: fn(i64) -> Field,
    of_entry: impl Fn(Vec<Check>) -> Vec<Check>,
    can_be_lock: bool,
) -> Option<Term> {
    let with = |compare, revision| Check::new(name, compare, field(revision));
    let checks = match (compare, revision(version)) {
        (Compare::NotEqual, None) => return None,
        (Compare::NotEqual, Some(revision)) if can_be_lock => {
            return Some(Term::not_all(of_entry(vec![with(Compare::Equal, revision)])));
        }
        // True of an absent key, whose fields are 0.
        (Compare::NotEqual, Some(revision)) => vec![with(Compare::NotEqual, revision)],
        (Compare::Less, Some(revision)) => of_entry(vec![with(Compare::Less, revision), Check::exists(name)]),
        (compare, Some(revision)) => of_entry(vec![with(compare, revision)]),
        (Compare::Greater, None) if version == Version::ZERO => of_entry(vec![Check::exists(name)]),
        (Compare::Less, None) if version != Version::ZERO => of_entry(vec![Check::exists(name)]),
        (Compare::Equal | Compare::Less | Compare::Greater, None) => vec![Check::never(name)],
    };
    Some(Term::all(checks))
}

#[cfg(test)]
mod tests {
    use kv_core::Entry;

    use super::*;
    use crate::client::Record;

    /// What etcd's comparison says of a record.
    fn holds(check: &Check, record: Option<&Record>) -> bool {
        let (version, created, lease) = record.map_or((0, 0, 0), |r| (r.version, r.created, r.lease));
        match &check.field {
            Field::Version(given) => check.is.holds(&version, given),
            Field::Created(given) => check.is.holds(&created, given),
            Field::Lease(given) => check.is.holds(&lease, given),
            Field::Value(given) => record.is_some_and(|record| check.is.holds(&record.value, given)),
        }
    }

    #[test]
    fn every_condition_holds_exactly_when_the_contract_says_so() {
        let lease = 0xab;
        let record = |name: &str, value: &'static str, version, created, lease| Record {
            name: name.into(),
            value: value.into(),
            version,
            created,
            lease,
        };
        let mut tests = vec![Test::Absent, Test::Present];
        for compare in [Compare::Equal, Compare::NotEqual, Compare::Less, Compare::Greater] {
            for number in [0, 1, 5, 7, 9, u64::try_from(i64::MAX).unwrap(), u64::MAX] {
                tests.push(Test::Version(compare, Version::new(number)));
                tests.push(Test::Created(compare, Version::new(number)));
            }
            for value in ["", "a", "m", "z"] {
                tests.push(Test::Value(compare, value.into()));
            }
        }
        for name in ["plain", "lock/ab"] {
            let stored = [
                None,
                Some(record(name, "", 1, 1, 0)),
                Some(record(name, "m", 7, 5, 0)),
                Some(record(name, "m", 7, 5, 99)),
                Some(record(name, "m", 7, 5, lease)),
            ];
            for stored in &stored {
                let key = Key::new(name).unwrap();
                let visible = stored.as_ref().filter(|record| !record::is_lock(record));
                let entry = visible.map(|found| {
                    let (version, created) = (record::version(found.version), record::version(found.created));
                    Entry::new(key.clone(), found.value.clone(), version, created)
                });
                for test in &tests {
                    let mut condition = Condition::present(&key).unwrap();
                    condition.test = test.clone();
                    let encoded = match term(name, test).unwrap() {
                        None => true,
                        Some(term) => {
                            let all = term.checks.iter().all(|check| holds(check, stored.as_ref()));
                            all == term.holds
                        }
                    };
                    assert_eq!(encoded, condition.holds(entry.as_ref()), "{test:?} on {stored:?}");
                    let presence = presence(&[condition], &key);
                    let is_true = !encoded || presence.is_none_or(|exists| exists == entry.is_some());
                    assert!(is_true, "{test:?} holds on {stored:?}, whose presence is {presence:?}");
                }
            }
        }
    }
}
