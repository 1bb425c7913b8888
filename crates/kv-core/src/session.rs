//! The session of a store handle: what session keys and, on some backends, locks live by.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_core::Stream;

/// How the session of a store handle stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SessionState {
    /// Nothing needed a session yet.
    Idle,
    /// It lives: the last renewal was acknowledged in time.
    Held,
    /// Renewal is overdue and it may be gone. Treat what depends on it as lost.
    Suspect,
    /// It is gone and its keys with it. They are not made again; the next `Session` put uses a new
    /// session, which is then `Held`.
    Lost,
}

/// The states a session goes through: the present one first, then each change.
///
/// A reader that is too slow sees the latest state and not each one between. It ends when the store
/// handle is closed.
pub struct SessionStates {
    states: Pin<Box<dyn Stream<Item = SessionState> + Send>>,
}

impl SessionStates {
    /// These states.
    pub fn new(states: impl Stream<Item = SessionState> + Send + 'static) -> Self {
        Self { states: Box::pin(states) }
    }

    /// The next state, without needing a stream library. Cancel-safe.
    pub async fn next(&mut self) -> Option<SessionState> {
        std::future::poll_fn(|cx| self.states.as_mut().poll_next(cx)).await
    }
}

impl Stream for SessionStates {
    type Item = SessionState;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.states.as_mut().poll_next(cx)
    }
}

impl fmt::Debug for SessionStates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionStates").finish_non_exhaustive()
    }
}
