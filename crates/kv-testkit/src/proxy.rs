//! A TCP proxy that puts one client at fault and not its rivals.

use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

/// Read at once, and held at most before reading stops, in each direction of a connection.
const CHUNK: usize = 16 << 10;
const BUFFER: usize = 1 << 20;
const REBIND_PAUSE: Duration = Duration::from_millis(20);

/// What a [`Proxy`] does with connections, those that are open included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// Passes everything on.
    #[default]
    Forward,
    /// Passes nothing on in either direction, and keeps connections open: a peer that fell
    /// silent. New connections are taken and silent too. What was sent arrives after the hold.
    Hold,
    /// Takes no new connections: the port refuses. Open ones go on; see [`Proxy::cut`].
    Refuse,
    /// Passes requests on and throws replies away. A connection that lost bytes is cut when the
    /// mode changes, so that no half answer is ever delivered.
    DropReplies,
    /// Passes this many bytes of replies on, over all connections from now, and then cuts.
    CutAfter {
        /// Bytes of replies that still arrive.
        reply_bytes: u64,
    },
    /// Passes everything on, each piece this much later.
    Delay(Duration),
    /// Passes everything on at this speed, in each direction of each connection.
    Throttle {
        /// At least 1.
        bytes_per_second: u32,
    },
}

/// What went through a [`Proxy`] so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Connections taken since the start.
    pub accepted: u64,
    /// Connections open now.
    pub open: u64,
    /// Bytes of requests passed on.
    pub to_server: u64,
    /// Bytes of replies passed on.
    pub to_client: u64,
    /// Bytes of replies thrown away.
    pub dropped: u64,
}

/// A proxy on a loopback port of its own, in front of one server. Dropping it cuts everything.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    task: AbortHandle,
}

#[derive(Debug)]
struct Shared {
    mode: watch::Sender<Mode>,
    /// Grows with each cut; a connection ends when it sees it change.
    cuts: watch::Sender<u64>,
    /// Whether the port listens.
    listens: watch::Sender<bool>,
    server: watch::Sender<String>,
    counters: Counters,
}

#[derive(Debug, Default)]
struct Counters {
    accepted: AtomicU64,
    open: AtomicU64,
    to_server: AtomicU64,
    to_client: AtomicU64,
    dropped: AtomicU64,
    /// Replies still allowed in [`Mode::CutAfter`].
    allowance: AtomicU64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    ToServer,
    ToClient,
}

impl Proxy {
    /// Starts a proxy in front of `server`, a `host:port`, in [`Mode::Forward`].
    ///
    /// # Errors
    /// If no loopback port can be had.
    pub async fn start(server: impl Into<String>) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            mode: watch::Sender::default(),
            cuts: watch::Sender::default(),
            listens: watch::Sender::new(true),
            server: watch::Sender::new(server.into()),
            counters: Counters::default(),
        });
        let task = tokio::spawn(accept(listener, address, Arc::clone(&shared))).abort_handle();
        Ok(Self { address, shared, task })
    }

    /// Where clients connect.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where clients connect, as `127.0.0.1:PORT`.
    #[must_use]
    pub fn endpoint(&self) -> String {
        self.address.to_string()
    }

    /// Changes what happens to connections; when it returns, the port refuses or listens as the
    /// mode says. Bytes being written at that moment still arrive.
    pub async fn set(&self, mode: Mode) {
        if let Mode::CutAfter { reply_bytes } = mode {
            self.shared.counters.allowance.store(reply_bytes, Ordering::Relaxed);
        }
        let mut listens = self.shared.listens.subscribe();
        self.shared.mode.send_replace(mode);
        // The task that answers lives as long as self.
        let _ = listens.wait_for(|&listens| listens != (mode == Mode::Refuse)).await;
    }

    /// Resets every open connection, on both sides, now. The mode stays: new ones are treated
    /// as it says.
    pub fn cut(&self) {
        self.shared.cut();
    }

    /// Leads new connections to another server; open ones stay where they are.
    pub fn redirect(&self, server: impl Into<String>) {
        self.shared.server.send_replace(server.into());
    }

    /// What went through so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let counters = &self.shared.counters;
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            accepted: get(&counters.accepted),
            open: get(&counters.open),
            to_server: get(&counters.to_server),
            to_client: get(&counters.to_client),
            dropped: get(&counters.dropped),
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Shared {
    fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }
}

/// Takes connections, and stops listening while the mode is to refuse. Ends by being aborted,
/// which takes its connections along.
async fn accept(listener: TcpListener, address: SocketAddr, shared: Arc<Shared>) {
    let mut mode = shared.mode.subscribe();
    let mut listener = Some(listener);
    let mut connections = JoinSet::new();
    loop {
        let refuses = *mode.borrow_and_update() == Mode::Refuse;
        if refuses {
            listener = None;
        } else if listener.is_none() {
            match TcpListener::bind(address).await {
                Ok(bound) => listener = Some(bound),
                // Only a connection that some process opened from this very port is in the way.
                Err(_) => {
                    tokio::time::sleep(REBIND_PAUSE).await;
                    continue;
                }
            }
        }
        shared.listens.send_if_modified(|listens| std::mem::replace(listens, !refuses) == refuses);
        tokio::select! {
            changed = mode.changed() => if changed.is_err() { return },
            taken = take(listener.as_ref()) => if let Ok(client) = taken {
                connections.spawn(connection(client, Arc::clone(&shared)));
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn take(listener: Option<&TcpListener>) -> io::Result<TcpStream> {
    match listener {
        Some(listener) => Ok(listener.accept().await?.0),
        None => std::future::pending().await,
    }
}

/// Counts a connection as open for as long as it lives.
struct Open(Arc<Shared>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.counters.open.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn connection(client: TcpStream, shared: Arc<Shared>) {
    shared.counters.accepted.fetch_add(1, Ordering::Relaxed);
    shared.counters.open.fetch_add(1, Ordering::Relaxed);
    let open = Open(Arc::clone(&shared));
    let mut cuts = shared.cuts.subscribe();
    tokio::select! {
        _ = cuts.changed() => {}
        _ = relay(client, &shared) => {}
    }
    drop(open);
}

/// Relays until both directions have ended in order; ending otherwise resets both sides.
async fn relay(mut client: TcpStream, shared: &Shared) -> io::Result<()> {
    let _ = client.set_zero_linger();
    let mut mode = shared.mode.subscribe();
    // A connection taken during a hold reaches the server only after it.
    if mode.wait_for(|mode| *mode != Mode::Hold).await.is_err() {
        return Ok(());
    }
    let address = shared.server.borrow().clone();
    let mut server = TcpStream::connect(address).await?;
    let _ = server.set_zero_linger();
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (mut from_client, mut to_client) = client.split();
    let (mut from_server, mut to_server) = server.split();
    tokio::try_join!(
        Pump::new(shared, Direction::ToServer).run(&mut from_client, &mut to_server),
        Pump::new(shared, Direction::ToClient).run(&mut from_server, &mut to_client),
    )?;
    for stream in [client, server] {
        #[allow(deprecated)] // It blocks only for a linger time other than none.
        let _ = stream.set_linger(None);
    }
    Ok(())
}

/// One direction of one connection.
struct Pump<'a> {
    shared: &'a Shared,
    direction: Direction,
    mode: watch::Receiver<Mode>,
    /// What was read, each piece with the time from which it may be passed on.
    waiting: VecDeque<(Instant, Vec<u8>)>,
    buffered: usize,
    /// Before this, a throttled direction passes nothing on.
    paced: Instant,
    ended: bool,
    lost_bytes: bool,
}

impl<'a> Pump<'a> {
    fn new(shared: &'a Shared, direction: Direction) -> Self {
        Self {
            shared,
            direction,
            mode: shared.mode.subscribe(),
            waiting: VecDeque::new(),
            buffered: 0,
            paced: Instant::now(),
            ended: false,
            lost_bytes: false,
        }
    }

    async fn run(mut self, from: &mut ReadHalf<'_>, to: &mut WriteHalf<'_>) -> io::Result<()> {
        let mut chunk = vec![0; CHUNK];
        loop {
            let mode = *self.mode.borrow_and_update();
            if self.lost_bytes && mode != Mode::DropReplies {
                return Err(io::ErrorKind::ConnectionReset.into());
            }
            if self.ended && self.waiting.is_empty() {
                return to.shutdown().await;
            }
            let holds = mode == Mode::Hold;
            let room = match mode {
                // Small pieces, so that the speed is even.
                Mode::Throttle { bytes_per_second } => (bytes_per_second as usize / 20).clamp(1, CHUNK),
                _ => CHUNK,
            };
            let due = self.waiting.front().map(|(due, _)| (*due).max(self.paced));
            tokio::select! {
                changed = self.mode.changed() => if changed.is_err() { return Ok(()) },
                read = from.read(&mut chunk[..room]),
                    if !holds && !self.ended && self.buffered < BUFFER =>
                {
                    let read = read?;
                    self.take_in(mode, &chunk[..read]);
                }
                () = at(due), if !holds => self.pass_on(mode, to).await?,
            }
        }
    }

    fn take_in(&mut self, mode: Mode, piece: &[u8]) {
        if piece.is_empty() {
            self.ended = true;
            return;
        }
        if mode == Mode::DropReplies && self.direction == Direction::ToClient {
            self.lost_bytes = true;
            self.count(&self.shared.counters.dropped, piece.len());
            return;
        }
        let later = if let Mode::Delay(delay) = mode { delay } else { Duration::ZERO };
        self.waiting.push_back((Instant::now() + later, piece.to_vec()));
        self.buffered += piece.len();
    }

    async fn pass_on(&mut self, mode: Mode, to: &mut WriteHalf<'_>) -> io::Result<()> {
        let Some((_, mut piece)) = self.waiting.pop_front() else { return Ok(()) };
        self.buffered -= piece.len();
        let mut cut = false;
        if let (Mode::CutAfter { .. }, Direction::ToClient) = (mode, self.direction) {
            let allowed = self.spend(piece.len());
            cut = allowed < piece.len();
            piece.truncate(allowed);
        }
        to.write_all(&piece).await?;
        let counters = &self.shared.counters;
        match self.direction {
            Direction::ToServer => self.count(&counters.to_server, piece.len()),
            Direction::ToClient => self.count(&counters.to_client, piece.len()),
        }
        if let Mode::Throttle { bytes_per_second } = mode {
            let seconds = piece.len() as f64 / f64::from(bytes_per_second.max(1));
            self.paced = self.paced.max(Instant::now()) + Duration::from_secs_f64(seconds);
        }
        if cut {
            // The kernel may drop what it has not sent when a connection is reset, so what was
            // allowed is given the time to leave.
            tokio::time::sleep(REBIND_PAUSE).await;
            self.shared.cut();
        }
        Ok(())
    }

    /// Takes up to `wanted` from the allowance that all connections share.
    fn spend(&self, wanted: usize) -> usize {
        let wanted = wanted as u64;
        let allowance = &self.shared.counters.allowance;
        let before = allowance
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| Some(left.saturating_sub(wanted)))
            .unwrap_or_default();
        usize::try_from(before.min(wanted)).unwrap_or(usize::MAX)
    }

    fn count(&self, counter: &AtomicU64, bytes: usize) {
        counter.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

async fn at(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}
