//! Revokes leases that nothing uses any more, through outages and up to the end of the handle.

use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use kv_backend::Deadline;
use kv_core::Error;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::waiting::{Unused, Waiting};
use crate::client::Client;

/// Revocations in flight at a time.
const REVOKING: usize = 16;
/// The pause between attempts while the server cannot be reached; then there is one at a time.
const PAUSE: Duration = Duration::from_millis(500);
/// Attempts at one while the handle is being closed; after them the lease's own end does it.
const LAST_ATTEMPTS: u32 = 3;
/// How often is looked for one that is not there, where the answer to its grant was not waited for.
const LOOKS: u32 = 4;

/// Revokes leases until `closing` is over, and returns how many then could not be revoked.
///
/// An attempt that fails is repeated for as long as the handle is open: without a leader no lease ends,
/// and a new leader counts each from its start again, so that an outage outlasts every time to live. Until
/// one succeeds there is one attempt at a time.
pub(crate) async fn revoker(
    client: &Client,
    timeout: Duration,
    mut unused: mpsc::UnboundedReceiver<Unused>,
    closing: impl Future<Output = ()>,
) -> usize {
    let mut closing = std::pin::pin!(closing);
    let ending = CancellationToken::new();
    let (mut revoking, mut pausing) = (FuturesUnordered::new(), FuturesUnordered::new());
    let mut waiting = Waiting::default();
    let (mut left, mut reached) = (0_usize, true);
    loop {
        let open = !ending.is_cancelled();
        while let Ok(lease) = unused.try_recv() {
            waiting.push(lease);
        }
        let has_room = revoking.len() < if reached || !open { REVOKING } else { 1 };
        if has_room && let Some(lease) = waiting.pop() {
            let failed = if open { !reached } else { lease.failures > 0 };
            let pause = if failed { PAUSE } else { Duration::ZERO };
            revoking.push(revoke(client, timeout, lease, pause, &ending));
            continue;
        }
        if !open && unused.is_empty() && waiting.is_empty() && revoking.is_empty() && pausing.is_empty() {
            return left;
        }
        tokio::select! {
            // What was asked for before the closing is done before it.
            biased;
            Some((lease, tried)) = revoking.next() => {
                let mut lease: Unused = lease;
                let tried: Tried = tried;
                reached = !matches!(&tried, Tried::Failed(error) if error.is_transient());
                match tried {
                    Tried::Revoked => {}
                    // Nobody knows whether it was ever granted, so it is looked for again.
                    Tried::NotFound if lease.granted || lease.looks + 1 >= LOOKS => {}
                    Tried::NotFound if !open && lease.looks > 0 => {}
                    Tried::NotFound => {
                        let time = PAUSE * (1 << lease.looks);
                        lease.looks += 1;
                        let ending = &ending;
                        pausing.push(async move {
                            pause(time, ending).await;
                            lease
                        });
                    }
                    Tried::Failed(error) if !error.is_transient() || lease.failures >= LAST_ATTEMPTS => {
                        tracing::debug!(%error, "a lease could not be revoked; it ends by itself");
                        left += usize::from(!open);
                    }
                    Tried::Failed(_) => {
                        lease.failures += u32::from(!open);
                        waiting.push(lease);
                    }
                }
            }
            Some(lease) = pausing.next() => waiting.push(lease),
            lease = unused.recv(), if open || !unused.is_empty() => match lease {
                Some(lease) => waiting.push(lease),
                None => ending.cancel(),
            },
            () = &mut closing, if open => {
                unused.close();
                ending.cancel();
            }
        }
    }
}

/// What came of one attempt to revoke.
enum Tried {
    Revoked,
    NotFound,
    Failed(Error),
}

/// One attempt, after a pause.
async fn revoke(
    client: &Client,
    timeout: Duration,
    lease: Unused,
    time: Duration,
    ending: &CancellationToken,
) -> (Unused, Tried) {
    pause(time, ending).await;
    let tried = match client.revoke(Deadline::after(timeout), lease.id).await {
        Ok(true) => Tried::Revoked,
        Ok(false) => Tried::NotFound,
        Err(error) => Tried::Failed(error),
    };
    (lease, tried)
}

/// The closing waits for no pause but its own.
async fn pause(time: Duration, ending: &CancellationToken) {
    if time.is_zero() {
        return;
    }
    if ending.is_cancelled() {
        tokio::time::sleep(time).await;
    } else {
        drop(tokio::time::timeout(time, ending.cancelled()).await);
    }
}
