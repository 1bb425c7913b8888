//! One endpoint: connected when first used, and asked at a bounded pace while it cannot be reached.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use etcd_client as native;
use kv_backend::Plaintext;
use kv_core::{Error, ErrorKind, Secret};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::error::{self, Next, closed};
use super::failure::Failure;

/// The largest answer taken. Pages are kept far smaller; this is what a server could make us hold.
const MAX_ANSWER: usize = 32 << 20;
/// The same for a watch, where one message can carry many changes and what was there before them.
const MAX_CHANGES: usize = 64 << 20;

/// How long an endpoint that refused is left alone: doubled at each failure.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// How to connect, the same for every endpoint.
#[derive(Clone)]
pub(super) struct Dial {
    pub(super) tls: Option<native::TlsOptions>,
    pub(super) user: Option<(String, Secret)>,
    /// Where the password may go without TLS; `None` where there is TLS, or no password.
    pub(super) plaintext: Option<Plaintext>,
    pub(super) connect_timeout: Duration,
    pub(super) keep_alive: Duration,
}

impl Dial {
    fn options(&self, leader: Leader) -> native::ConnectOptions {
        let options = native::ConnectOptions::new()
            .with_require_leader(leader == Leader::Needed)
            .with_connect_timeout(self.connect_timeout)
            .with_keep_alive(self.keep_alive, self.keep_alive / 2)
            // The server takes pings without a call for an attack and hangs up.
            .with_keep_alive_while_idle(false);
        match &self.tls {
            Some(tls) => options.with_tls(tls.clone()),
            None => options,
        }
    }
}

/// Whether a member that knows of no leader is to refuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leader {
    Needed,
    NotNeeded,
}

/// The native clients of one endpoint; they share one connection.
pub(crate) struct Native {
    pub(crate) kv: native::KvClient,
    pub(crate) watch: native::WatchClient,
    pub(crate) lease: native::LeaseClient,
    pub(crate) maintenance: native::MaintenanceClient,
    /// How often its member signed in so far.
    pub(super) sign_ins: Arc<AtomicU64>,
    /// For signing in, and for requests about the servers.
    pub(super) all: native::Client,
}

/// See the module.
pub(crate) struct Member {
    /// `http(s)://host:port`, as errors name it.
    pub(super) endpoint: String,
    dial: Dial,
    native: RwLock<Connection>,
    /// Held while connecting or signing in.
    signing_in: tokio::sync::Mutex<()>,
    /// How often it signed in: tells a stale token from a new one.
    sign_ins: Arc<AtomicU64>,
    gate: Mutex<Gate>,
    opened: Notify,
    /// The id of the member that answered here last, 0 before one did.
    answered_as: AtomicU64,
}

/// The native clients, and whether the handle is closed, after which there are none for ever.
#[derive(Default)]
struct Connection {
    native: Option<Arc<Native>>,
    /// See [`Member::leaderless`].
    leaderless: Option<Arc<Native>>,
    closed: bool,
}

/// Whether and when an endpoint may be tried.
#[derive(Default)]
struct Gate {
    failures: u32,
    /// Grows with each failed attempt.
    attempts: u64,
    not_before: Option<Instant>,
    last: Option<String>,
    /// How often its connection broke: tells one that broke from those made since.
    breaks: u64,
    /// Whether it answered anything since.
    answered: bool,
}

impl Member {
    pub(super) fn new(endpoint: String, dial: Dial) -> Self {
        Self {
            endpoint,
            dial,
            native: RwLock::default(),
            signing_in: tokio::sync::Mutex::default(),
            sign_ins: Arc::default(),
            gate: Mutex::default(),
            opened: Notify::new(),
            answered_as: AtomicU64::new(0),
        }
    }

    /// `host:port`, as it is configured.
    pub(crate) fn host(&self) -> &str {
        self.endpoint.split_once("://").map_or(&self.endpoint, |(_, host)| host)
    }

    /// The address as a URL.
    pub(crate) fn url(&self) -> &str {
        &self.endpoint
    }

    /// The member that answered here last.
    pub(crate) fn answered_as(&self) -> Option<u64> {
        Some(self.answered_as.load(Ordering::Relaxed)).filter(|id| *id != 0)
    }

    /// Notes which member answers here.
    pub(super) fn answers_as(&self, id: u64) {
        self.answered_as.store(id, Ordering::Relaxed);
    }

    fn gate(&self) -> std::sync::MutexGuard<'_, Gate> {
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a request may go there now.
    pub(super) fn is_open(&self) -> bool {
        self.gate().not_before.is_none_or(|at| at <= Instant::now())
    }

    /// Waits for a turn to try. While the endpoint refuses, one caller tries per pause and the others
    /// get what it got.
    pub(super) async fn turn(&self) -> Result<(), Failure> {
        let mut seen = None;
        loop {
            let opened = self.opened.notified();
            let until = {
                let mut gate = self.gate();
                let Some(not_before) = gate.not_before else { return Ok(()) };
                if seen.is_some_and(|seen| seen != gate.attempts) {
                    let words = gate.last.clone().unwrap_or_default();
                    let error = Error::new(ErrorKind::Unavailable).not_applied().with_detail(words);
                    return Err(Failure { error, next: Next::Elsewhere });
                }
                if not_before <= Instant::now() {
                    // The next one waits for what comes of this.
                    gate.not_before = Some(Instant::now() + pause(gate.failures + 1));
                    return Ok(());
                }
                seen = Some(gate.attempts);
                not_before
            };
            // Its result is not needed: either way the gate is looked at again.
            let _ = tokio::time::timeout_at(until, opened).await;
        }
    }

    /// It answered.
    pub(super) fn reached(&self) {
        let mut gate = self.gate();
        gate.answered = true;
        if gate.not_before.is_some() {
            (gate.failures, gate.not_before, gate.last) = (0, None, None);
            drop(gate);
            self.opened.notify_waiters();
        }
    }

    /// It could not be connected to.
    pub(super) fn refused(&self, error: &Error) {
        self.forget();
        let mut gate = self.gate();
        gate.failures = gate.failures.saturating_add(1);
        gate.attempts += 1;
        gate.not_before = Some(Instant::now() + pause(gate.failures));
        gate.last = Some(error.to_string());
    }

    /// How often its connection broke so far.
    pub(super) fn breaks(&self) -> u64 {
        self.gate().breaks
    }

    /// The connection of a request that was made after so many breaks broke under it. One that brought
    /// no answer at all is as good as refused: behind a balancer that has no servers.
    pub(super) fn broke(&self, breaks: u64, error: &Error) {
        let mut gate = self.gate();
        if gate.breaks != breaks {
            return;
        }
        gate.breaks += 1;
        let answered = std::mem::take(&mut gate.answered);
        drop(gate);
        if !answered {
            self.refused(error);
        }
    }

    /// The clients, connected and signed in if that was not done yet, and the number of the sign-in.
    pub(super) async fn native(&self) -> Result<(Arc<Native>, u64), Failure> {
        // Read before it is used: a sign-in in between makes it stale and not the other way round.
        let generation = self.sign_ins.load(Ordering::Acquire);
        if let Some(native) = self.present()? {
            return Ok((native, generation));
        }
        let _signing_in = self.signing_in.lock().await;
        if let Some(native) = self.present()? {
            return Ok((native, self.sign_ins.load(Ordering::Acquire)));
        }
        let native = Arc::new(self.connect(Leader::Needed).await?);
        let mut connection = self.native.write().unwrap_or_else(PoisonError::into_inner);
        if connection.closed {
            return Err(closed().into());
        }
        connection.native = Some(Arc::clone(&native));
        drop(connection);
        Ok((native, self.sign_ins.fetch_add(1, Ordering::AcqRel) + 1))
    }

    /// Clients that ask although the member knows of no leader. They have a connection of their own, and
    /// are made only then.
    pub(super) async fn leaderless(&self) -> Result<Arc<Native>, Failure> {
        let _signing_in = self.signing_in.lock().await;
        if let Some(native) = &self.connection()?.leaderless {
            return Ok(Arc::clone(native));
        }
        let native = Arc::new(self.connect(Leader::NotNeeded).await?);
        let mut connection = self.native.write().unwrap_or_else(PoisonError::into_inner);
        if connection.closed {
            return Err(closed().into());
        }
        connection.leaderless = Some(Arc::clone(&native));
        Ok(native)
    }

    /// Connects and signs in.
    async fn connect(&self, leader: Leader) -> Result<Native, Failure> {
        let all = match self.dial.plaintext {
            None => self.connect_to(&self.endpoint, leader).await?,
            Some(plaintext) => {
                // To the very addresses that were judged, of which the first that answers is taken.
                let mut failed = None;
                let mut connected = None;
                for address in self.addresses(plaintext).await? {
                    match self.connect_to(&format!("http://{address}"), leader).await {
                        Err(failure) if failure.next == Next::Elsewhere => failed = Some(failure),
                        other => {
                            connected = Some(other?);
                            break;
                        }
                    }
                }
                match (connected, failed) {
                    (Some(all), _) => all,
                    (None, Some(failure)) => return Err(failure),
                    (None, None) => return Err(Error::new(ErrorKind::Internal).into()),
                }
            }
        };
        Ok(Native {
            kv: all.kv_client().max_decoding_message_size(MAX_ANSWER),
            watch: all.watch_client().max_decoding_message_size(MAX_CHANGES),
            lease: all.lease_client(),
            maintenance: all.maintenance_client(),
            sign_ins: Arc::clone(&self.sign_ins),
            all,
        })
    }

    /// What the endpoint's name stands for now, if a password may go there.
    async fn addresses(&self, plaintext: Plaintext) -> Result<Vec<SocketAddr>, Failure> {
        let elsewhere = |error: Error| Failure { error: error.not_applied(), next: Next::Elsewhere };
        let name = self.endpoint.trim_start_matches("http://");
        let found = tokio::net::lookup_host(name).await.map_err(|error| {
            let unknown = Error::new(ErrorKind::Unavailable).with_detail("the host name cannot be resolved");
            elsewhere(unknown.with_source(error))
        })?;
        let addresses: Vec<_> = found.collect();
        plaintext.check(name, addresses.iter().map(SocketAddr::ip)).map_err(elsewhere)?;
        Ok(addresses)
    }

    async fn connect_to(&self, endpoint: &str, leader: Leader) -> Result<native::Client, Failure> {
        let mut options = self.dial.options(leader);
        if let Some((user, password)) = &self.dial.user {
            options = options.with_user(user, password.expose());
        }
        let connected = match native::Client::connect([endpoint], Some(options)).await {
            Err(error) if is_auth_off(&error) => {
                // As etcd's own clients do, so that authentication can be turned off under them.
                tracing::warn!(endpoint = self.endpoint, "the server has authentication off");
                native::Client::connect([endpoint], Some(self.dial.options(leader))).await
            }
            connected => connected,
        };
        connected.map_err(|error| {
            let (error, next) = error::classify(error);
            Failure { error: error.not_applied(), next }
        })
    }

    /// Looks the endpoint's name up again before the next connection, where that was looked at.
    fn forget(&self) {
        if self.dial.plaintext.is_some() {
            let mut connection = self.native.write().unwrap_or_else(PoisonError::into_inner);
            (connection.native, connection.leaderless) = (None, None);
        }
    }

    fn connection(&self) -> Result<RwLockReadGuard<'_, Connection>, Failure> {
        let connection = self.native.read().unwrap_or_else(PoisonError::into_inner);
        if connection.closed { Err(closed().into()) } else { Ok(connection) }
    }

    fn present(&self) -> Result<Option<Arc<Native>>, Failure> {
        Ok(self.connection()?.native.clone())
    }

    /// Signs in again, unless somebody did since the sign-in `seen`.
    pub(super) async fn sign_in(&self, seen: u64) -> Result<(), Failure> {
        let Some((user, password)) = &self.dial.user else {
            let error = Error::new(ErrorKind::Unauthenticated)
                .with_detail("the server asks for a user and a password, and none is configured");
            return Err(Failure { error, next: Next::Stop });
        };
        let _signing_in = self.signing_in.lock().await;
        if self.sign_ins.load(Ordering::Acquire) != seen {
            return Ok(());
        }
        let Some(native) = self.present()? else { return Ok(()) };
        let credentials = (user.clone(), password.expose().to_owned());
        native.all.clone().update_user(Some(credentials)).await.map_err(|error| {
            let (error, next) = error::classify(error);
            // A refusal of the password must not lead back here.
            let next = if next == Next::SignIn { Next::Stop } else { next };
            Failure { error: error.not_applied(), next }
        })?;
        self.sign_ins.fetch_add(1, Ordering::AcqRel);
        Ok(())
    }

    /// Lets go of the connection, for good.
    pub(super) fn disconnect(&self) {
        let mut connection = self.native.write().unwrap_or_else(PoisonError::into_inner);
        *connection = Connection { closed: true, ..Connection::default() };
    }
}

fn is_auth_off(error: &native::Error) -> bool {
    matches!(error, native::Error::GRpcStatus(status)
        if status.message().contains("authentication is not enabled"))
}

fn pause(failures: u32) -> Duration {
    FIRST_PAUSE.saturating_mul(1 << failures.saturating_sub(1).min(8)).min(LONGEST_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member() -> Member {
        let dial = Dial {
            tls: None,
            user: None,
            plaintext: None,
            connect_timeout: LONGEST_PAUSE,
            keep_alive: LONGEST_PAUSE,
        };
        Member::new("http://h:1".to_owned(), dial)
    }

    fn refusal() -> Error {
        Error::new(ErrorKind::Unavailable).with_detail("refused")
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusing_endpoint_is_tried_at_most_about_once_a_second() {
        let member = member();
        let begin = Instant::now();
        let mut tries = 0;
        while begin.elapsed() < Duration::from_secs(10) {
            member.turn().await.map_err(|failure| failure.error).unwrap();
            member.refused(&refusal());
            tries += 1;
        }
        assert!(tries <= 14, "{tries}");
    }

    #[tokio::test(start_paused = true)]
    async fn many_callers_share_one_attempt() {
        let member = Arc::new(member());
        member.refused(&refusal());
        let callers: Vec<_> = (0..50)
            .map(|_| {
                let member = Arc::clone(&member);
                tokio::spawn(async move {
                    let turn = member.turn().await;
                    if turn.is_ok() {
                        tokio::time::sleep(Duration::from_millis(10)).await;
                        member.refused(&refusal());
                    }
                    turn.is_ok()
                })
            })
            .collect();
        let mut tried = 0;
        for caller in callers {
            tried += usize::from(caller.await.unwrap());
        }
        assert_eq!(tried, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_breaks_is_a_refusal_only_if_it_never_answered() {
        let member = member();
        member.reached();
        for _ in 0..50 {
            // Fifty requests on one connection are one break.
            member.broke(0, &refusal());
        }
        assert!(member.is_open());
        member.broke(1, &refusal());
        assert!(!member.is_open());
        tokio::time::sleep(FIRST_PAUSE).await;
        member.turn().await.map_err(|failure| failure.error).unwrap();
        member.reached();
        member.broke(2, &refusal());
        assert!(member.is_open());
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_opens_the_gate_for_all() {
        let member = Arc::new(member());
        member.refused(&refusal());
        member.refused(&refusal());
        let waiting = tokio::spawn({
            let member = Arc::clone(&member);
            async move { member.turn().await.is_ok() }
        });
        tokio::time::sleep(Duration::from_millis(1)).await;
        member.reached();
        assert!(waiting.await.unwrap());
        assert!(member.is_open());
    }
}
