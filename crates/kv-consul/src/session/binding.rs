//! How a put binds its key to a session.

use std::sync::Arc;
use std::time::Duration;

use kv_backend::Deadline;
use kv_core::{Error, Expiry, Result};
use tokio::time::Instant;

use crate::client::error::protocol;
use crate::env::Env;
use crate::session::create::{DELETE, TTL, TTL_NAME, create, end};
use crate::session::sessions::Sessions;

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
    pub(crate) async fn new(sessions: &Arc<Sessions>, expiry: Expiry, deadline: &Deadline) -> Result<Self> {
        match expiry {
            Expiry::Never => Ok(Self::Permanent),
            Expiry::Keep => Ok(Self::Keep),
            Expiry::Ttl(ttl) => TtlSession::new(sessions, TTL.check(ttl)?, deadline).await.map(Self::Ttl),
            Expiry::Session => sessions.handle_id(deadline).await.map(Self::Handle),
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
    pub(crate) async fn freshen(&mut self, sessions: &Arc<Sessions>, deadline: &Deadline) -> Result<()> {
        match self {
            Self::Ttl(session) if session.unused && session.made.elapsed() > session.ttl / 2 => {
                self.renew(sessions, deadline).await
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
    pub(crate) async fn renew(&mut self, sessions: &Arc<Sessions>, deadline: &Deadline) -> Result<()> {
        match self {
            Self::Permanent | Self::Keep => {
                return Err(protocol("a session is missed that was never given").not_applied());
            }
            Self::Ttl(session) => *session = TtlSession::new(sessions, session.ttl, deadline).await?,
            Self::Handle(id) => {
                sessions.handle.gone(id).await;
                *id = sessions.handle_id(deadline).await?;
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
    env: Arc<Env>,
}

impl TtlSession {
    async fn new(sessions: &Arc<Sessions>, ttl: Duration, deadline: &Deadline) -> Result<Self> {
        let made = Instant::now();
        let id = create(&sessions.env, TTL_NAME, ttl, DELETE, Duration::ZERO, deadline).await?;
        sessions.entries.add(&id);
        Ok(Self { id, ttl, made, unused: true, env: Arc::clone(&sessions.env) })
    }
}

impl Drop for TtlSession {
    fn drop(&mut self) {
        if self.unused {
            end(&self.env, std::mem::take(&mut self.id));
        }
    }
}
