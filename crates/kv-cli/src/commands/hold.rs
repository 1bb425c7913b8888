//! A command that runs while a lock or an office is held, and not a moment longer.

use std::convert::Infallible;
use std::ffi::OsString;
use std::pin::pin;
use std::time::Duration;

use kv_core::{Fence, Key, LockGuard, LockHolder, LockLoss, Operation, Store, StoreExt};
use kv_recipes::Leadership;

use super::fence;
use super::locks::holder;
use crate::child::{Group, Signals};
use crate::exit::Failure;
use crate::output::say;
use crate::session::{LOCK_PIDS, Session};

/// How long what is left of a command has between TERM and KILL while we hold the lock.
const UNHURRIED: Duration = Duration::from_secs(5);
/// The same once the lock is lost, at most, and never more than half the time until another can have it.
const HURRIED: Duration = Duration::from_millis(500);

/// How long a wait may take before it is told for whom.
const UNTOLD: Duration = Duration::from_secs(1);
/// How often it is asked afterwards whether that is somebody else by now.
const LOOK_AGAIN: Duration = Duration::from_secs(15);

/// What a command runs under.
pub(super) trait Held {
    fn fence(&self) -> Fence;
    fn lost(&self) -> impl Future<Output = LockLoss>;
    fn grace(&self) -> Duration;
}

impl Held for LockGuard {
    fn fence(&self) -> Fence {
        self.fence()
    }

    fn lost(&self) -> impl Future<Output = LockLoss> {
        self.lost()
    }

    fn grace(&self) -> Duration {
        self.grace()
    }
}

impl Held for Leadership {
    fn fence(&self) -> Fence {
        self.fence()
    }

    fn lost(&self) -> impl Future<Output = LockLoss> {
        self.lost()
    }

    fn grace(&self) -> Duration {
        self.grace()
    }
}

/// How the command ended.
pub(super) enum End {
    /// By itself, with this exit code.
    Exited(u8),
    /// By us, because the lock was lost.
    Lost(LockLoss),
    /// By us, because it ran for too long.
    TooLong,
}

/// How long the command has.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Bounds {
    /// How long it may run.
    pub(super) max_hold: Option<Duration>,
    /// How long it has from TERM to KILL, in place of the usual times.
    pub(super) grace: Option<Duration>,
}

/// Runs the command until it ends, the hold does, or its time is up. Afterwards nothing of it is left.
pub(super) async fn hold(
    held: &impl Held,
    command: &[OsString],
    bounds: Bounds,
    signals: &mut Signals,
) -> Result<End, Failure> {
    let environment = fence::environment(&held.fence()).into_iter().chain([(LOCK_PIDS, lock_pids())]);
    let mut group = Group::spawn(command, environment, None)?;
    let mut lost = pin!(held.lost());
    let mut too_long = pin!(elapsed(bounds.max_hold));
    let end = loop {
        tokio::select! {
            biased;
            loss = &mut lost => break End::Lost(loss),
            code = group.leader() => break End::Exited(code),
            () = &mut too_long => break End::TooLong,
            signal = signals.next() => group.signal(signal),
        }
    };
    let ended = tokio::select! {
        biased;
        _ = held.lost() => false,
        () = group.end(bounds.grace.unwrap_or(UNHURRIED)) => true,
    };
    if !ended {
        // Half of the time there is: stopping it takes a moment too.
        let in_time = held.grace() / 2;
        group.end(bounds.grace.unwrap_or(HURRIED).min(in_time)).await;
    }
    Ok(end)
}

/// While a lock or an office (`what`) is waited for: says who has it, soon and then whenever that is somebody
/// else.
pub(super) async fn tell_holders(session: &Session, store: &dyn Store, what: &str, key: &Key) -> Infallible {
    tokio::time::sleep(UNTOLD).await;
    let mut told = None;
    loop {
        match session.in_time(Operation::LockHolder, store.lock_holder(key)).await {
            Ok(Some(holder)) if told != Some(holder.token) => {
                told = Some(holder.token);
                say(&format!("kv: waiting for the {what} {key:?}: {}", holds(&holder)));
            }
            // Between two holders, or not to be asked: the wait itself goes on, and ends in words.
            _ => {}
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

pub(super) fn holds(holder: &LockHolder) -> String {
    format!("it is held by {}", holder::words(holder))
}

/// This process, behind those it runs under.
fn lock_pids() -> String {
    let own = std::process::id();
    match std::env::var(LOCK_PIDS) {
        Ok(outer) if !outer.is_empty() => format!("{outer},{own}"),
        _ => own.to_string(),
    }
}

/// Resolves when this time is over; never if there is none.
async fn elapsed(time: Option<Duration>) {
    match time {
        Some(time) => tokio::time::sleep(time).await,
        None => std::future::pending().await,
    }
}
