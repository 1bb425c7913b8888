//! The queue itself: pushing, claiming, dead letters.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use kv_core::{
    Applied, DeleteOptions, Error, ErrorKind, Key, ListOptions, Measured, Operation, Precondition, Prefix,
    PutOptions, Result, Store, StoreExt,
};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::dead::{self, DeadJob};
use super::job::Job;
use super::record::{Claim, Head, MAX_HEAD, MAX_WORKER, decode, encode};
use super::view::{Free, View};
use crate::names::to_key;

/// How a [`Queue`] works.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct QueueOptions {
    /// How long a job that is not acknowledged stays claimed. The default is 30 s. It is stored with each
    /// claim, so workers of one queue may differ.
    pub visibility: Duration,
    /// How often a job is claimed before it goes to the dead letters. The default is 5.
    pub max_attempts: u32,
    /// How many jobs are read ahead. The default is 64.
    pub page: usize,
    /// What others see as the worker of a claim. The default is a random name.
    pub worker: Option<String>,
}

impl Default for QueueOptions {
    fn default() -> Self {
        Self { visibility: Duration::from_secs(30), max_attempts: 5, page: 64, worker: None }
    }
}

impl QueueOptions {
    /// Changes how long a job that is not acknowledged stays claimed.
    #[must_use]
    pub fn with_visibility(mut self, visibility: Duration) -> Self {
        self.visibility = visibility;
        self
    }

    /// Changes how often a job is claimed before it goes to the dead letters; zero counts as one.
    #[must_use]
    pub fn with_max_attempts(mut self, attempts: u32) -> Self {
        self.max_attempts = attempts;
        self
    }

    /// Changes how many jobs are read ahead; zero counts as one.
    #[must_use]
    pub fn with_page(mut self, jobs: usize) -> Self {
        self.page = jobs;
        self
    }

    /// Changes what others see as the worker of a claim, 64 characters at most.
    #[must_use]
    pub fn with_worker(mut self, worker: impl Into<String>) -> Self {
        self.worker = Some(worker.into());
        self
    }
}

/// A work queue below a key: jobs are pushed, claimed by one worker at a time, and acknowledged.
///
/// # Guarantee
///
/// - A job that was pushed is there until it is acknowledged or goes to the dead letters: **at least
///   once**. A worker that dies, or is too slow, has its jobs given to others after the visibility timeout,
///   and no earlier than that after its claim.
/// - Of all claims of a job **only the last one can acknowledge it**, so it is acknowledged once. A worker
///   whose claim was taken over is told so by every call.
/// - A job that was claimed [`max_attempts`](QueueOptions::max_attempts) times without being acknowledged
///   goes to the dead letters, where it stays until it is put back or removed.
///
/// Work can be done twice: by a worker that is slower than the visibility timeout, and when an
/// acknowledgement got lost. Let it be idempotent, or check [`Job::claimed_until`] before what cannot be
/// undone. The order is about the order of pushing, by the clocks of those who push; workers take at random
/// from the first [`page`](QueueOptions::page) jobs. A worker notices the claim of a dead one when it first
/// sees it, so after a restart of all workers it takes a whole visibility timeout. It is no message broker:
/// each job costs consensus writes, and thousands of jobs a second are too many.
///
/// It needs no power of the store. The clocks of the workers need not agree; they must run equally fast.
///
/// # Cost
///
/// A job costs three writes (push, claim, acknowledgement) and its part of a list of a page; on Consul that
/// list reads the whole queue, so keep it short there. A worker that waits has one watch, and is told of
/// each push and each claim.
///
/// # Cancellation
///
/// A push whose future was dropped may be in the queue. A claim whose future was dropped may have claimed a
/// job, which then comes again after the visibility timeout. The attempt counts.
///
/// # Examples
///
/// ```
/// use std::sync::Arc;
/// use kv_recipes::kv_core::{Result, Store};
/// use kv_recipes::Queue;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<()> {
/// let store: Arc<dyn Store> = Arc::new(kv_mem::MemStore::open(Default::default())?);
/// let queue = Queue::open(&store, "mail")?;
/// queue.push("to: ann").await?;
///
/// let job = queue.claim().await?;
/// assert_eq!(job.payload(), "to: ann");
/// assert!(queue.try_claim().await?.is_none()); // for 30 s, unless it is released
/// job.acknowledge().await?;
/// # Ok(()) }
/// ```
pub struct Queue {
    pub(super) store: Arc<dyn Store>,
    pub(super) jobs: Prefix,
    dead: Prefix,
    options: QueueOptions,
    worker: Arc<str>,
    pub(super) view: Mutex<View>,
    /// Of the tasks of this handle one reads ahead for all.
    refilling: tokio::sync::Mutex<()>,
}

impl Queue {
    /// A handle of a worker on the queue below `key`, with the default [`QueueOptions`]. Nothing is sent.
    ///
    /// # Errors
    ///
    /// `InvalidKey` for a key that is none or too long; `InvalidArgument` for a worker's name that is too
    /// long.
    pub fn open<K>(store: &Arc<dyn Store>, key: K) -> Result<Self>
    where
        K: TryInto<Key, Error: Into<Error>>,
    {
        Self::open_with(store, key, QueueOptions::default())
    }

    /// A handle of a worker on the queue below `key`. Nothing is sent.
    ///
    /// # Errors
    ///
    /// As for [`open`](Self::open).
    pub fn open_with<K>(store: &Arc<dyn Store>, key: K, options: QueueOptions) -> Result<Self>
    where
        K: TryInto<Key, Error: Into<Error>>,
    {
        let key = to_key(key, Operation::Open)?;
        let worker = options.worker.clone().unwrap_or_else(|| format!("worker-{:016x}", fastrand::u64(..)));
        if worker.chars().count() > MAX_WORKER {
            let reason = format!("a worker's name has {MAX_WORKER} characters at most");
            return Err(Error::invalid_argument(reason)
                .with_operation(Operation::Open)
                .with_key(key.as_str()));
        }
        Ok(Self {
            store: Arc::clone(store),
            jobs: key.join("jobs")?.as_prefix(),
            dead: key.join("dead")?.as_prefix(),
            options,
            worker: worker.into(),
            view: Mutex::default(),
            refilling: tokio::sync::Mutex::default(),
        })
    }

    /// Puts a job into the queue and returns its id.
    ///
    /// # Errors
    ///
    /// `TooLarge` for a payload larger than the store's `max_value` less 512 bytes; what a put fails with.
    /// With [`applied`](Error::applied) `Unknown` the job may be in the queue: to push again without the
    /// risk of two, use [`push_as`](Self::push_as).
    pub async fn push(&self, payload: impl Into<Bytes>) -> Result<String> {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let micros = u64::try_from(since.as_micros()).unwrap_or(u64::MAX);
        let id = format!("{micros:016x}-{:08x}", fastrand::u32(..));
        self.push_as(&id, payload).await?;
        Ok(id)
    }

    /// Puts a job of this id into the queue. Jobs come about in the order of their ids.
    ///
    /// # Errors
    ///
    /// `AlreadyExists` if a job of this id is in the queue; `InvalidKey` for an id that is no segment of a
    /// key; else as for [`push`](Self::push).
    pub async fn push_as(&self, id: &str, payload: impl Into<Bytes>) -> Result<()> {
        let payload = payload.into();
        let key = self.jobs.join(id)?;
        if key.name() != id {
            let kind = ErrorKind::InvalidKey { reason: "the id of a job is one segment".to_owned() };
            return Err(Error::new(kind).with_operation(Operation::Put).with_key(key.as_str()));
        }
        let capabilities = self.store.capabilities();
        let max = capabilities.limits.max_value.saturating_sub(MAX_HEAD);
        if payload.len() > max {
            return Err(Error::too_large(Measured::Value, payload.len(), max)
                .with_operation(Operation::Put)
                .with_backend(capabilities.backend)
                .with_key(key.as_str())
                .with_detail("the payload, beside which the queue stores something of its own"));
        }
        let options = PutOptions::default().with_precondition(Precondition::Absent);
        self.store.put_with(&key, encode(&Head::default(), &payload)?, options).await.map(drop)
    }

    /// Claims a job, if there is one that nobody has claimed.
    ///
    /// # Errors
    ///
    /// What a list, a put or a delete fails with. With [`applied`](Error::applied) `Unknown` a job may be
    /// claimed, and comes again after the visibility timeout.
    pub async fn try_claim(&self) -> Result<Option<Job>> {
        loop {
            let taken = self.view.lock().take();
            match taken {
                Some(free) => match self.claim_free(&free).await {
                    Ok(Some(job)) => return Ok(Some(job)),
                    Ok(None) => {}
                    Err(error) => {
                        if error.applied() == Applied::No {
                            self.view.lock().give_back(free);
                        }
                        return Err(error);
                    }
                },
                None if self.refill().await? => {}
                None => return Ok(None),
            }
        }
    }

    /// Claims this job as it stood; `None` if it changed since, or had no attempt left.
    async fn claim_free(&self, free: &Free) -> Result<Option<Job>> {
        let Free { key, version, head, payload } = free;
        let is_over = head.dead || head.attempts >= self.options.max_attempts.max(1);
        let attempts = if is_over { head.attempts } else { head.attempts + 1 };
        let claim = (!is_over).then(|| Claim::new(&self.worker, self.options.visibility));
        let sent = Instant::now();
        let mut marked = *version;
        if !head.dead {
            let record = encode(&Head { attempts, claim, dead: is_over }, payload)?;
            let options = PutOptions::default().with_precondition(Precondition::At(*version));
            marked = match self.store.put_with(key, record, options).await {
                Err(error) if error.is_conflict() => return Ok(None),
                put => put?.version,
            };
        }
        if is_over {
            dead::bury(&*self.store, &self.dead, key, marked, attempts, payload).await?;
            return Ok(None);
        }
        Ok(Some(Job {
            store: Arc::clone(&self.store),
            key: key.clone(),
            payload: payload.clone(),
            attempts,
            version: marked,
            worker: Arc::clone(&self.worker),
            visibility: self.options.visibility,
            sent,
            dead: self.dead.clone(),
        }))
    }

    /// Reads on from the front of the queue until there are jobs to claim; whether there are.
    async fn refill(&self) -> Result<bool> {
        let _one_at_a_time = self.refilling.lock().await;
        if self.view.lock().free() > 0 {
            return Ok(true);
        }
        let page = self.options.page.max(1);
        let mut seen = BTreeSet::new();
        let mut last: Option<Key> = None;
        loop {
            let mut options = ListOptions::default().with_limit(page);
            if let Some(last) = &last {
                options = options.with_start_after(last);
            }
            let mut listing = self.store.list_with(&self.jobs, options).await?;
            let mut count = 0;
            while let Some(item) = listing.next().await {
                count += 1;
                let Some(entry) = item?.into_entry() else { continue };
                self.view.lock().see(&entry, Instant::now());
                seen.insert(entry.key.clone());
                last = Some(entry.key);
            }
            let mut view = self.view.lock();
            if count < page || view.free() > 0 {
                view.forget_unseen(if count < page { None } else { last.as_ref() }, &seen);
                return Ok(view.free() > 0);
            }
        }
    }

    /// The dead letters, in the order of their ids.
    ///
    /// # Errors
    ///
    /// What a list fails with.
    pub async fn dead(&self) -> Result<Vec<DeadJob>> {
        let entries = self.store.list_with(&self.dead, ListOptions::default()).await?.entries().await?;
        let jobs = entries.iter().filter_map(|entry| {
            let (head, payload) = decode(entry)?;
            Some(DeadJob { id: entry.key.name().to_owned(), payload, attempts: head.attempts })
        });
        Ok(jobs.collect())
    }

    /// Puts a dead letter back into the queue, as a new job with all its attempts, and returns its new id;
    /// `None` if there is no dead letter of this id.
    ///
    /// # Errors
    ///
    /// What a get, a put or a delete fails with. After an error the job can be in both places.
    pub async fn revive(&self, id: &str) -> Result<Option<String>> {
        let key = self.dead.join(id)?;
        let entry = self.store.get_with(&key, kv_core::GetOptions::default()).await?;
        let Some((_, payload)) = entry.as_ref().and_then(decode) else { return Ok(None) };
        let id = self.push(payload).await?;
        self.store.delete_with(&key, DeleteOptions::default()).await?;
        Ok(Some(id))
    }
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue")
            .field("jobs", &self.jobs)
            .field("worker", &self.worker)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}
