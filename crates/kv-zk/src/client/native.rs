//! One client of the crate zookeeper-client, on a thread of its own, and its end.
//!
//! Closing waits for the server, and is not held up by requests and watches that are under way.

use std::future::Future;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use futures_util::FutureExt;
#[cfg(feature = "tls")]
use kv_backend::TlsOptions;
use tokio::sync::watch;
use zookeeper_client as native;
use zookeeper_client::{Client, SessionInfo, SessionState};

use super::flood::{Guard, this_thread};
use super::held::Held;
use super::runtime::OwnedRuntime;
use crate::client::error::Fault;
use crate::client::wire::{Link, Reply};
use crate::config::Credentials;

/// How long closing waits for the server's answer.
const CLOSE: Duration = Duration::from_secs(2);

/// How a client is connected.
pub(crate) struct Dial {
    /// The servers, each as `host:port`.
    pub(crate) servers: Vec<String>,
    /// Where they are.
    pub(crate) addresses: Vec<SocketAddr>,
    pub(crate) timeout: Duration,
    pub(crate) credentials: Option<Credentials>,
    #[cfg(feature = "tls")]
    pub(crate) tls: Option<TlsOptions>,
    /// How many requests were made.
    pub(crate) requests: Arc<AtomicU64>,
}

/// One client of the crate.
pub(super) struct Native {
    pub(super) client: Client,
    /// The requests under way that hold the client.
    pub(super) held: Arc<Held>,
    pub(super) life: Arc<Life>,
    runtime: Arc<Mutex<Option<OwnedRuntime>>>,
}

/// What is known of a client's task.
pub(super) struct Life {
    /// Whether it is there, as far as we end it.
    pub(super) runs: RwLock<bool>,
    /// How its connection stands.
    pub(super) link: watch::Sender<Link>,
}

impl Life {
    /// From here on the crate's task may be ended, and none of its watchers is asked any more.
    fn end(&self) {
        *self.runs.write().unwrap_or_else(PoisonError::into_inner) = false;
    }
}

impl Dial {
    /// A client with a session of its own, or with this one.
    pub(super) async fn connect(&self, session: Option<SessionInfo>) -> Reply<Native> {
        let mut connector = Client::connector().with_session_timeout(self.timeout).with_fail_eagerly();
        if let Some(session) = session {
            connector = connector.with_session(session);
        }
        match &self.credentials {
            None => {}
            Some(Credentials::Digest(secret)) => {
                connector = connector.with_auth("digest", secret.expose().as_bytes());
            }
            #[cfg(not(feature = "sasl"))]
            Some(Credentials::Sasl { .. }) => return Err(Fault::BadRequest("no feature sasl".to_owned())),
            #[cfg(feature = "sasl")]
            Some(Credentials::Sasl { user, password }) => {
                let sasl = native::SaslOptions::digest_md5(user.clone(), password.expose().to_owned());
                connector = connector.with_sasl(sasl);
            }
        }
        let servers = self.servers.join(",");
        #[cfg(feature = "tls")]
        let secure = self.tls.is_some();
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.tls {
            connector = connector.with_tls(tls_options(tls)?);
        }
        let runtime = OwnedRuntime::start()?;
        let handle = runtime.handle().clone();
        let runtime = Arc::new(Mutex::new(Some(runtime)));
        let life = Arc::new(Life { runs: RwLock::new(true), link: watch::Sender::new(Link::Up) });
        let guard = Guard {
            handle: handle.clone(),
            thread: handle.spawn(async { this_thread() }).await.ok().flatten(),
            servers: self.addresses.clone(),
            requests: Arc::clone(&self.requests),
        };
        let (weak, ended) = (Arc::downgrade(&runtime), Arc::clone(&life));
        tokio::spawn(guard.keep(move || {
            ended.end();
            ended.link.send_replace(Link::Over(endless()));
            if let Some(runtime) = weak.upgrade() {
                drop(runtime.lock().unwrap_or_else(PoisonError::into_inner).take());
            }
        }));
        // The crate's task runs where it was connected.
        let connecting = handle.spawn(async move {
            #[cfg(feature = "tls")]
            if secure {
                return connector.secure_connect(&servers).await;
            }
            connector.connect(&servers).await
        });
        let client = connecting.await.map_err(|error| match error.is_panic() {
            true => nonsense(),
            false => endless(),
        })??;
        let mut states = client.state_watcher();
        let follow = Arc::clone(&life);
        handle.spawn(async move {
            loop {
                let now = match states.changed().await {
                    SessionState::SyncConnected | SessionState::ConnectedReadOnly => Link::Up,
                    SessionState::Disconnected => Link::Down,
                    SessionState::AuthFailed => Link::Over(Fault::AuthFailed),
                    SessionState::Expired => Link::Over(Fault::SessionExpired),
                    SessionState::Closed => Link::Over(Fault::ClientClosed),
                };
                let over = matches!(now, Link::Over(_));
                follow.link.send_replace(now);
                if over {
                    return;
                }
            }
        });
        Ok(Native { client, held: Arc::default(), life, runtime })
    }

    /// A client with this session, which another one had before. What it reads is no older than what that
    /// one has seen: it cannot tell the server, so it asks the leader first.
    pub(super) async fn again(&self, session: SessionInfo) -> Reply<Native> {
        let native = self.connect(Some(session)).await?;
        let caught_up = contained(native.client.sync("/")).await;
        if let Err(fault) = caught_up {
            native.end();
            return Err(fault);
        }
        Ok(native)
    }
}

impl Native {
    /// Ends the client and its thread without a word to the server, which keeps the session.
    pub(super) fn end(self) {
        self.life.end();
        drop(self.runtime.lock().unwrap_or_else(PoisonError::into_inner).take());
        self.held.close();
    }

    /// Ends the session. Says whether the server knows.
    pub(super) async fn close(self) -> bool {
        let Self { client, held, life, runtime } = self;
        let timeout = client.session_timeout();
        // The crate closes the session when its last handle goes.
        held.close();
        drop(client);
        let runtime = runtime.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(runtime) = runtime else { return false };
        let mut link = life.link.subscribe();
        let up = matches!(*link.borrow(), Link::Up);
        let over = async move { link.wait_for(|link| matches!(link, Link::Over(_))).await.is_ok() };
        let mut over = Box::pin(over);
        let limit = if up { CLOSE } else { Duration::ZERO };
        let told = tokio::time::timeout(limit, over.as_mut()).await.is_ok();
        life.end();
        if !up && !told {
            // The crate goes on looking for a server to tell, as long as one can have the session.
            let limit = timeout * 2;
            runtime.handle().clone().spawn(async move {
                let _ = tokio::time::timeout(limit, over).await;
                drop(runtime);
            });
        }
        told
    }
}

/// Waits for an answer. One that is shorter than it should be makes the crate panic where it is
/// awaited: in its caller.
pub(super) async fn contained<T>(request: impl Future<Output = Result<T, native::Error>>) -> Reply<T> {
    match AssertUnwindSafe(request).catch_unwind().await {
        Ok(reply) => Ok(reply?),
        Err(_) => Err(nonsense()),
    }
}

fn endless() -> Fault {
    Fault::Protocol("it sends without end what nobody asked for".to_owned())
}

fn nonsense() -> Fault {
    Fault::Protocol("the client crate panicked over it".to_owned())
}

#[cfg(feature = "tls")]
fn tls_options(tls: &TlsOptions) -> Reply<native::TlsOptions> {
    let bad = |error: native::Error| Fault::BadRequest(format!("the certificates: {error}"));
    let ca = tls.ca.as_deref().unwrap_or_default();
    let mut options = native::TlsOptions::new().with_pem_ca(ca).map_err(bad)?;
    if let Some((cert, key)) = &tls.identity {
        options = options.with_pem_identity(cert, key.expose()).map_err(bad)?;
    }
    Ok(options)
}
