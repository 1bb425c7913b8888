//! Lines for stores that are reached over TCP: a port of this machine for each server, whose connections
//! end when the line is cut.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::line::Line;

/// Between two attempts to listen again.
const PAUSE: Duration = Duration::from_millis(20);

/// The URL with every server replaced by the near end of a line to it. `None` where that cannot be: the
/// URL has no servers, or leaves out a port, or certificates name the servers.
pub(crate) async fn lay(url: &str) -> io::Result<Option<(String, Line)>> {
    let Some((scheme, rest)) = url.split_once("://") else { return Ok(None) };
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, rest) = rest.split_at(end);
    let (credentials, hosts) = match authority.rsplit_once('@') {
        Some((credentials, hosts)) => (Some(credentials), hosts),
        None => (None, authority),
    };
    let has_port = |host: &str| host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    if scheme.contains('+') || hosts.is_empty() || !hosts.split(',').all(has_port) {
        return Ok(None);
    }
    let cut = watch::Sender::new(false);
    let mut relays = JoinSet::new();
    let mut near_ends = Vec::new();
    for server in hosts.split(',') {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let near_end = listener.local_addr()?;
        near_ends.push(near_end.to_string());
        relays.spawn(relay(listener, near_end, server.to_owned(), cut.subscribe()));
    }
    let credentials = credentials.map(|credentials| format!("{credentials}@")).unwrap_or_default();
    let url = format!("{scheme}://{credentials}{}{rest}", near_ends.join(","));
    Ok(Some((url, Line::with_relays(cut, relays))))
}

/// Passes connections on while the line is whole. While it is cut there are none, and the port refuses.
async fn relay(listener: TcpListener, near_end: SocketAddr, server: String, mut cut: watch::Receiver<bool>) {
    let mut listener = Some(listener);
    loop {
        let listening = match listener.take() {
            Some(listening) => listening,
            None => match TcpListener::bind(near_end).await {
                Ok(listening) => listening,
                Err(_) => {
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            },
        };
        // Dropped with everything it passes on.
        tokio::select! {
            () = accept(&listening, &server) => {}
            cutting = cut.wait_for(|cut| *cut) => if cutting.is_err() { return },
        }
        drop(listening);
        if cut.wait_for(|cut| !*cut).await.is_err() {
            return;
        }
    }
}

async fn accept(listener: &TcpListener, server: &str) {
    let mut connections = JoinSet::new();
    loop {
        match listener.accept().await {
            Ok((mut near, _)) => {
                let server = server.to_owned();
                connections.spawn(async move {
                    if let Ok(mut far) = TcpStream::connect(server).await {
                        let _ = (near.set_nodelay(true), far.set_nodelay(true));
                        // Either end may hang up.
                        let _ = copy_bidirectional(&mut near, &mut far).await;
                    }
                });
            }
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
        while connections.try_join_next().is_some() {}
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn a_url_keeps_everything_but_its_servers() {
        let url = "x://me:p%40w@h:1,127.0.0.1:2/a/b?c=d:e";
        let (laid, _line) = lay(url).await.unwrap().unwrap();
        let hosts = laid.strip_prefix("x://me:p%40w@").unwrap().strip_suffix("/a/b?c=d:e").unwrap();
        let ports: Vec<u16> =
            hosts.split(',').map(|host| host.strip_prefix("127.0.0.1:").unwrap().parse().unwrap()).collect();
        assert!(ports.len() == 2 && ports[0] != ports[1]);
        for url in ["mem:x", "x://h/a", "x://h:1,g/a", "x+tls://h:1/a", "x:///a", "x://[::1]/a"] {
            assert!(lay(url).await.unwrap().is_none(), "{url}");
        }
    }

    #[tokio::test]
    async fn what_is_cut_ends_and_what_is_mended_works_again() {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = server.local_addr().unwrap();
        tokio::spawn(async move {
            loop {
                let (mut near, _) = server.accept().await.unwrap();
                tokio::spawn(async move {
                    let (mut read, mut write) = near.split();
                    tokio::io::copy(&mut read, &mut write).await
                });
            }
        });
        let (url, line) = lay(&format!("x://{address}")).await.unwrap().unwrap();
        let near = url.strip_prefix("x://").unwrap().to_owned();
        for _ in 0..2 {
            let mut connection = loop {
                if let Ok(connection) = TcpStream::connect(&near).await {
                    break connection;
                }
                tokio::time::sleep(PAUSE).await;
            };
            connection.write_all(b"x").await.unwrap();
            assert_eq!(connection.read_u8().await.unwrap(), b'x');
            line.cut();
            assert!(connection.read_u8().await.is_err(), "a connection over a cut line");
            assert!(TcpStream::connect(&near).await.is_err());
            line.mend();
        }
    }
}
