//! One attempt to get a session: which servers there are, which answer, and a session with one of them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use futures_util::future;
use kv_core::{Error, ErrorKind, Result};
use tokio::time::Instant;

use super::zookeeper_async;
#[cfg(feature = "zookeeper-client")]
use super::zookeeper_client;
use crate::config::{Credentials, ZkClient, ZkConfig};
use crate::error::{BACKEND, Fault};
use crate::session::{Reply, Session, caught_up};

/// How long one server may take to take a connection before the next is tried, and how long one name
/// may take to resolve.
const PROBE: Duration = Duration::from_secs(1);

/// A session that the leader knows, and when the request was sent that showed it. Requests are
/// counted there.
pub(super) async fn connect(
    config: &ZkConfig,
    requests: &Arc<AtomicU64>,
) -> Result<(Arc<dyn Session>, Instant)> {
    let servers = reachable(&config.servers()).await?;
    let failed = |fault: Fault| match fault {
        Fault::Unsent | Fault::ConnectionLost => fault
            .into_error()
            .not_applied()
            .with_detail("the server took the connection and no session came of it"),
        Fault::AuthFailed => fault.into_error(),
        Fault::BadRequest(what) => Error::invalid_config(what).with_backend(BACKEND),
        fault => fault.into_error().not_applied(),
    };
    match config.client {
        ZkClient::ZookeeperAsync => {
            let addresses: Vec<SocketAddr> = servers.into_iter().map(|server| server.address).collect();
            let credentials = config.credentials().and_then(|credentials| match credentials {
                Credentials::Digest(secret) => Some(secret),
                Credentials::Sasl { .. } => None,
            });
            let connecting = zookeeper_async::AsyncSession::connect(
                &addresses,
                config.session_timeout,
                credentials,
                Arc::clone(requests),
            );
            proven(connecting.await.map_err(failed)?).await.map_err(failed)
        }
        #[cfg(feature = "zookeeper-client")]
        ZkClient::ZookeeperClient => {
            let mut names: Vec<String> = Vec::new();
            for server in servers {
                if !names.contains(&server.name) {
                    names.push(server.name);
                }
            }
            let (credentials, tls) = (config.credentials(), config.tls());
            let connecting = zookeeper_client::FullSession::connect(
                &names,
                config.session_timeout,
                credentials.as_ref(),
                tls.as_ref(),
                Arc::clone(requests),
            );
            proven(connecting.await.map_err(failed)?).await.map_err(failed)
        }
        #[cfg(not(feature = "zookeeper-client"))]
        ZkClient::ZookeeperClient => Err(Error::invalid_config("the feature zookeeper-client is off")),
    }
}

async fn proven(session: impl Session) -> Reply<(Arc<dyn Session>, Instant)> {
    let sent_at = Instant::now();
    caught_up(&session).await?;
    Ok((Arc::new(session), sent_at))
}

/// One address of a server that is named in the configuration.
struct Server {
    name: String,
    address: SocketAddr,
}

/// All addresses of all servers, in a random order, those that take a connection first.
///
/// # Errors
///
/// `Unavailable` if none does, saying why.
async fn reachable(names: &[String]) -> Result<Vec<Server>> {
    let mut servers = Vec::new();
    let mut reasons = Vec::new();
    // At once: one name server that does not answer must not use up the time of the others.
    let resolving = names.iter().map(|name| tokio::time::timeout(PROBE, tokio::net::lookup_host(name)));
    for (name, resolved) in names.iter().zip(future::join_all(resolving).await) {
        match resolved {
            Ok(Ok(addresses)) => {
                servers.extend(addresses.map(|address| Server { name: name.clone(), address }));
            }
            Ok(Err(error)) => reasons.push(format!("{name}: {error}")),
            Err(_) => reasons.push(format!("{name}: no address within {PROBE:?}")),
        }
    }
    fastrand::shuffle(&mut servers);
    let mut unreachable = Vec::new();
    let mut servers = servers.into_iter();
    while let Some(server) = servers.next() {
        match tokio::time::timeout(PROBE, tokio::net::TcpStream::connect(server.address)).await {
            Ok(Ok(_)) => {
                return Ok(std::iter::once(server).chain(servers).chain(unreachable).collect());
            }
            Ok(Err(error)) => reasons.push(format!("{}: {error}", server.name)),
            Err(_) => reasons.push(format!("{}: no answer within {PROBE:?}", server.name)),
        }
        unreachable.push(server);
    }
    Err(Error::new(ErrorKind::Unavailable)
        .not_applied()
        .with_backend(BACKEND)
        .with_detail(reasons.join("; ")))
}
