//! One blocking query of the watch hub: asks for the state of its scope again and again, and hands it
//! over.
//!
//! It follows Consul's rules for indexes: an index that goes back means to begin anew, 0 counts as 1, and
//! waking up does not mean that something changed.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use kv_backend::Deadline;
use kv_core::{Consistency, ErrorKind, Result};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::client::api::Lane;
use crate::client::key_read::{KeyRead, Query};
use crate::client::scope::Scope;
use crate::env::Env;
use crate::env::backoff::Backoff;
use crate::watch::members::{Members, Seen};
use crate::watch::query_limit::QueryLimit;

/// How long one query waits for a change, at most: short enough that a connection somebody holds up without
/// a word is noticed. A young one waits as long as it has been there, because the server goes on waiting when
/// its client has gone: what comes and goes quickly is not to pile up there.
const MIN_WAIT: Duration = Duration::from_millis(250);
const MAX_WAIT: Duration = Duration::from_secs(60);

/// How often to ask while there are so many queries that none may wait.
const POLL: Duration = Duration::from_millis(500);

/// A query that waits.
struct Waiting {
    answer: Pin<Box<dyn Future<Output = Result<KeyRead>> + Send>>,
    since: Instant,
    wait: Duration,
    /// A newer state was read meanwhile.
    outdated: bool,
}

/// What reading a state came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Same,
    /// Changed; reading it took so long.
    Changed(Duration),
    /// The index went back: read again.
    Reset,
}

/// One blocking query and whom it tells.
pub(crate) struct Feed {
    env: Arc<Env>,
    members: Arc<Members>,
    limit: Arc<QueryLimit>,
    id: u64,
    scope: Scope,
    /// The index of the last whole state; 0: none yet.
    index: u64,
}

impl Feed {
    /// The query with this number, of this scope.
    pub(crate) fn new(
        env: &Arc<Env>,
        members: &Arc<Members>,
        limit: &Arc<QueryLimit>,
        id: u64,
        scope: Scope,
    ) -> Self {
        let (env, members, limit) = (Arc::clone(env), Arc::clone(members), Arc::clone(limit));
        Self { env, members, limit, id, scope, index: 0 }
    }

    /// Runs until it is aborted or cannot go on. `wake`: somebody joins.
    pub(crate) async fn run(mut self, wake: Arc<Notify>) {
        let begin = Instant::now();
        let mut failures = Backoff::reconnect();
        // A query of an absent key wakes on every write there is: slow down until something changes.
        let mut idle = Backoff::new(Duration::from_millis(25), Duration::from_millis(500));
        let mut waiting: Option<Waiting> = None;
        let mut read_now = true;
        loop {
            let joining = self.members.joining(self.id);
            let read = if read_now || !joining.is_empty() {
                let before = self.index;
                let read = self.read_now(&joining).await;
                if self.index < before {
                    waiting = None;
                } else if let Some(waiting) = &mut waiting {
                    // What it waits for has happened: it ends by itself now.
                    waiting.outdated |= self.index != before;
                }
                read.map(|state| (state, true))
            } else {
                if waiting.is_none() {
                    waiting = self.wait(begin.elapsed().clamp(MIN_WAIT, MAX_WAIT));
                }
                let Some(query) = &mut waiting else {
                    tokio::select! {
                        () = tokio::time::sleep(self.env.jitter(POLL)) => {}
                        () = wake.notified() => {}
                    }
                    read_now = true;
                    continue;
                };
                let items = tokio::select! {
                    biased;
                    () = wake.notified() => continue,
                    items = &mut query.answer => items,
                };
                let (outdated, timely) = (query.outdated, query.since.elapsed() >= query.wait / 2);
                waiting = None;
                match items {
                    _ if outdated => continue,
                    Ok(items) => self.take(items, &[]).await.map(|state| (state, timely)),
                    Err(error) => Err(error),
                }
            };
            let pause = match read {
                Ok((state, timely)) => {
                    failures.reset();
                    read_now = state == State::Reset;
                    match state {
                        State::Changed(took) => {
                            idle.reset();
                            // A large tree that changes all the time takes half of the time at most.
                            if took > Duration::from_millis(20) {
                                took.min(Duration::from_secs(1))
                            } else {
                                Duration::ZERO
                            }
                        }
                        State::Same if timely => Duration::ZERO,
                        State::Same | State::Reset => idle.pause(),
                    }
                }
                Err(error) => {
                    waiting = None;
                    self.members.state_failed(&joining, &error);
                    if !error.is_transient() {
                        self.members.fail(self.id, &error);
                        return;
                    }
                    tracing::debug!(%error, scope = self.scope.text(), "a watch query failed");
                    // The server may have been exchanged for one with a lower index, which would wait.
                    read_now = true;
                    self.env.jitter(failures.pause())
                }
            };
            if !pause.is_zero() {
                let patient = read_now;
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    () = wake.notified(), if !patient => {}
                }
            }
        }
    }

    /// Reads the state as it is now, for these subscriptions that join.
    async fn read_now(&mut self, joining: &[u64]) -> Result<State> {
        let query = Query::new(self.scope.clone(), Consistency::Linearizable);
        let items = self.env.api.read(query, Lane::Call, self.env.times.timeout).await?;
        self.take(items, joining).await
    }

    /// Waits for a state that is newer than the last, about this long; `None` if there is no room.
    fn wait(&self, wait: Duration) -> Option<Waiting> {
        let env = Arc::clone(&self.env);
        // Not all of many queries at the same moment.
        let wait = env.jitter(wait);
        let slot = self.limit.take(wait)?;
        let mut query = Query::new(self.scope.clone(), Consistency::Linearizable);
        query.wait = Some((self.index, wait));
        let answer = Box::pin(async move {
            let answer = env.api.read(query, Lane::Watch, env.times.timeout).await;
            slot.answered();
            answer
        });
        Some(Waiting { answer, since: Instant::now(), wait, outdated: false })
    }

    /// Hands over a state.
    async fn take(&mut self, mut items: KeyRead, joining: &[u64]) -> Result<State> {
        let begin = Instant::now();
        let members = Arc::clone(&self.members);
        let index = items.required_index()?;
        if index < self.index {
            tracing::debug!(scope = self.scope.text(), index, before = self.index, "the index went back");
            if self.lost_its_state().await? {
                self.env.api.forget_newest();
                members.forget(self.id);
            }
            self.index = 0;
            return Ok(State::Reset);
        }
        members.state_begins(self.id, joining);
        let mut changed = false;
        while let Some(kv) = items.next().await? {
            match members.state_has(self.id, joining, &kv)? {
                Seen::Same => {}
                Seen::Changed => changed = true,
                Seen::Older => {
                    members.forget(self.id);
                    self.index = 0;
                    return Ok(State::Reset);
                }
            }
        }
        if items.hides() {
            self.ask_for_rights(joining).await?;
        }
        changed |= members.state_ends(self.id, joining, index > self.index);
        self.index = index;
        Ok(if changed { State::Changed(begin.elapsed()) } else { State::Same })
    }

    /// Before what is gone is told: subscriptions that find nothing are told that the token may not read
    /// there, if that is the reason.
    async fn ask_for_rights(&self, joining: &[u64]) -> Result<()> {
        let (api, members) = (&self.env.api, &self.members);
        let emptied = members.emptied(self.id, joining);
        for (names, fresh) in [(emptied.turned, true), (emptied.begun, false)] {
            if !names.is_empty() {
                let deadline = Deadline::after(self.env.times.timeout);
                let names = names.into_iter().collect();
                members.deny(self.id, &api.unreadable(Lane::Call, names, fresh, &deadline).await?);
            }
        }
        Ok(())
    }

    /// Whether the server as a whole is behind what it was: it lost its state, or is another one. The
    /// index of one tree also goes back when Consul forgets old deletes.
    async fn lost_its_state(&self) -> Result<bool> {
        let query = Query::new(self.scope.absent(), Consistency::Linearizable);
        match self.env.api.read(query, Lane::Call, self.env.times.timeout).await {
            Ok(items) => Ok(items.required_index()? < self.index),
            // Nobody can say then, and to begin anew loses nothing.
            Err(error) if *error.kind() == ErrorKind::PermissionDenied => Ok(true),
            Err(error) => Err(error),
        }
    }
}
