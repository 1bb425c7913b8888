//! Publishing how the session of a store handle stands.

use std::time::Duration;

use futures_util::stream;
use kv_core::{SessionState, SessionStates};
use tokio::sync::watch;
use tokio::time::Instant;

/// The state of one handle's session: set by the task that renews it, read by everybody.
///
/// Like a lock's hold, it is judged by the monotonic clock on every question: overdue renewals make
/// it `Suspect`, and `Lost` before the server can have given it up and told others.
#[derive(Debug)]
pub struct SessionCell {
    inner: watch::Sender<Inner>,
}

#[derive(Clone, Copy, Debug)]
struct Inner {
    state: SessionState,
    suspect_at: Option<Instant>,
    lost_at: Option<Instant>,
    closed: bool,
}

impl Inner {
    fn state_at(&self, now: Instant) -> SessionState {
        let passed = |at: Option<Instant>| at.is_some_and(|at| now >= at);
        match self.state {
            SessionState::Held | SessionState::Suspect if passed(self.lost_at) => SessionState::Lost,
            SessionState::Held if passed(self.suspect_at) => SessionState::Suspect,
            state => state,
        }
    }

    fn next_deadline(&self, now: Instant) -> Option<Instant> {
        [self.suspect_at, self.lost_at].into_iter().flatten().filter(|at| *at > now).min()
    }
}

impl Default for SessionCell {
    fn default() -> Self {
        Self::new()
    }
}

impl SessionCell {
    /// No session yet.
    #[must_use]
    pub fn new() -> Self {
        let idle = Inner { state: SessionState::Idle, suspect_at: None, lost_at: None, closed: false };
        Self { inner: watch::Sender::new(idle) }
    }

    /// A session of an in-process store: held until it is closed.
    pub fn held(&self) {
        self.set(SessionState::Held, None, None);
    }

    /// A new session, or an acknowledged renewal: it is held for `ttl`, less `margin`, from the
    /// moment the request was *sent*, and suspect from two thirds of that on.
    pub fn renewed(&self, sent_at: Instant, ttl: Duration, margin: Duration) {
        let span = ttl.saturating_sub(margin);
        // A time too far to be represented never comes.
        self.set(SessionState::Held, sent_at.checked_add(span / 3 * 2), sent_at.checked_add(span));
    }

    /// The connection broke or a renewal failed; it may be gone.
    pub fn suspect(&self) {
        self.inner.send_if_modified(|inner| {
            let held = inner.state == SessionState::Held;
            if held {
                inner.state = SessionState::Suspect;
            }
            held
        });
    }

    /// It is gone.
    pub fn lost(&self) {
        self.set(SessionState::Lost, None, None);
    }

    /// The handle is closed: every stream of states ends.
    pub fn close(&self) {
        self.inner.send_modify(|inner| inner.closed = true);
    }

    /// How it stands now.
    #[must_use]
    pub fn state(&self) -> SessionState {
        self.inner.borrow().state_at(Instant::now())
    }

    /// The state now and each change.
    #[must_use]
    pub fn states(&self) -> SessionStates {
        let changes = self.inner.subscribe();
        SessionStates::new(stream::unfold((changes, None), |(mut changes, last)| async move {
            loop {
                let inner = *changes.borrow_and_update();
                if inner.closed {
                    return None;
                }
                let now = Instant::now();
                let state = inner.state_at(now);
                if last != Some(state) {
                    return Some((state, (changes, Some(state))));
                }
                let ended = match inner.next_deadline(now) {
                    Some(at) => matches!(tokio::time::timeout_at(at, changes.changed()).await, Ok(Err(_))),
                    None => changes.changed().await.is_err(),
                };
                if ended {
                    return None;
                }
            }
        }))
    }

    fn set(&self, state: SessionState, suspect_at: Option<Instant>, lost_at: Option<Instant>) {
        self.inner.send_modify(|inner| {
            inner.state = state;
            inner.suspect_at = suspect_at;
            inner.lost_at = lost_at;
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn it_turns_suspect_and_lost_by_the_clock() {
        let cell = SessionCell::new();
        let mut states = cell.states();
        assert_eq!(states.next().await, Some(SessionState::Idle));
        cell.renewed(Instant::now(), 10 * SECOND, SECOND);
        let begin = Instant::now();
        assert_eq!(states.next().await, Some(SessionState::Held));
        assert_eq!(states.next().await, Some(SessionState::Suspect));
        assert_eq!(begin.elapsed().as_secs(), 6);
        assert_eq!(states.next().await, Some(SessionState::Lost));
        assert_eq!(begin.elapsed().as_secs(), 9);
        cell.close();
        assert_eq!(states.next().await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_time_to_live_too_long_to_count_does_not_end() {
        let cell = SessionCell::new();
        cell.renewed(Instant::now(), Duration::MAX, SECOND);
        tokio::time::advance(1000 * SECOND).await;
        assert_eq!(cell.state(), SessionState::Held);
    }

    #[tokio::test(start_paused = true)]
    async fn a_renewal_clears_a_suspicion() {
        let cell = SessionCell::new();
        cell.held();
        cell.suspect();
        assert_eq!(cell.state(), SessionState::Suspect);
        cell.renewed(Instant::now(), 10 * SECOND, SECOND);
        assert_eq!(cell.state(), SessionState::Held);
        cell.lost();
        cell.suspect();
        assert_eq!(cell.state(), SessionState::Lost);
    }
}
