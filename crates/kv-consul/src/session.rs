//! Sessions: what expiring keys, session keys and locks live by.

use std::sync::Arc;
use std::time::Duration;

use kv_backend::{Deadline, SessionCell};
use kv_core::{EntryExpiry, Error, ErrorKind, Expiry, LockLoss, Result, TtlRange};
use tokio::sync::{Mutex, oneshot, watch};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::api::{Api, Lane};
use crate::error::protocol;
use crate::shared::Shared;
use crate::wire::{NewSession, SessionInfo};

/// The times to live Consul keeps for a session.
pub(crate) const TTL: TtlRange =
    TtlRange::new(Duration::from_secs(10), Duration::from_secs(24 * 3600), Duration::from_millis(1));

/// The name of the session of one key with a time to live. Such a session has that one key, so whoever
/// takes the key from it may end it.
pub(crate) const TTL_NAME: &str = "kv ttl";
const HANDLE_NAME: &str = "kv handle";
const LOCK_NAME: &str = "kv lock";

/// Whether the keys of a session are entries that expire: one a store like this made for that. Any other that
/// has a key is somebody's lock, whatever it does to its keys at its end.
pub(crate) fn has_entries(info: &SessionInfo) -> bool {
    info.behavior == DELETE && matches!(info.name.as_str(), TTL_NAME | HANDLE_NAME)
}

/// How the keys of a session expire.
pub(crate) fn expiry_of(info: &SessionInfo) -> Result<EntryExpiry> {
    match info.behavior.as_str() {
        DELETE if info.name == TTL_NAME => Ok(EntryExpiry::ttl(parse_go_duration(&info.ttl)?, None)),
        DELETE => Ok(EntryExpiry::Session),
        _ => Ok(EntryExpiry::Never),
    }
}

/// What a session does to its keys when it ends.
const DELETE: &str = "delete";
const RELEASE: &str = "release";

/// How much earlier than its time to live a hold is taken for lost. Consul itself waits twice as long.
fn margin(ttl: Duration) -> Duration {
    ttl / 20
}

/// A time as Consul takes it.
fn go_duration(time: Duration) -> String {
    format!("{}ms", time.as_millis())
}

/// What `15s`, `1h0m0s` or `1500ms` stands for, as Go writes it.
fn parse_go_duration(text: &str) -> Result<Duration> {
    let wrong = || protocol("a session's time to live is no time");
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
        let number: f64 = rest[..digits].parse().map_err(|_| wrong())?;
        let unit_end = rest[digits..].find(|c: char| c.is_ascii_digit()).map_or(rest.len(), |at| digits + at);
        let unit = match &rest[digits..unit_end] {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return Err(wrong()),
        };
        let part = Duration::try_from_secs_f64(number * unit).map_err(|_| wrong())?;
        total = total.checked_add(part).ok_or_else(wrong)?;
        rest = &rest[unit_end..];
    }
    Ok(total)
}

/// How a put binds its key.
#[derive(Debug)]
pub(crate) enum Binding {
    /// To nothing: it is permanent.
    Permanent,
    /// As it is bound already, or to nothing if it is absent.
    Keep,
    /// To a session of its own.
    Ttl(TtlSession),
    /// To the session of the handle.
    Handle(String),
}

impl Binding {
    /// Makes what an expiry needs.
    pub(crate) async fn new(shared: &Arc<Shared>, expiry: Expiry, deadline: &Deadline) -> Result<Self> {
        match expiry {
            Expiry::Never => Ok(Self::Permanent),
            Expiry::Keep => Ok(Self::Keep),
            Expiry::Ttl(ttl) => TtlSession::new(shared, TTL.check(ttl)?, deadline).await.map(Self::Ttl),
            Expiry::Session => shared.session.id(shared, deadline).await.map(Self::Handle),
            _ => Err(Error::unsupported("this kind of expiry")),
        }
    }

    /// The session to bind the key to, where that is not the one it has.
    pub(crate) fn session(&self) -> Option<&str> {
        match self {
            Self::Permanent | Self::Keep => None,
            Self::Ttl(session) => Some(&session.id),
            Self::Handle(id) => Some(id),
        }
    }

    /// Whether a put with it takes the key from this session.
    pub(crate) fn replaces(&self, holder: &str) -> bool {
        !matches!(self, Self::Keep) && self.session() != Some(holder)
    }

    /// The time to live that was granted.
    pub(crate) fn granted(&self) -> Option<Duration> {
        match self {
            Self::Ttl(session) => Some(session.ttl),
            Self::Permanent | Self::Keep | Self::Handle(_) => None,
        }
    }

    /// Before the key is bound: a session that has waited for that for long would end the key early,
    /// and is exchanged.
    pub(crate) async fn freshen(&mut self, shared: &Arc<Shared>, deadline: &Deadline) -> Result<()> {
        match self {
            Self::Ttl(session) if session.unused && session.made.elapsed() > session.ttl / 2 => {
                self.renew(shared, deadline).await
            }
            _ => Ok(()),
        }
    }

    /// From here on the session may have a key, so that ending it could end the key.
    pub(crate) fn sending(&mut self) {
        if let Self::Ttl(session) = self {
            session.unused = false;
        }
    }

    /// Consul refused the write: the session has no key.
    pub(crate) fn refused(&mut self) {
        if let Self::Ttl(session) = self {
            session.unused = true;
        }
    }

    /// Consul does not know the session: makes another one.
    pub(crate) async fn renew(&mut self, shared: &Arc<Shared>, deadline: &Deadline) -> Result<()> {
        match self {
            Self::Permanent | Self::Keep => {
                return Err(protocol("a session is missed that was never given").not_applied());
            }
            Self::Ttl(session) => *session = TtlSession::new(shared, session.ttl, deadline).await?,
            Self::Handle(id) => {
                shared.session.gone(id).await;
                *id = shared.session.id(shared, deadline).await?;
            }
        }
        Ok(())
    }
}

/// The session of one key with a time to live: nobody renews it. Ended on drop while it has no key.
#[derive(Debug)]
pub(crate) struct TtlSession {
    id: String,
    ttl: Duration,
    made: Instant,
    unused: bool,
    shared: Arc<Shared>,
}

impl TtlSession {
    async fn new(shared: &Arc<Shared>, ttl: Duration, deadline: &Deadline) -> Result<Self> {
        let made = Instant::now();
        let id = create(shared, TTL_NAME, ttl, DELETE, Duration::ZERO, deadline).await?;
        Ok(Self { id, ttl, made, unused: true, shared: Arc::clone(shared) })
    }
}

impl Drop for TtlSession {
    fn drop(&mut self) {
        if self.unused {
            end(&self.shared, std::mem::take(&mut self.id));
        }
    }
}

/// A session that was made; ended on drop unless it is taken.
struct Fresh {
    shared: Arc<Shared>,
    id: Option<String>,
}

impl Fresh {
    fn take(mut self) -> Result<String> {
        self.id.take().ok_or_else(|| Error::new(ErrorKind::Internal))
    }
}

impl Drop for Fresh {
    fn drop(&mut self) {
        if let Some(id) = self.id.take() {
            end(&self.shared, id);
        }
    }
}

/// Ends a session nobody needs, in the background.
fn end(shared: &Arc<Shared>, id: String) {
    let task = Arc::clone(shared);
    shared.spawn(async move {
        let deadline = Deadline::after(task.timeout);
        if let Err(error) = task.api.destroy_session(Lane::Call, &id, &deadline).await {
            tracing::debug!(%error, "a session that is not needed stays until it expires");
        }
    });
}

/// Makes a session. A task of its own does, which outlives a caller that gives up, so that what is made
/// then is ended.
async fn create(
    shared: &Arc<Shared>,
    name: &'static str,
    ttl: Duration,
    behavior: &'static str,
    lock_delay: Duration,
    deadline: &Deadline,
) -> Result<String> {
    let new = NewSession {
        name,
        ttl: go_duration(ttl),
        behavior,
        lock_delay: go_duration(lock_delay),
        node_checks: [],
    };
    let (sender, made) = oneshot::channel();
    let patience = Deadline::after(deadline.remaining()? + shared.timeout);
    let task = Arc::clone(shared);
    shared.spawn(async move {
        let made = tokio::select! {
            made = task.api.create_session(&new, &patience) => made,
            () = task.closed_for_good() => return,
        };
        let fresh = made.map(|id| Fresh { shared: Arc::clone(&task), id: Some(id) });
        drop(sender.send(fresh));
    });
    let made = async { made.await.unwrap_or_else(|_| Err(Error::new(ErrorKind::Closed))) };
    let id = deadline.run(made).await.map_err(|error| shared.api.blame(error))?.take()?;
    if behavior == DELETE {
        shared.ephemeral.add(&id);
    }
    Ok(id)
}

/// How the renewing of a session stands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Renewal {
    /// When the last renewal that was acknowledged was sent.
    pub(crate) sent_at: Instant,
    /// Why it is not renewed any more.
    pub(crate) end: Option<LockLoss>,
}

/// A session that is renewed until this is dropped or it ends.
#[derive(Debug)]
pub(crate) struct Renewed {
    pub(crate) id: String,
    pub(crate) ttl: Duration,
    pub(crate) renewal: watch::Receiver<Renewal>,
    task: AbortHandle,
}

impl Renewed {
    /// A session for a lock: it keeps its keys when it ends, and Consul keeps others away from them for
    /// a while.
    pub(crate) async fn for_lock(shared: &Arc<Shared>, ttl: Duration, deadline: &Deadline) -> Result<Self> {
        Self::new(shared, LOCK_NAME, ttl, RELEASE, shared.lock_delay, deadline).await
    }

    async fn new(
        shared: &Arc<Shared>,
        name: &'static str,
        ttl: Duration,
        behavior: &'static str,
        lock_delay: Duration,
        deadline: &Deadline,
    ) -> Result<Self> {
        let sent_at = Instant::now();
        let id = create(shared, name, ttl, behavior, lock_delay, deadline).await?;
        let (sender, renewal) = watch::channel(Renewal { sent_at, end: None });
        let renewing = renew(Arc::clone(shared), id.clone(), ttl, sender);
        let closing = shared.closing.clone();
        let task = shared.spawn(async move {
            let _ended = closing.run_until_cancelled_owned(renewing).await;
        });
        Ok(Self { id, ttl, renewal, task })
    }

    /// Lets it end.
    pub(crate) fn stop(&self) {
        self.task.abort();
    }

    /// How much earlier than the time to live it is taken for lost.
    pub(crate) fn margin(&self) -> Duration {
        margin(self.ttl)
    }
}

impl Drop for Renewed {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Renews a session until it ends.
async fn renew(shared: Arc<Shared>, id: String, ttl: Duration, renewal: watch::Sender<Renewal>) {
    let mut pause = ttl / 3;
    loop {
        tokio::time::sleep(pause).await;
        let sent_at = Instant::now();
        let deadline = Deadline::after(shared.timeout.min(ttl / 3));
        let end = match shared.api.renew_session(&id, &deadline).await {
            Ok(true) => None,
            Ok(false) => Some(LockLoss::SessionLost),
            Err(error) => match error.kind() {
                ErrorKind::PermissionDenied | ErrorKind::Unauthenticated => Some(LockLoss::PermissionDenied),
                _ => {
                    tracing::debug!(%error, "a session could not be renewed");
                    pause = shared.jitter(ttl / 20);
                    continue;
                }
            },
        };
        pause = ttl / 3;
        match end {
            None => renewal.send_modify(|renewal| renewal.sent_at = sent_at),
            Some(_) => {
                renewal.send_modify(|renewal| renewal.end = end);
                return;
            }
        }
    }
}

/// The session of a store handle, made when the first key needs it.
#[derive(Debug)]
pub(crate) struct HandleSession {
    pub(crate) cell: SessionCell,
    ttl: Duration,
    live: Mutex<Option<Live>>,
}

#[derive(Debug)]
struct Live {
    session: Renewed,
    watcher: AbortHandle,
}

impl Drop for Live {
    fn drop(&mut self) {
        self.watcher.abort();
    }
}

impl HandleSession {
    /// None yet.
    pub(crate) fn new(ttl: Duration) -> Self {
        Self { cell: SessionCell::new(), ttl, live: Mutex::new(None) }
    }

    /// The id of the session; a new one if there is none, or none any more.
    pub(crate) async fn id(&self, shared: &Arc<Shared>, deadline: &Deadline) -> Result<String> {
        use kv_core::SessionState::{Held, Suspect};
        let mut live =
            deadline.run(async { Ok(self.live.lock().await) }).await.map_err(Error::not_applied)?;
        if let Some(live) = live.as_ref()
            && matches!(self.cell.state(), Held | Suspect)
        {
            return Ok(live.session.id.clone());
        }
        // Whoever closes the handle takes the session under this lock: one made now would live on.
        shared.check_open().map_err(Error::not_applied)?;
        if let Some(old) = live.take() {
            // Lost by our clock, which is ahead of Consul's: what it still has must not come to life.
            end(shared, old.session.id.clone());
        }
        let session = Renewed::new(shared, HANDLE_NAME, self.ttl, DELETE, Duration::ZERO, deadline).await?;
        let first = *session.renewal.borrow();
        self.cell.renewed(first.sent_at, self.ttl, margin(self.ttl));
        let id = session.id.clone();
        let watcher = shared.spawn(follow(Arc::clone(shared), id.clone(), session.renewal.clone()));
        *live = Some(Live { session, watcher });
        Ok(id)
    }

    /// Consul does not know this session any more.
    async fn gone(&self, id: &str) {
        if self.live.lock().await.as_ref().is_some_and(|live| live.session.id == id) {
            self.cell.lost();
        }
    }

    /// Ends the session, and with it its keys.
    pub(crate) async fn close(&self, api: &Api, deadline: &Deadline) -> Result<()> {
        let live = deadline.run(async { Ok(self.live.lock().await.take()) }).await?;
        self.cell.close();
        match live {
            Some(live) => api.destroy_session(Lane::Vital, &live.session.id, deadline).await,
            None => Ok(()),
        }
    }
}

/// Publishes how the session of the handle stands.
async fn follow(shared: Arc<Shared>, id: String, mut renewal: watch::Receiver<Renewal>) {
    let cell = &shared.session.cell;
    loop {
        let now = *renewal.borrow_and_update();
        if now.end.is_some() {
            return cell.lost();
        }
        if cell.state() == kv_core::SessionState::Lost {
            // Renewed too late: the program has been told that the keys are gone, and so they go.
            return end(&shared, id);
        }
        cell.renewed(now.sent_at, shared.session.ttl, margin(shared.session.ttl));
        if renewal.changed().await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_go_writes_them() {
        for (text, millis) in
            [("15s", 15_000), ("10500ms", 10_500), ("1h0m0s", 3_600_000), ("1m30.5s", 90_500)]
        {
            assert_eq!(parse_go_duration(text).unwrap(), Duration::from_millis(millis), "{text}");
        }
        for text in ["s", "5", "5x", "1e400s", "-1s"] {
            assert!(parse_go_duration(text).is_err(), "{text}");
        }
        assert_eq!(
            parse_go_duration(&go_duration(Duration::from_millis(12_345))).unwrap().as_millis(),
            12_345
        );
    }
}
