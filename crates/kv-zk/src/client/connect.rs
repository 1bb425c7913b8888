//! One attempt to get a session: which servers there are, which answer, and a session with one of them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use futures_util::future;
use kv_core::{Error, ErrorKind, Result};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::diagnosis::{self, Asked};
#[cfg(feature = "zookeeper-client")]
use super::native::Dial;
#[cfg(feature = "zookeeper-async")]
use super::zookeeper_async;
#[cfg(feature = "zookeeper-client")]
use super::zookeeper_client;
use crate::client::error::{BACKEND, Fault};
use crate::client::wire::{Reply, Session, caught_up};
#[cfg(feature = "zookeeper-async")]
use crate::config::Credentials;
use crate::config::{ZkClient, ZkConfig};

/// How long one server may take to take a connection before the next is tried, and how long one name
/// may take to resolve.
const PROBE: Duration = Duration::from_secs(1);

/// After how long without a session it is looked at what the servers are.
const PATIENCE: Duration = Duration::from_secs(1);

/// A session that the leader knows, and when the request was sent that showed it. Requests are
/// counted there.
pub(crate) async fn connect(
    config: &ZkConfig,
    requests: &Arc<AtomicU64>,
) -> Result<(Arc<dyn Session>, Instant)> {
    let servers = reachable(config).await?;
    let asked = || servers.iter().map(|server| Asked { name: &server.name, address: server.address });
    let strangers = async {
        tokio::time::sleep(PATIENCE).await;
        let found = future::join_all(asked().map(|asked| unfit(config, asked))).await;
        // One that is good may still give a session.
        match found.into_iter().collect::<Option<Vec<_>>>() {
            Some(found) => describe(found),
            None => future::pending().await,
        }
    };
    let fault = tokio::select! {
        session = session(config, &servers, requests) => match session {
            Ok((session, sent_at)) => {
                #[cfg(any(feature = "zookeeper-async", feature = "zookeeper-client"))]
                super::sockets::without_delay(session.link(), asked().map(|asked| asked.address).collect());
                return Ok((session, sent_at));
            }
            Err(fault) => fault,
        },
        error = strangers => return Err(error),
    };
    if let Fault::Unsent | Fault::ConnectionLost | Fault::Protocol(_) = fault {
        let found = future::join_all(asked().map(|asked| unfit(config, asked))).await;
        let found: Vec<Unfit> = found.into_iter().flatten().collect();
        if !found.is_empty() {
            return Err(describe(found));
        }
    }
    Err(match fault {
        Fault::Unsent | Fault::ConnectionLost => fault
            .into_error()
            .not_applied()
            .with_detail("the server took the connection and no session came of it"),
        Fault::AuthFailed => fault.into_error(),
        Fault::BadRequest(ref what) => Error::out_of_files(&fault)
            .unwrap_or_else(|| Error::invalid_config(what.as_str()))
            .with_backend(BACKEND),
        fault => fault.into_error().not_applied(),
    })
}

/// Why an address gives no session.
struct Unfit {
    kind: ErrorKind,
    what: String,
}

async fn unfit(config: &ZkConfig, asked: Asked<'_>) -> Option<Unfit> {
    // Without a descriptor for a connection nothing can be said of the server, and no session comes.
    if let Err(error) = TcpStream::connect(asked.address).await
        && Error::out_of_files(&error).is_some()
    {
        return Some(Unfit { kind: ErrorKind::Unavailable, what: Error::OUT_OF_FILES.to_owned() });
    }
    #[cfg(feature = "tls")]
    if let Some(tls) = config.tls() {
        let what = diagnosis::handshake(asked, tls).await?;
        return Some(Unfit { kind: ErrorKind::Unavailable, what });
    }
    #[cfg(not(feature = "tls"))]
    let _ = config;
    let what = diagnosis::stranger(asked).await?;
    Some(Unfit { kind: ErrorKind::Protocol, what })
}

fn describe(found: Vec<Unfit>) -> Error {
    let kind = found.first().map_or(ErrorKind::Unavailable, |found| found.kind.clone());
    let mut words: Vec<String> = found.into_iter().map(|found| found.what).collect();
    words.dedup();
    Error::new(kind).not_applied().with_backend(BACKEND).with_detail(words.join("; "))
}

async fn session(
    config: &ZkConfig,
    servers: &[Server],
    requests: &Arc<AtomicU64>,
) -> Reply<(Arc<dyn Session>, Instant)> {
    match config.client {
        #[cfg(feature = "zookeeper-async")]
        ZkClient::ZookeeperAsync => {
            let addresses: Vec<SocketAddr> = servers.iter().map(|server| server.address).collect();
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
            proven(connecting.await?).await
        }
        #[cfg(feature = "zookeeper-client")]
        ZkClient::ZookeeperClient => {
            let (credentials, tls) = (config.credentials(), config.tls());
            // Credentials in the clear go to the addresses that were looked at and no others.
            let by_address = credentials.is_some() && tls.is_none();
            let mut names: Vec<String> = Vec::new();
            for server in servers {
                let name = if by_address { server.address.to_string() } else { server.name.clone() };
                if !names.contains(&name) {
                    names.push(name);
                }
            }
            let dial = Dial {
                servers: names,
                addresses: servers.iter().map(|server| server.address).collect(),
                timeout: config.session_timeout,
                credentials,
                #[cfg(feature = "tls")]
                tls: tls.cloned(),
                requests: Arc::clone(requests),
            };
            proven(zookeeper_client::FullSession::connect(dial).await?).await
        }
        #[cfg(not(all(feature = "zookeeper-async", feature = "zookeeper-client")))]
        client => {
            let _ = (servers, requests);
            Err(Fault::BadRequest(format!("the cargo feature {} of kv-zk is off", client.name())))
        }
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
/// `Unavailable` if none does, saying why; `InvalidConfig` if credentials would travel in the clear.
async fn reachable(config: &ZkConfig) -> Result<Vec<Server>> {
    let names = &config.servers();
    let in_the_clear = config.credentials().is_some() && config.tls().is_none();
    let mut servers = Vec::new();
    let mut reasons = Vec::new();
    // At once: one name server that does not answer must not use up the time of the others.
    let resolving = names.iter().map(|name| tokio::time::timeout(PROBE, tokio::net::lookup_host(name)));
    for (name, resolved) in names.iter().zip(future::join_all(resolving).await) {
        match resolved {
            Ok(Ok(addresses)) => {
                let addresses: Vec<SocketAddr> = addresses.collect();
                if in_the_clear {
                    config.plaintext.check(name, addresses.iter().map(SocketAddr::ip))?;
                }
                let addresses = addresses.into_iter();
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
