//! The way into an office: campaigning for it, and seeing who holds it.

use std::sync::Arc;
use std::time::Duration;

use kv_core::{
    Bytes, Error, ErrorKind, Key, LockOptions, LockWait, Operation, Power, Result, Store, StoreExt,
};

use super::announcement::announced;
use super::leader::Leader;
use super::leaders::Leaders;
use super::leadership::Leadership;

/// An election: candidates campaign for one office, and anybody can follow who holds it.
///
/// # What it promises
///
/// - **At most one leader per term, and terms rise.** A term is the fencing token of a lock; the server
///   grants each token once, and every later one is greater.
/// - **Vacancies are seen.** [`observe`](Self::observe) tells each change of hands and each lasting vacancy.
/// - **A lost term is reported before the server can grant the next one** when it is lost by expiry while
///   this process runs; see [`LockGuard`](kv_core::LockGuard) for the other ways to lose it.
/// - The order of candidates is first come, first served where the store declares
///   [`LockFifo`](kv_core::Guarantee::LockFifo).
///
/// # What it does not promise
///
/// That two processes never *believe* to lead at one time: one may have been stopped between looking and
/// acting. Writes of a leader are safe only with its [`fence`](Leadership::fence), where the store has the
/// power `fenced_writes`, or with the term checked by the resource that is written to.
///
/// # How it is stored
///
/// The office is the lock named by the election's key, in the layout of the backend's native tools, with
/// the identity as the owner: `etcdctl elect`, Consul's leader election and the ZooKeeper recipes see our
/// leaders and exclude them as we do theirs. What a leader [proclaims](Leadership::proclaim) is the entry
/// under the key itself: the term, a line feed, and the value.
///
/// # Costs
///
/// A campaign costs what a lock costs, and a leadership its renewals. An observer costs two watches,
/// [`leader`](Self::leader) two reads, a proclamation one write and, the first time, a read.
///
/// # Examples
///
/// ```
/// # use std::sync::Arc;
/// # use kv_recipes::kv_core::{PutOptions, Result, Store, StoreExt};
/// use kv_recipes::Election;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<()> {
/// # let store: Arc<dyn Store> = Arc::new(kv_mem::MemStore::open(Default::default())?);
/// let election = Election::new(store.clone(), "services/db/leader")?.with_identity("node-1");
/// let leadership = election.campaign().await?;
/// leadership.proclaim("10.0.0.7:5432").await?;
///
/// let leader = election.leader().await?.expect("somebody leads");
/// assert_eq!(leader.identity, "node-1");
/// assert_eq!(leader.proclaimed.as_deref(), Some(&b"10.0.0.7:5432"[..]));
///
/// // A write that no earlier leader can make any more:
/// let fenced = PutOptions::default().with_fence(leadership.fence());
/// store.put_with("services/db/config", "v2", fenced).await?;
/// leadership.resign().await?;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Election {
    pub(super) store: Arc<dyn Store>,
    pub(super) key: Key,
    identity: Bytes,
    ttl: Option<Duration>,
    pub(super) stop_within: Duration,
}

impl Election {
    /// An election on this key, without any I/O. The identity is the process id with a random number; use
    /// [`with_identity`](Self::with_identity) for one that means something to others.
    ///
    /// # Errors
    ///
    /// `InvalidKey`; `Unsupported` if the store cannot see locks ([`Power::LockView`]), which observers
    /// need. On such a store use [`StoreExt::lock`] directly.
    pub fn new<K>(store: Arc<dyn Store>, key: K) -> Result<Self>
    where
        K: TryInto<Key, Error: Into<Error>>,
    {
        let refuse = |error: Error| error.with_operation(Operation::Lock);
        let key = key.try_into().map_err(|error| refuse(error.into()))?;
        store.capabilities().require(Power::LockView).map_err(|error| {
            refuse(error).with_key(key.as_str()).with_detail(
                "an election needs a store that can see locks; campaign with a plain lock instead",
            )
        })?;
        let identity = format!("{}-{:016x}", std::process::id(), fastrand::u64(..)).into();
        Ok(Self { store, key, identity, ttl: None, stop_within: Duration::from_secs(10) })
    }

    /// The same with this identity: what others see as the leader. Two candidates may share one; terms
    /// tell them apart.
    #[must_use]
    pub fn with_identity(mut self, identity: impl Into<Bytes>) -> Self {
        self.identity = identity.into();
        self
    }

    /// The same with this time to live: how long the office stays taken after its leader died. The default
    /// is the store's. A store whose locks live by the session
    /// ([`LockTtl::PerSession`](kv_core::LockTtl)) answers a campaign with another value than the session's
    /// with `TtlOutOfRange`.
    #[must_use]
    pub fn with_ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// The same with this time for the work of [`run`](Self::run) to end by itself after it was stopped;
    /// then it is dropped. The default is 10 s.
    #[must_use]
    pub fn with_stop_within(mut self, time: Duration) -> Self {
        self.stop_within = time;
        self
    }

    /// The key of the office.
    #[must_use]
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// The identity this candidate campaigns with.
    #[must_use]
    pub fn identity(&self) -> &Bytes {
        &self.identity
    }

    /// Waits until this candidate leads.
    ///
    /// Dropping the future withdraws the candidate and leaves no trace. A candidate that was queued once
    /// outlives outages and the loss of its session.
    ///
    /// # Errors
    ///
    /// As for [`Store::lock_opts`].
    pub async fn campaign(&self) -> Result<Leadership> {
        let guard = self.store.lock_with(&self.key, self.options(LockWait::Forever)).await?;
        Ok(Leadership::new(Arc::clone(&self.store), guard))
    }

    /// Leads at once if the office is vacant and nobody waits for it, else `None`.
    ///
    /// # Errors
    ///
    /// As for [`Store::lock_opts`].
    pub async fn try_campaign(&self) -> Result<Option<Leadership>> {
        match self.store.lock_with(&self.key, self.options(LockWait::Try)).await {
            Ok(guard) => Ok(Some(Leadership::new(Arc::clone(&self.store), guard))),
            Err(error) if *error.kind() == ErrorKind::Locked => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn options(&self, wait: LockWait) -> LockOptions {
        let mut options = LockOptions::default().with_owner(self.identity.clone()).with_wait(wait);
        options.ttl = self.ttl;
        options
    }

    /// Who leads now, by the server's account, or `None` for a vacancy.
    ///
    /// What it proclaimed is read after that: it is of this leader's term or is not told.
    ///
    /// # Errors
    ///
    /// As for [`Store::lock_holder_opts`] and a get.
    pub async fn leader(&self) -> Result<Option<Leader>> {
        let Some(holder) = self.store.lock_holder(&self.key).await? else { return Ok(None) };
        let entry = self.store.get(&self.key).await?;
        Ok(Some(Leader::new(holder, announced(entry.as_ref()))))
    }

    /// Follows who leads: the present leader or vacancy first, then each change, also of what the leader
    /// proclaims.
    ///
    /// Terms never fall. A consumer that is too slow can miss changes in between, and the last one
    /// delivered equals the final state. Outages are waited out; the stream ends after an error, and only
    /// so.
    ///
    /// # Errors
    ///
    /// As for [`LockView::watch_lock_with`](kv_core::implement::LockView::watch_lock_with) and a watch.
    pub async fn observe(&self) -> Result<Leaders> {
        Leaders::watch(&self.store, &self.key).await
    }
}
