//! What puts, deletes and transactions have in common: what must hold, and why it did not.

use bytes::Bytes;
use kv_core::{Compare, Error, ErrorKind, Fence, Key, Measured, Precondition, Result, Version};

use crate::client::error;
use crate::client::{Check, Done, Field, Name, Page, Range, Read, Record, Step};
use crate::lock::Place;
use crate::record;

/// A revision to compare with; none is as large as what does not fit.
pub(crate) fn revision(version: Version) -> Option<i64> {
    i64::try_from(version.get()).ok().filter(|revision| *revision > 0)
}

/// The checks of a precondition.
pub(crate) fn precondition(name: &str, precondition: &Precondition) -> Result<Vec<Check>> {
    Ok(match precondition {
        Precondition::Any => Vec::new(),
        Precondition::Absent => vec![Check::absent(name)],
        Precondition::Present => vec![Check::exists(name)],
        Precondition::At(version) => vec![match revision(*version) {
            Some(revision) => Check::new(name, Compare::Equal, Field::Version(revision)),
            None => Check::never(name),
        }],
        Precondition::Value(value) => {
            vec![Check::new(name, Compare::Equal, Field::Value(value.clone()))]
        }
        _ => return Err(Error::unsupported("this kind of precondition")),
    })
}

/// Whether the key exists where a precondition holds; `None`: either can be.
pub(crate) fn presence(precondition: &Precondition) -> Option<bool> {
    match precondition {
        Precondition::Absent => Some(false),
        Precondition::Present | Precondition::At(_) | Precondition::Value(_) => Some(true),
        _ => None,
    }
}

/// Why a precondition refuses, given what was found.
pub(crate) fn refusal(precondition: &Precondition, found: Option<&Record>) -> Error {
    let current = found.map(|record| record::version(record.version));
    Error::new(match precondition {
        Precondition::Absent => ErrorKind::AlreadyExists { current },
        Precondition::Present => ErrorKind::NotFound,
        _ => ErrorKind::PreconditionFailed { current },
    })
}

/// The bytes a precondition adds to a request.
pub(crate) fn size(precondition: &Precondition) -> usize {
    if let Precondition::Value(value) = precondition { value.len() } else { 0 }
}

/// What must hold beside the caller's own conditions: that a name is not the record of a lock, and
/// that a fence's lock is held.
#[derive(Default)]
pub(crate) struct Guards {
    /// Names that look like records, with the lease they would live by.
    suspects: Vec<(Name, i64)>,
    fence: Option<Place>,
}

impl Guards {
    /// The guards of a write of these names.
    pub(crate) fn new<'a>(names: impl IntoIterator<Item = &'a str>, fence: Option<&Fence>) -> Result<Self> {
        let suspects = names
            .into_iter()
            .filter_map(|name| Some((name.as_bytes().to_vec(), record::spelt_lease(name.as_bytes())?)))
            .collect();
        let fence = fence.map(fenced).transpose()?;
        Ok(Self { suspects, fence })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.suspects.is_empty() && self.fence.is_none()
    }

    pub(crate) fn checks(&self) -> Vec<Check> {
        let fence = self.fence.iter().flat_map(Place::stands);
        let suspects = self
            .suspects
            .iter()
            .map(|(name, lease)| Check::new(name.clone(), Compare::NotEqual, Field::Lease(*lease)));
        fence.chain(suspects).collect()
    }

    /// Reads that tell which guard refused.
    pub(crate) fn reads(&self) -> Vec<Step> {
        let fence = self.fence.iter().map(|place| &place.name);
        let names = fence.chain(self.suspects.iter().map(|(name, _)| name));
        names.map(|name| Step::Read(Read::new(Range::one(name.clone())).keys_only())).collect()
    }

    /// What the [`reads`](Self::reads) say, given what came of them.
    pub(crate) fn refusal(&self, found: &[Done]) -> Result<()> {
        let mut found = found.iter().map(|done| match done {
            Done::Read(page) => page.records.first(),
            _ => None,
        });
        if let Some(place) = &self.fence {
            // A record that a native tool wrote over holds nothing any more.
            let held = found
                .next()
                .flatten()
                .is_some_and(|record| record.created == place.created && record::is_lock(record));
            if !held {
                return Err(not_held());
            }
        }
        match found.flatten().find(|record| record::is_lock(record)) {
            Some(record) => Err(Error::new(ErrorKind::InvalidKey {
                reason: "it is the record of a lock that is held or waited for".to_owned(),
            })
            .with_key(String::from_utf8_lossy(&record.name))),
            None => Ok(()),
        }
    }
}

/// The record a fence stands for.
fn fenced(fence: &Fence) -> Result<Place> {
    let name: Name = fence.record().into();
    let token = i64::try_from(fence.token().get()).ok().filter(|token| *token > 0);
    match (token, record::spelt_lease(&name)) {
        (Some(created), Some(_)) => Ok(Place { name, created }),
        _ => Err(not_held()),
    }
}

pub(crate) fn not_held() -> Error {
    Error::not_held(None).with_detail("the fence's lock is gone or another's")
}

/// The one page a list of answers begins with.
pub(crate) fn first_page(done: Vec<Done>) -> Result<Page> {
    match done.into_iter().next() {
        Some(Done::Read(page)) => Ok(page),
        _ => Err(error::nonsense("a transaction without the answer that was asked for")),
    }
}

/// Refuses a request that the server would refuse for its size.
pub(crate) fn check_size(key: &Key, value: &Bytes, condition: &Precondition, max: usize) -> Result<()> {
    let size = value.len() + size(condition);
    if size > max {
        return Err(Error::too_large(Measured::Value, size, max)
            .with_key(key.as_str())
            .with_detail("counted with the value it is compared with"));
    }
    Ok(())
}
