//! The native client, made safe: deadlines, failover, signing in again, and no write sent twice.
//!
//! Each endpoint has a native client of its own, because only so a failure says which endpoint it
//! was and whether the request had been sent. One endpoint is used until it fails.

mod admin;
mod answer;
mod auth;
pub(crate) mod error;
mod failure;
mod member;
mod settings;
mod stream;
mod wire;

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use etcd_client as native;
use kv_backend::Deadline;
use kv_core::{Error, ErrorKind, Result};

pub(crate) use admin::{Asked, Listed, Status};
pub(crate) use answer::check_changes;
pub(crate) use auth::Permission;
use error::Next;
use failure::Failure;
use member::{Dial, Leader, Member, Native};
pub(crate) use settings::{DEFAULT_PORT, Settings};
pub(crate) use stream::{Answer, ChangesIn, ChangesOut, WatchRequest};
pub(crate) use wire::{
    Attach, Change, Check, Done, Field, Name, Order, Page, Range, Read, Record, Step, Tree, TreeDone, behind,
};

/// The pause before a request is repeated for want of a leader or after a broken connection.
const PAUSE: Duration = Duration::from_millis(100);
/// How often a harmless request is repeated after its connection broke.
const REPEATS: usize = 3;
/// No member is given up sooner for its silence, however many there are: links can be slow.
const PATIENCE: Duration = Duration::from_secs(1);

/// Whether a request may be sent again when it is unknown what became of it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Repeat {
    Harmless,
    Never,
    /// Not even after a definite refusal.
    Once,
}

/// The endpoints there are now. They can be replaced while requests go to those before.
type Members = Arc<[Arc<Member>]>;

/// The cluster, as one handle sees it.
pub(crate) struct Client {
    members: RwLock<Members>,
    /// What it was configured with, for endpoints that are set later.
    settings: Settings,
    /// The cluster it belongs to, 0 before that was told.
    cluster: AtomicU64,
    /// The member requests go to.
    current: AtomicUsize,
    /// Whether TLS is spoken, and then whether with a certificate of our own.
    tls: Option<bool>,
    /// Whether requests are signed in.
    has_user: bool,
    /// Requests made so far, for tests that count round trips.
    requests: AtomicU64,
    /// What a record of the lists so far took, in bytes; zero before the first.
    pub(crate) listed_record: AtomicUsize,
}

impl Client {
    /// A client for these endpoints, not connected yet.
    pub(crate) fn new(settings: Settings) -> Result<Self> {
        let dial = dial(&settings);
        let members: Members = settings
            .endpoints()
            .into_iter()
            .map(|endpoint| Arc::new(Member::new(endpoint, dial.clone())))
            .collect();
        if members.is_empty() {
            return Err(Error::invalid_config("etcd needs at least one endpoint"));
        }
        // Handles spread over the members, as etcd's own clients do.
        let first = RandomState::new().hash_one(0) % members.len() as u64;
        let current = AtomicUsize::new(usize::try_from(first).unwrap_or_default());
        let tls = settings.tls.as_ref().map(|tls| tls.identity.is_some());
        let has_user = settings.user.is_some();
        Ok(Self {
            members: RwLock::new(members),
            settings,
            cluster: AtomicU64::new(0),
            current,
            tls,
            has_user,
            requests: AtomicU64::new(0),
            listed_record: AtomicUsize::new(0),
        })
    }

    fn members_now(&self) -> Members {
        Arc::clone(&self.members.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Finds a member that answers, within `timeout`.
    pub(crate) async fn probe(&self, timeout: Duration) -> Result<()> {
        let members = self.members_now();
        let count = members.len();
        let share = timeout / u32::try_from(count).unwrap_or(u32::MAX);
        let first = self.current.load(Ordering::Relaxed);
        let mut failures = Vec::new();
        for at in (0..count).map(|step| (first + step) % count) {
            self.current.store(at, Ordering::Relaxed);
            let member = &members[at];
            let status = |native: Arc<Native>| async move {
                let status = native.maintenance.clone().status().await?;
                if let Some(header) = status.header() {
                    self.cluster.store(header.cluster_id(), Ordering::Relaxed);
                }
                Ok(())
            };
            let sent = AtomicBool::new(false);
            let asking = async {
                let (asked, _) = self.attempt(member, Leader::NotNeeded, &status, &sent).await;
                Ok(asked.map_err(|failure| self.hint(failure)))
            };
            let error = match Deadline::after(share).run(asking).await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(error)) | Err(error) => error.not_applied().with_endpoint(&member.endpoint),
            };
            // The next endpoint would say the same. Of another certificate it would not.
            if *error.kind() == ErrorKind::Unauthenticated {
                return Err(error);
            }
            failures.push(error);
        }
        // What no waiting cures is named first.
        let is_config = |error: &Error| matches!(error.kind(), ErrorKind::InvalidConfig { .. });
        failures.sort_by_key(|error| !is_config(error));
        let words: Vec<_> = failures.iter().map(ToString::to_string).collect();
        match failures.pop() {
            Some(only) if count == 1 => Err(only),
            Some(last) if is_config(&last) => Err(Error::invalid_config(words.join("; ")).with_source(last)),
            Some(last) => Err(Error::new(last.kind().clone())
                .not_applied()
                .with_detail(format!("none of the {count} endpoints answers: {}", words.join("; ")))
                .with_source(last)),
            None => Err(Error::invalid_config("etcd needs at least one endpoint")),
        }
    }

    /// What a failure of the very first request most likely means.
    fn hint(&self, Failure { error, next }: Failure) -> Error {
        match error::misconfigured(&error) {
            Some(reason) => Error::invalid_config(reason).with_source(error),
            None if next == Next::Again && *error.kind() == ErrorKind::Unavailable => {
                // A server that refuses within TLS may be gone before its reason is read.
                let question = match &self.tls {
                    None => "is it an etcd server, and does it speak TLS (etcd+tls://)?",
                    Some(false) => "does it ask for a client certificate (cert= and key=)?",
                    Some(true) => "is it an etcd server, and does it trust the client certificate?",
                };
                Error::new(ErrorKind::Unavailable)
                    .with_detail(format!("the connection broke at the first request: {question}"))
                    .with_source(error)
            }
            // Every etcd knows this request.
            None if matches!(error.kind(), ErrorKind::Unsupported { .. } | ErrorKind::Protocol) => {
                let detail = error.to_string();
                Error::new(ErrorKind::Protocol)
                    .with_detail(format!("is it an etcd server? It does not answer as one: {detail}"))
                    .with_source(error)
            }
            None => error,
        }
    }

    /// How many requests were made so far, repeats included.
    pub(crate) fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Whether requests are made for a user, whose tokens end.
    pub(crate) fn has_user(&self) -> bool {
        self.has_user
    }

    /// Lets go of all connections, for good.
    pub(crate) fn disconnect(&self) {
        self.members_now().iter().for_each(|member| member.disconnect());
    }

    pub(crate) async fn read(&self, deadline: Deadline, read: &Read) -> Result<Page> {
        let (name, options) = read.native();
        let ask = move |native: Arc<Native>| {
            let (name, options) = (name.clone(), options.clone());
            async move { Ok(answer::page(read, native.kv.clone().get(name, Some(options)).await?.0)?) }
        };
        let leader = if read.stale { Leader::NotNeeded } else { Leader::Needed };
        self.call(deadline, leader, Repeat::Harmless, ask).await
    }

    pub(crate) async fn commit(&self, deadline: Deadline, tree: Tree) -> Result<TreeDone> {
        let repeat = if tree.writes() { Repeat::Never } else { Repeat::Harmless };
        let tree = &tree;
        let ask = move |native: Arc<Native>| async move {
            Ok(answer::tree_done(tree, native.kv.clone().txn(tree.clone().native()).await?.0)?)
        };
        self.call(deadline, Leader::Needed, repeat, ask).await
    }

    /// Makes one step under no conditions. The server does less for it than for a transaction, and when
    /// it is full it takes a delete where an old one refuses every transaction.
    pub(crate) async fn alone(&self, deadline: Deadline, step: Step) -> Result<TreeDone> {
        match step {
            Step::Put { name, value, lease } => {
                let ask = move |native: Arc<Native>| {
                    let (name, value) = (name.clone(), value.clone());
                    async move {
                        let answer = native.kv.clone().put(name, value, wire::attaching(lease)).await?;
                        Ok(answer::put_done(answer.0)?)
                    }
                };
                self.call(deadline, Leader::Needed, Repeat::Never, ask).await
            }
            Step::Delete { range, previous } => {
                let range = &range;
                let ask = move |native: Arc<Native>| async move {
                    let (name, options) = wire::deletion(range.clone(), previous);
                    Ok(answer::deleted(range, native.kv.clone().delete(name, Some(options)).await?.0)?)
                };
                self.call(deadline, Leader::Needed, Repeat::Never, ask).await
            }
            // It is a transaction already.
            Step::Branch(tree) => {
                let done = self.commit(deadline, tree).await?;
                let revision = done.revision;
                Ok(TreeDone { succeeded: true, steps: vec![Done::Branch(done)], revision })
            }
            step @ Step::Read(_) => self.commit(deadline, Tree::always(vec![step])).await,
        }
    }

    /// Grants the lease `id`, which nobody else may have, and returns its time to live in seconds.
    pub(crate) async fn grant(&self, deadline: Deadline, id: i64, seconds: i64) -> Result<i64> {
        let ask = move |native: Arc<Native>| async move {
            let options = native::LeaseGrantOptions::new().with_id(id);
            let granted = native.lease.clone().grant(seconds, Some(options)).await?;
            if granted.id() != id || !(1..=error::MAX_TTL_SECONDS).contains(&granted.ttl()) {
                return Err(error::nonsense("another lease than was asked for").into());
            }
            Ok(granted.ttl())
        };
        self.call(deadline, Leader::Needed, Repeat::Never, ask).await
    }

    /// Revokes a lease and so deletes its keys; `false` if there is none.
    pub(crate) async fn revoke(&self, deadline: Deadline, id: i64) -> Result<bool> {
        let ask = move |native: Arc<Native>| async move {
            native.lease.clone().revoke(id).await?;
            Ok(true)
        };
        match self.call(deadline, Leader::Needed, Repeat::Harmless, ask).await {
            Err(error) if error::lease_gone(&error) => Ok(false),
            other => other,
        }
    }

    /// Renews a lease; `false` if there is none any more.
    pub(crate) async fn renew(&self, deadline: Deadline, id: i64) -> Result<bool> {
        let ask = move |native: Arc<Native>| async move {
            match native.lease.clone().keep_alive(id).await {
                Ok((keeper, _)) if keeper.id() != id => {
                    Err(error::nonsense("the renewal of another lease").into())
                }
                Ok(_) => Ok(true),
                Err(native::Error::LeaseKeepAliveError(text)) if text.contains("not found") => Ok(false),
                Err(error) => Err(error.into()),
            }
        };
        self.call(deadline, Leader::Needed, Repeat::Harmless, ask).await
    }

    /// The granted and the remaining time of a lease in seconds; `None` if there is none any more.
    pub(crate) async fn time_to_live(&self, deadline: Deadline, id: i64) -> Result<Option<(u64, u64)>> {
        let ask = move |native: Arc<Native>| async move {
            let left = native.lease.clone().time_to_live(id, None).await?;
            let granted = u64::try_from(left.granted_ttl()).ok().filter(|granted| *granted > 0);
            // Below zero: it is gone.
            match (u64::try_from(left.ttl()).ok(), granted) {
                _ if left.id() != id => Err(error::nonsense("the time of another lease").into()),
                (None, _) => Ok(None),
                (Some(left), Some(granted)) => Ok(Some((granted, left))),
                (Some(_), None) => Err(error::nonsense("a lease that was granted for no time").into()),
            }
        };
        self.call(deadline, Leader::Needed, Repeat::Harmless, ask).await
    }

    /// The version the server tells.
    pub(crate) async fn version(&self, deadline: Deadline) -> Result<String> {
        let ask = |native: Arc<Native>| async move {
            Ok(native.maintenance.clone().status().await?.version().to_owned())
        };
        self.call(deadline, Leader::NotNeeded, Repeat::Harmless, ask).await
    }

    /// Opens a stream of changes that begins with one watch.
    pub(crate) async fn open_watch(
        &self,
        deadline: Deadline,
        first: &WatchRequest,
    ) -> Result<(ChangesOut, ChangesIn)> {
        let ask = |native: Arc<Native>| {
            let (name, options) = first.native();
            async move { Ok(stream::open(native, name, options).await?) }
        };
        self.call(deadline, Leader::Needed, Repeat::Harmless, ask).await
    }

    /// Makes a request, on another member or again where that is allowed, until the deadline.
    async fn call<T, F, Fut>(&self, deadline: Deadline, leader: Leader, repeat: Repeat, ask: F) -> Result<T>
    where
        F: Fn(Arc<Native>) -> Fut + Sync,
        Fut: Future<Output = Result<T, Failure>> + Send,
    {
        let (mut tried, mut repeats, mut signed_in) = (0, 0, false);
        loop {
            let members = self.members_now();
            let count = members.len();
            let at = self.pick(&members);
            let member = &members[at];
            let sent = AtomicBool::new(false);
            // A read leaves time to ask another member; a write cannot be asked twice.
            let left = deadline.remaining()?;
            let patience = match repeat {
                Repeat::Harmless if tried + 1 < count => (left / 2).max(PATIENCE).min(left),
                Repeat::Harmless | Repeat::Never | Repeat::Once => left,
            };
            let asked = tokio::time::timeout(patience, self.attempt(member, leader, &ask, &sent)).await;
            let Failure { error, next } = match asked {
                Ok((Ok(answer), _)) => return Ok(answer),
                Ok((Err(Failure { next: Next::SignIn, .. }), generation)) if !signed_in => {
                    signed_in = true;
                    let signing_in = async { Ok(member.sign_in(generation).await) };
                    // What was asked was refused, whatever comes of this.
                    match deadline.run(signing_in).await.map_err(Error::not_applied)? {
                        Ok(()) => continue,
                        Err(failure) => failure,
                    }
                }
                Ok((Err(failure), _)) => failure,
                Err(_) => {
                    let waited = format!("no answer within {patience:?}");
                    let error = Error::new(ErrorKind::Timeout).with_detail(waited);
                    Failure { error, next: Next::Again }
                }
            };
            let error = error.with_endpoint(&member.endpoint);
            let error = if sent.into_inner() { error } else { error.not_applied() };
            tried += 1;
            if next != Next::Stop {
                self.turn_from(at, count);
            }
            match next {
                Next::Elsewhere if tried < count => continue,
                Next::Again if repeat == Repeat::Harmless && repeats < REPEATS.max(count) => repeats += 1,
                Next::Wait if repeat != Repeat::Once => {}
                Next::Stop | Next::SignIn | Next::Elsewhere | Next::Again | Next::Wait => return Err(error),
            }
            // The failure says more than that the time is over.
            match deadline.remaining() {
                Ok(left) if left > PAUSE => tokio::time::sleep(PAUSE).await,
                _ => return Err(error),
            }
        }
    }

    /// One attempt on one member, and the sign-in it was made under.
    async fn attempt<T, F, Fut>(
        &self,
        member: &Member,
        leader: Leader,
        ask: &F,
        sent: &AtomicBool,
    ) -> (Result<T, Failure>, u64)
    where
        F: Fn(Arc<Native>) -> Fut,
        Fut: Future<Output = Result<T, Failure>>,
    {
        if let Err(failure) = member.turn().await {
            return (Err(failure), 0);
        }
        let (native, generation) = match member.native().await {
            Ok(native) => native,
            Err(failure) => {
                if failure.next == Next::Elsewhere {
                    member.refused(&failure.error);
                }
                return (Err(failure), 0);
            }
        };
        sent.store(true, Ordering::Relaxed);
        self.requests.fetch_add(1, Ordering::Relaxed);
        let breaks = member.breaks();
        let mut asked = ask(native).await;
        if leader == Leader::NotNeeded
            && matches!(&asked, Err(Failure { next: Next::Wait, .. }))
            && let Ok(native) = member.leaderless().await
        {
            self.requests.fetch_add(1, Ordering::Relaxed);
            asked = ask(native).await;
        }
        match &asked {
            Err(Failure { next: Next::Elsewhere, error }) => {
                sent.store(false, Ordering::Relaxed);
                member.refused(error);
            }
            Err(Failure { error, .. }) if error::broke(error) => member.broke(breaks, error),
            _ => member.reached(),
        }
        (asked, generation)
    }

    /// The member to ask: the current one, unless it is to be left alone and another is not.
    fn pick(&self, members: &[Arc<Member>]) -> usize {
        let first = self.current.load(Ordering::Relaxed);
        let count = members.len();
        (0..count)
            .map(|step| (first + step) % count)
            .find(|at| members[*at].is_open())
            .unwrap_or(first % count)
    }

    /// Goes on with the member behind this one, unless somebody did that already.
    fn turn_from(&self, at: usize, count: usize) {
        let next = (at + 1) % count;
        let _ = self.current.compare_exchange(at, next, Ordering::Relaxed, Ordering::Relaxed);
    }
}

/// How to connect to an endpoint of these settings.
fn dial(settings: &Settings) -> Dial {
    let count = u32::try_from(settings.hosts.len()).unwrap_or(u32::MAX).max(1);
    Dial {
        tls: settings.tls.as_ref().map(stream::tls),
        user: settings.user.clone(),
        plaintext: settings.sends_in_clear().then_some(settings.plaintext),
        connect_timeout: settings.connect_timeout / count,
        keep_alive: settings.keep_alive,
    }
}
