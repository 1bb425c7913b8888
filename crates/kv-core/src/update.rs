//! Read, decide, write: changes that depend on what is there, and keep how it expires.

use std::time::Duration;

use bytes::Bytes;

use crate::entry::{Entry, EntryExpiry};
use crate::error::{Error, ErrorKind, Operation, Result};
use crate::fence::Fence;
use crate::key::Key;
use crate::options::{Expiry, GetOptions, Precondition, PutOptions};
use crate::power::Power;
use crate::store::Store;
use crate::timeout::timeout_setter;
use crate::version::Version;

/// Options of [`StoreExt::update_with`](crate::StoreExt::update_with).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct UpdateOptions {
    /// How often the change is tried at most: once more whenever somebody else was faster. The default is
    /// 64.
    pub attempts: u32,
    /// The lock that must be held. Needs [`Power::FencedWrites`].
    pub fence: Option<Fence>,
    /// The deadline of each request, in place of the store's default.
    pub timeout: Option<Duration>,
}

impl Default for UpdateOptions {
    fn default() -> Self {
        Self { attempts: 64, fence: None, timeout: None }
    }
}

impl UpdateOptions {
    /// The same with at most this many attempts; zero counts as one.
    #[must_use]
    pub fn with_attempts(mut self, attempts: u32) -> Self {
        self.attempts = attempts;
        self
    }

    /// The same, applied only while this lock is held; else `NotHeld`.
    #[must_use]
    pub fn with_fence(mut self, fence: Fence) -> Self {
        self.fence = Some(fence);
        self
    }

    timeout_setter!();
}

/// What became of a conditional write whose outcome was unknown:
/// [`StoreExt::settle`](crate::StoreExt::settle).
#[must_use = "it says whether the write was applied"]
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Settled {
    /// It is applied: the key got this version. On top of a version that is exactly once; on an absent key
    /// it can be a second time, if somebody deleted in between what the first attempt had put.
    Applied(Version),
    /// The key changed since: by the write whose outcome was unknown, or by somebody else. This is what
    /// is there. If nobody else writes this value, the write was applied.
    Undecided {
        /// The entry; `None`: the key is absent.
        current: Option<Entry>,
    },
}

/// What a write without a version to compare with expects.
fn unchanged(version: Option<Version>) -> Precondition {
    version.map_or(Precondition::Absent, Precondition::At)
}

/// Puts a value over the entry at `version` (`None`: over nothing), keeping how it expires.
pub(crate) async fn put_if_unchanged<S: Store + ?Sized>(
    store: &S,
    key: &Key,
    version: Option<Version>,
    value: Bytes,
    options: &UpdateOptions,
) -> Result<Version> {
    let mut put = PutOptions::default().with_precondition(unchanged(version));
    put.fence.clone_from(&options.fence);
    put.timeout = options.timeout;
    if let Some(version) = version {
        put.expiry = kept(store, key, version, options).await?;
    }
    Ok(store.put_opts(key, value, put).await?.version)
}

/// The expiry with which a put over the entry at `version` keeps it as it is.
async fn kept<S: Store + ?Sized>(
    store: &S,
    key: &Key,
    version: Version,
    options: &UpdateOptions,
) -> Result<Expiry> {
    if store.capabilities().has(Power::KeepExpiry) {
        return Ok(Expiry::Keep);
    }
    // Without the power only an entry that never expires can be written without changing that. At this
    // version it stays as it is.
    let mut get = GetOptions::default().with_expiry();
    get.timeout = options.timeout;
    match store.get_opts(key, get).await? {
        Some(entry) if entry.version == version && entry.expiry != Some(EntryExpiry::Never) => {
            Err(Error::lacks(Power::KeepExpiry)
                .with_detail("the key expires, and this store cannot write it without changing that")
                .with_operation(Operation::Put)
                .with_backend(store.capabilities().backend)
                .with_key(key.as_str()))
        }
        // Another version is refused by the put itself.
        _ => Ok(Expiry::Never),
    }
}

pub(crate) async fn update<S: Store + ?Sized>(
    store: &S,
    key: &Key,
    options: &UpdateOptions,
    mut change: impl FnMut(Option<&Entry>) -> Option<Bytes> + Send,
) -> Result<Option<Version>> {
    let mut attempt = 1;
    loop {
        let get = GetOptions { timeout: options.timeout, ..GetOptions::default() };
        let entry = store.get_opts(key, get).await?;
        let Some(value) = change(entry.as_ref()) else { return Ok(None) };
        let version = entry.map(|entry| entry.version);
        match put_if_unchanged(store, key, version, value, options).await {
            // Only a definite refusal: a write whose outcome is unknown is never sent again.
            Err(error) if error.is_conflict() && attempt < options.attempts => attempt += 1,
            Err(error) if error.is_conflict() => {
                return Err(error.with_detail(format!("others were faster {attempt} times in a row")));
            }
            done => return done.map(Some),
        }
    }
}

/// Gives the entry under `key` another expiry and leaves its value alone.
pub(crate) async fn touch<S: Store + ?Sized>(store: &S, key: &Key, expiry: Expiry) -> Result<Version> {
    let mut attempt = 1;
    loop {
        let Some(entry) = store.get_opts(key, GetOptions::default()).await? else {
            return Err(Error::new(ErrorKind::NotFound)
                .with_operation(Operation::Put)
                .with_backend(store.capabilities().backend)
                .with_key(key.as_str()));
        };
        let put =
            PutOptions::default().with_precondition(Precondition::At(entry.version)).with_expiry(expiry);
        match store.put_opts(key, entry.value, put).await {
            Err(error) if error.is_conflict() && attempt < UpdateOptions::default().attempts => attempt += 1,
            done => return done.map(|done| done.version),
        }
    }
}

pub(crate) async fn settle<S: Store + ?Sized>(
    store: &S,
    key: &Key,
    version: Option<Version>,
    value: Bytes,
) -> Result<Settled> {
    match put_if_unchanged(store, key, version, value, &UpdateOptions::default()).await {
        Ok(version) => Ok(Settled::Applied(version)),
        Err(error) if error.is_conflict() => {
            let current = store.get_opts(key, GetOptions::default()).await?;
            Ok(Settled::Undecided { current })
        }
        Err(error) => Err(error),
    }
}
