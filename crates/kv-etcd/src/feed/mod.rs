//! One stream of changes for all watches of a handle.
//!
//! A task owns the stream. It opens it when there is a watch, takes every watch up again where it
//! stood when the stream broke, and closes it with the last watch. A watch that cannot be taken up
//! there is told that there is a gap and forgotten: its reader then reads the state and begins anew.
//! One whose reader is too slow is forgotten too, and told where it can be taken up again.

mod past;
mod sub;
mod subscription;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use kv_backend::Deadline;
use kv_core::{Error, ErrorKind, Result};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::client::error::{self, Next, closed};
use crate::client::{Answer, ChangesIn, ChangesOut, Client, Range, Read, WatchRequest, check_changes};
use past::Past;
use sub::{Queued, Sub};
pub(crate) use sub::{Signal, Spec};
use subscription::Command;
pub(crate) use subscription::Subscription;

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// A stream that is younger carries a token that was good just now.
const TOKEN_AGE: Duration = Duration::from_secs(1);

/// The way to the task.
pub(crate) struct Hub {
    commands: mpsc::UnboundedSender<Command>,
    ids: AtomicI64,
}

impl Hub {
    pub(crate) fn start(client: Arc<Client>, timeout: Duration, closing: CancellationToken) -> Self {
        let (commands, received) = mpsc::unbounded_channel();
        let task = Task {
            client,
            timeout,
            commands: received,
            subs: BTreeMap::new(),
            cluster: 0,
            first: 0,
            doubts_token: false,
        };
        tokio::spawn(async move {
            let mut task = task;
            let closed_now = closing.run_until_cancelled(task.run()).await;
            if closed_now.is_none() {
                task.subs.values_mut().for_each(|sub| sub.end(Signal::Failed(closed())));
            }
        });
        Self { commands, ids: AtomicI64::new(1) }
    }

    /// Begins a watch; when it returns, the server has taken it.
    pub(crate) async fn watch(&self, deadline: Deadline, spec: Spec) -> Result<Subscription> {
        let id = self.ids.fetch_add(1, Ordering::Relaxed);
        let (signals, received) = mpsc::unbounded_channel();
        let (started, has_started) = oneshot::channel();
        let queued = Arc::<Queued>::default();
        let sub = Sub {
            request: WatchRequest {
                id,
                range: spec.range,
                start: spec.start,
                puts: spec.puts,
                deletes: spec.deletes,
            },
            seen: spec.seen,
            signals,
            queued: Arc::clone(&queued),
            started: Some(started),
            retried: false,
        };
        self.commands.send(Command::Watch(id, Box::new(sub))).map_err(|_| closed())?;
        let commands = self.commands.clone();
        let subscription = Subscription { signals: received, queued, id, commands };
        deadline.run(async { has_started.await.unwrap_or_else(|_| Err(closed())) }).await?;
        Ok(subscription)
    }
}

struct Task {
    client: Arc<Client>,
    timeout: Duration,
    commands: mpsc::UnboundedReceiver<Command>,
    subs: BTreeMap<i64, Sub>,
    /// The cluster the last answer came from; 0 before the first.
    cluster: u64,
    /// The watch the stream was last opened with.
    first: i64,
    /// Whether the stream was given up because the server may have refused its token.
    doubts_token: bool,
}

impl Task {
    /// Until nobody can begin a watch any more.
    async fn run(&mut self) {
        let mut pause = FIRST_PAUSE;
        loop {
            while self.subs.is_empty() {
                match self.commands.recv().await {
                    Some(command) => self.note(command),
                    None => return,
                }
            }
            match self.connect().await {
                Ok(Some(Opened { past, first, out, stream })) => {
                    let opened = Instant::now();
                    self.doubts_token = false;
                    self.drop_lost_pasts(&past);
                    let Some(error) = self.serve(first, out, stream).await else { continue };
                    tracing::debug!(%error, "the stream of changes broke; taking it up again");
                    match error.kind() {
                        // The same message would come again: it was too large.
                        ErrorKind::Protocol => self.end_all(|| Signal::Gap(None)),
                        ErrorKind::PermissionDenied => self.end_all(|| Signal::Failed(again(&error))),
                        _ => {}
                    }
                    if opened.elapsed() > LONGEST_PAUSE {
                        pause = FIRST_PAUSE;
                    }
                    self.rest(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::debug!(%error, "the stream of changes cannot be opened; trying again");
                    self.fail(error);
                    self.rest(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }

    /// Takes commands for a while.
    async fn rest(&mut self, pause: Duration) {
        let over = tokio::time::sleep(pause);
        tokio::pin!(over);
        loop {
            tokio::select! {
                () = &mut over => return,
                command = self.commands.recv() => match command {
                    Some(command) => self.note(command),
                    None => return,
                },
            }
        }
    }

    fn note(&mut self, command: Command) {
        match command {
            Command::Watch(id, sub) => drop(self.subs.insert(id, *sub)),
            Command::Cancel(id) => drop(self.subs.remove(&id)),
        }
    }

    fn end_all(&mut self, signal: impl Fn() -> Signal) {
        for mut sub in std::mem::take(&mut self.subs).into_values() {
            sub.end(signal());
        }
    }

    /// What a stream that could not be opened means for each watch: those that begin fail with it,
    /// and all do where waiting does not help.
    fn fail(&mut self, error: Error) {
        let lasting = matches!(error.kind(), ErrorKind::Unauthenticated | ErrorKind::PermissionDenied);
        let mut remaining = BTreeMap::new();
        for (id, mut sub) in std::mem::take(&mut self.subs) {
            // What the watch that the stream was to be opened with may not see, others may.
            let its_own = *error.kind() != ErrorKind::PermissionDenied || id == self.first;
            if its_own && (lasting || sub.started.is_some()) {
                sub.end(Signal::Failed(again(&error)));
            } else {
                remaining.insert(id, sub);
            }
        }
        self.subs = remaining;
    }

    /// Opens the stream with the first watch. `None`: there is none any more.
    async fn connect(&mut self) -> Result<Option<Opened>> {
        let Some(first) = self.subs.values().next().map(|sub| sub.request.clone()) else {
            return Ok(None);
        };
        self.first = first.id;
        let (client, timeout, doubts_token) = (Arc::clone(&self.client), self.timeout, self.doubts_token);
        // One that begins was looked at by its reader.
        let resumed = self.subs.values().filter(|sub| sub.started.is_none());
        let mut starts: Vec<_> = resumed.map(|sub| sub.request.start).collect();
        starts.sort_unstable();
        let opening = async move {
            let deadline = Deadline::after(timeout);
            if doubts_token {
                // The opening alone does not sign in. Whether this may be read is another matter.
                let read = Read::new(Range::one(first.range.start.clone())).keys_only();
                match client.read(deadline, &read).await {
                    Err(error) if *error.kind() != ErrorKind::PermissionDenied => return Err(error),
                    _ => {}
                }
            }
            let past = Past::look(&client, deadline, &first.range, &starts).await?;
            let (out, stream) = client.open_watch(deadline, &first).await?;
            Ok(Some(Opened { past, first: first.id, out, stream }))
        };
        tokio::pin!(opening);
        loop {
            tokio::select! {
                opened = &mut opening => return opened,
                command = self.commands.recv() => match command {
                    Some(command) => self.note(command),
                    None => return Ok(None),
                },
            }
        }
    }

    /// Tells those that stand where nothing can be taken up again.
    fn drop_lost_pasts(&mut self, past: &Past) {
        self.subs.retain(|_, sub| {
            let resumed = sub.started.is_none();
            let lost = resumed && (sub.seen > past.now || sub.request.start < past.history);
            if lost {
                sub.end(Signal::Gap(None));
            }
            !lost
        });
    }

    /// Serves the stream until it breaks, or nobody watches any more.
    async fn serve(&mut self, first: i64, out: ChangesOut, mut stream: ChangesIn) -> Option<Error> {
        // Requests are sent by a task of their own: one that waited to send could not receive, and the
        // server then would not take requests either.
        let (requests, sending) = mpsc::unbounded_channel();
        let _sender = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(send(out, sending)));
        let ask = |request| drop(requests.send(request));
        let opened = Instant::now();
        // Answers to watches come in the order they were asked for.
        let mut pending = VecDeque::from([first]);
        for sub in self.subs.values().filter(|sub| sub.request.id != first) {
            pending.push_back(sub.request.id);
            ask(Request::Watch(sub.request.clone()));
        }
        loop {
            if self.subs.is_empty() {
                return None;
            }
            tokio::select! {
                command = self.commands.recv() => match command? {
                    Command::Watch(id, sub) => {
                        pending.push_back(id);
                        ask(Request::Watch(sub.request.clone()));
                        self.subs.insert(id, *sub);
                    }
                    Command::Cancel(id) => {
                        if self.subs.remove(&id).is_some() && !pending.contains(&id) {
                            ask(Request::Cancel(id));
                        }
                    }
                },
                answer = stream.next() => match answer {
                    Ok(answer) => {
                        if self.cluster != 0 && self.cluster != answer.cluster {
                            // Another one, with a past of its own, stands where ours stood.
                            self.end_all(|| Signal::Gap(None));
                        }
                        self.cluster = answer.cluster;
                        let id = if answer.created {
                            // Older versions answer a refused watch without its id.
                            let asked = pending.pop_front();
                            if answer.id > 0 { answer.id } else { asked.unwrap_or(answer.id) }
                        } else {
                            answer.id
                        };
                        let is_old = stream.is_outdated() || opened.elapsed() > TOKEN_AGE;
                        match self.take(id, answer, is_old) {
                            Taken::Well => {}
                            Taken::Unwanted => ask(Request::Cancel(id)),
                            Taken::Reopen(error) => return Some(error),
                        }
                    }
                    Err((error, _)) => return Some(error),
                },
            }
        }
    }

    /// `is_old`: the token of the stream may be good no more.
    fn take(&mut self, id: i64, answer: Answer, is_old: bool) -> Taken {
        let Some(sub) = self.subs.get_mut(&id) else {
            return if answer.cancelled { Taken::Well } else { Taken::Unwanted };
        };
        if answer.cancelled {
            if answer.compacted.is_none() {
                let (error, next) = error::watch_refused(&answer.reason);
                // Older versions say of an expired token that rights are missing.
                let by_token = next == Next::SignIn
                    || (*error.kind() == ErrorKind::PermissionDenied && self.client.has_user() && is_old);
                if next == Next::Wait {
                    return Taken::Reopen(error);
                }
                // The stream carries the token it was opened with, so it is opened anew: for each watch
                // once, and for one that lacks rights indeed not more often than tokens grow old.
                if by_token && !std::mem::replace(&mut sub.retried, true) {
                    self.doubts_token = true;
                    return Taken::Reopen(Error::new(ErrorKind::Unauthenticated).with_source(error));
                }
                sub.end(Signal::Failed(error));
            } else {
                sub.end(Signal::Gap(answer.compacted));
            }
            self.subs.remove(&id);
            return Taken::Well;
        }
        let changes = answer.changes.and_then(|changes| {
            // A revision that is none would be taken for a start.
            if answer.revision < 0 || (answer.created && answer.revision == 0) {
                return Err(error::nonsense("a revision that is not positive"));
            }
            check_changes(&sub.request.range, &changes).map(|()| changes)
        });
        let changes = match changes {
            Ok(changes) => changes,
            Err(error) => {
                sub.end(Signal::Failed(error));
                self.subs.remove(&id);
                return Taken::Unwanted;
            }
        };
        if answer.created {
            sub.retried = false;
            if sub.request.start == 0 {
                sub.request.start = answer.revision.saturating_add(1);
            }
            sub.seen = sub.seen.max(answer.revision);
            if let Some(started) = sub.started.take() {
                // A caller that gave up cancels it.
                let _ = started.send(Ok(()));
            }
        } else if changes.is_empty() {
            // Nothing up to here is missing.
            sub.request.start = sub.request.start.max(answer.revision.saturating_add(1));
            sub.seen = sub.seen.max(answer.revision);
        }
        if sub.pass(changes) {
            return Taken::Well;
        }
        self.subs.remove(&id);
        Taken::Unwanted
    }
}

/// A stream that was opened.
struct Opened {
    past: Past,
    /// The watch it was opened with.
    first: i64,
    out: ChangesOut,
    stream: ChangesIn,
}

/// What came of an answer.
enum Taken {
    Well,
    /// It is for a watch nobody wants any more.
    Unwanted,
    /// The stream must be opened anew.
    Reopen(Error),
}

enum Request {
    Watch(WatchRequest),
    Cancel(i64),
}

async fn send(mut out: ChangesOut, mut requests: mpsc::UnboundedReceiver<Request>) {
    while let Some(request) = requests.recv().await {
        match request {
            Request::Watch(request) => out.watch(&request).await,
            Request::Cancel(id) => out.cancel(id).await,
        }
    }
}

/// The same failure for one more watch; a source can only be in one error.
fn again(error: &Error) -> Error {
    let copy = Error::new(error.kind().clone()).with_detail(error.to_string());
    match error.endpoint() {
        Some(endpoint) => copy.with_endpoint(endpoint),
        None => copy,
    }
}
