//! The faults: one at a time, chosen by the seed, made, held for a while and ended.

use std::time::Duration;

use anyhow::{Context, Result};
use kv_testkit::{Cluster, Link, Node};

/// Something the nemesis does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Fault {
    /// A node stands still, its connections open and silent.
    PauseNode,
    /// The leader stands still, and comes back after the others elected another.
    PauseLeader,
    /// A node is killed and started again.
    KillNode,
    /// The leader is cut off from its peers, not from its clients.
    CutPeers,
    /// A node is cut off from its clients, not from its peers.
    CutClients,
    /// Two of three nodes are down for longer than the sessions live.
    LoseMajority,
    /// Every node is killed and started again.
    RestartAll,
    /// The server forgets its history up to now, where it keeps one.
    Compact,
    /// A client process is killed and another takes its place.
    KillClient,
    /// A client process is stopped, and goes on after a while.
    StopClient,
    /// The hold of a lock is ended from outside.
    BreakLock,
}

impl Fault {
    /// All faults.
    pub const ALL: &'static [Self] = &[
        Self::PauseNode,
        Self::PauseLeader,
        Self::KillNode,
        Self::CutPeers,
        Self::CutClients,
        Self::LoseMajority,
        Self::RestartAll,
        Self::Compact,
        Self::KillClient,
        Self::StopClient,
        Self::BreakLock,
    ];

    /// Whether it needs nodes.
    #[must_use]
    pub fn is_of_servers(self) -> bool {
        !matches!(self, Self::KillClient | Self::StopClient | Self::BreakLock)
    }
}

/// Makes a fault of the servers, holds it and ends it. Whatever it did is undone, also after an error.
///
/// # Errors
/// If a node cannot be reached by the container engine.
pub async fn strike(cluster: &Cluster, fault: Fault, random: &mut fastrand::Rng) -> Result<()> {
    let nodes = cluster.nodes();
    let node = &nodes[random.usize(..nodes.len())];
    let short = Duration::from_millis(random.u64(1_000..12_000));
    let long = Duration::from_millis(random.u64(8_000..25_000));
    match fault {
        Fault::PauseNode => pause(node, short).await,
        Fault::PauseLeader => pause(cluster.leader().await?, long).await,
        Fault::KillNode => restart(&[node], short).await,
        Fault::CutPeers => cut(cluster.leader().await?, Link::Peers, long).await,
        Fault::CutClients => cut(node, Link::Clients, short).await,
        Fault::LoseMajority => {
            let down: Vec<_> = nodes.iter().filter(|other| other.index() != node.index()).collect();
            restart(&down, long).await
        }
        Fault::RestartAll => restart(&nodes.iter().collect::<Vec<_>>(), Duration::from_millis(500)).await,
        Fault::Compact => compact(node).await,
        Fault::KillClient | Fault::StopClient | Fault::BreakLock => Ok(()),
    }
}

async fn pause(node: &Node, hold: Duration) -> Result<()> {
    node.pause().await?;
    tokio::time::sleep(hold).await;
    node.unpause().await
}

async fn restart(nodes: &[&Node], hold: Duration) -> Result<()> {
    for node in nodes {
        node.kill().await?;
    }
    tokio::time::sleep(hold).await;
    for node in nodes {
        node.start().await?;
    }
    Ok(())
}

async fn cut(node: &Node, link: Link, hold: Duration) -> Result<()> {
    node.disconnect(link).await?;
    tokio::time::sleep(hold).await;
    node.reconnect(link).await
}

/// Only etcd keeps a history; elsewhere there is nothing to forget.
async fn compact(node: &Node) -> Result<()> {
    let script = "revision=$(etcdctl endpoint status -w fields | sed -n 's/^\"Revision\" : //p') \
                  && etcdctl compact \"$revision\"";
    // An etcd without quorum cannot be asked, and the fault is over.
    node.exec(&["sh", "-c", script]).await.map(drop).or(Ok(()))
}

/// Waits until all nodes serve again.
///
/// # Errors
/// If one does not within its time.
pub async fn heal(cluster: &Cluster) -> Result<()> {
    cluster.ready().await.context("the servers do not come back after the faults")
}
