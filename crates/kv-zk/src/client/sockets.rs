//! The sockets of the client crates, which hand none of them out: found among all descriptors of the
//! process by the server they are connected to. Linux only, and only where the process may ask for its own
//! descriptors (`pidfd_getfd`, which a seccomp profile can forbid); elsewhere nothing is found.

use std::net::SocketAddr;

#[cfg(target_os = "linux")]
use rustix::fd::OwnedFd;
use tokio::sync::watch;

use crate::client::wire::Link;

/// Calls `each` with a second descriptor of each connection of this process to one of these servers.
#[cfg(target_os = "linux")]
fn connected(servers: &[SocketAddr], each: impl Fn(&OwnedFd)) {
    use rustix::net::getpeername;
    use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};

    let Ok(process) = pidfd_open(getpid(), PidfdFlags::empty()) else { return };
    let Ok(entries) = std::fs::read_dir("/proc/self/fd") else { return };
    for entry in entries.flatten() {
        let is_socket = std::fs::read_link(entry.path())
            .is_ok_and(|target| target.to_string_lossy().starts_with("socket:"));
        let number = entry.file_name().to_str().and_then(|name| name.parse().ok());
        let Some(number) = number.filter(|_| is_socket) else { continue };
        let Ok(socket) = pidfd_getfd(&process, number, PidfdGetfdFlags::empty()) else { continue };
        let peer = getpeername(&socket).ok().flatten().and_then(|peer| SocketAddr::try_from(peer).ok());
        if peer.is_some_and(|peer| servers.contains(&peer)) {
            each(&socket);
        }
    }
}

/// Ends the connections to these servers whose bytes wait to be read.
#[cfg(feature = "zookeeper-client")]
pub(super) fn cut(servers: &[SocketAddr]) {
    #[cfg(target_os = "linux")]
    connected(servers, |socket| {
        if rustix::io::ioctl_fionread(socket).is_ok_and(|bytes| bytes > 0) {
            let _ = rustix::net::shutdown(socket, rustix::net::Shutdown::Both);
        }
    });
    #[cfg(not(target_os = "linux"))]
    let _ = servers;
}

/// Sets `TCP_NODELAY` on the connections to these servers, which neither crate does: without it a request
/// can wait in the kernel until the one before it is acknowledged.
fn set_nodelay(servers: &[SocketAddr]) {
    #[cfg(target_os = "linux")]
    connected(servers, |socket| {
        let _ = rustix::net::sockopt::set_tcp_nodelay(socket, true);
    });
    #[cfg(not(target_os = "linux"))]
    let _ = servers;
}

/// Sets `TCP_NODELAY` on each connection that a session has, for as long as it lives. Best effort.
pub(super) fn without_delay(mut link: watch::Receiver<Link>, servers: Vec<SocketAddr>) {
    tokio::spawn(async move {
        loop {
            match *link.borrow_and_update() {
                Link::Over(_) => return,
                Link::Down => {}
                Link::Up => {
                    let servers = servers.clone();
                    // It looks at every descriptor of the process.
                    tokio::task::spawn_blocking(move || set_nodelay(&servers));
                }
            }
            if link.changed().await.is_err() {
                return;
            }
        }
    });
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::net::TcpStream;
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn each_connection_sends_without_delay_and_others_are_left_alone() {
        let (ours, others) =
            (std::net::TcpListener::bind("127.0.0.1:0"), std::net::TcpListener::bind("127.0.0.1:0"));
        let (ours, others) = (ours.unwrap(), others.unwrap());
        let other = TcpStream::connect(others.local_addr().unwrap()).unwrap();
        let link = watch::Sender::new(Link::Down);
        without_delay(link.subscribe(), vec![ours.local_addr().unwrap()]);
        for _ in 0..2 {
            let stream = TcpStream::connect(ours.local_addr().unwrap()).unwrap();
            assert!(!stream.nodelay().unwrap());
            link.send_replace(Link::Up);
            let set = async {
                while !stream.nodelay().unwrap() {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            tokio::time::timeout(Duration::from_secs(10), set).await.expect("it is set");
            link.send_replace(Link::Down);
        }
        assert!(!other.nodelay().unwrap());
    }
}
