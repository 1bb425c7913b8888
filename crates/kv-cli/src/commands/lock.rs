//! `kv lock KEY -- COMMAND`: the command runs while the lock is held, and not a moment longer.

use std::convert::Infallible;
use std::pin::pin;
use std::time::{Duration, Instant};

use kv_core::{ErrorKind, Key, LockGuard, LockHolder, LockLoss, LockOptions, LockWait, Operation, Store};

use super::fence;
use super::locks::holder;
use crate::child::{Group, Signals, number};
use crate::cli::Lock;
use crate::exit::Failure;
use crate::output::say;
use crate::session::{LOCK_PIDS, Session, Wait};

/// How long what is left of a command has between TERM and KILL while we hold the lock.
const UNHURRIED: Duration = Duration::from_secs(5);
/// The same once the lock is lost, at most, and never more than half the time until another can have it.
const HURRIED: Duration = Duration::from_millis(500);

/// How long a wait for a lock may take before it is told who has it.
const UNTOLD: Duration = Duration::from_secs(1);
/// How often it is asked afterwards whether that is somebody else by now.
const LOOK_AGAIN: Duration = Duration::from_secs(15);

/// How the command ended.
enum End {
    /// By itself, with this exit code.
    Exited(u8),
    /// By us, because the lock was lost.
    Lost(LockLoss),
    /// By us, because it ran for too long.
    TooLong,
}

/// Takes the lock, runs the command and returns its exit code.
pub(crate) async fn run(session: &Session, args: Lock) -> Result<u8, Failure> {
    let key = super::key(&args.key, Operation::Lock)?;
    if args.command.is_empty() {
        let name = super::word(key.as_str());
        return Err(Failure::Usage(format!(
            "there is no command to run while the lock is held: kv lock {name} -- COMMAND. Who holds it is told \
             by kv lock {name} --holder"
        )));
    }
    let mut signals = Signals::listen()?;
    let guard = tokio::select! {
        biased;
        signal = signals.next() => return Err(Failure::Signal(number(signal))),
        guard = acquire(session, &args, &key) => guard?,
    };
    let end = hold(&guard, &args, &mut signals).await;
    let unlocked = guard.unlock().await;
    let code = match end? {
        End::Exited(code) => code,
        End::Lost(loss) => {
            return Err(Failure::NoLock(format!(
                "the lock {key:?} was lost: {loss}. The command was stopped"
            )));
        }
        End::TooLong => {
            return Err(Failure::NoLock(
                "the command held the lock longer than --max-hold and was stopped".into(),
            ));
        }
    };
    match unlocked {
        Ok(()) => Ok(code),
        Err(error) if *error.kind() == ErrorKind::NotHeld => Err(Failure::NoLock(format!(
            "the lock {key:?} was lost while the command ended, with code {code}"
        ))),
        Err(error) => {
            say(&format!("kv: warning: {error}; the lock ends with its time to live at the latest"));
            Ok(code)
        }
    }
}

async fn acquire(session: &Session, args: &Lock, key: &Key) -> Result<LockGuard, Failure> {
    let begin = Instant::now();
    // A sled directory belongs to one process at a time, so waiting for the lock begins with it.
    let store = session
        .store_within(match args.wait {
            _ if args.attempt => Wait::UpTo(Duration::ZERO),
            Some(wait) => Wait::UpTo(wait),
            None => Wait::Forever,
        })
        .await?;
    let owner = args.owner.clone().unwrap_or_else(default_owner);
    let mut options = LockOptions::default().with_owner(owner).with_wait(match args.wait {
        _ if args.attempt => LockWait::Try,
        Some(wait) => LockWait::UpTo(wait.saturating_sub(begin.elapsed())),
        None => LockWait::Forever,
    });
    // Not max_hold: the store would give the lock to another while the command is being stopped.
    options.ttl = args.ttl;
    options.timeout = session.timeout();
    let lock = session.request(Operation::Lock, key.as_str(), store.lock_with(key, options));
    let told = tell_holders(session, &**store, key);
    let locked = tokio::select! {
        biased;
        locked = lock => locked,
        never = told => match never {},
    };
    match locked {
        Err(error) if *error.kind() == ErrorKind::Locked => {
            let advice = holder_words(session, &**store, key).await;
            Err(Failure::Advised { error, advice })
        }
        done => Ok(done?),
    }
}

/// While the lock is waited for: says who has it, soon and then whenever that is somebody else.
async fn tell_holders(session: &Session, store: &dyn Store, key: &Key) -> Infallible {
    tokio::time::sleep(UNTOLD).await;
    let mut told = None;
    loop {
        match session.in_time(Operation::LockHolder, store.lock_holder(key)).await {
            Ok(Some(holder)) if told != Some(holder.token) => {
                told = Some(holder.token);
                say(&format!("kv: waiting for the lock {key:?}: {}", holds(&holder)));
            }
            // Between two holders, or not to be asked: the wait itself goes on, and ends in words.
            _ => {}
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

fn holds(holder: &LockHolder) -> String {
    format!("it is held by {}", holder::words(holder))
}

/// Who has the lock, in words.
async fn holder_words(session: &Session, store: &dyn Store, key: &Key) -> String {
    match session.in_time(Operation::LockHolder, store.lock_holder(key)).await {
        Ok(Some(holder)) => holds(&holder),
        Ok(None) => "It is free again by now".to_owned(),
        Err(error) => format!("Who holds it could not be asked: {error}"),
    }
}

/// Runs the command until it ends, the lock does, or its time is up. Afterwards nothing of it is left.
async fn hold(guard: &LockGuard, args: &Lock, signals: &mut Signals) -> Result<End, Failure> {
    let environment = fence::environment(guard).into_iter().chain([(LOCK_PIDS, lock_pids())]);
    let mut group = Group::spawn(&args.command, environment, None)?;
    let mut lost = pin!(guard.lost());
    let mut too_long = pin!(elapsed(args.max_hold));
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
        _ = guard.lost() => false,
        () = group.end(args.grace.unwrap_or(UNHURRIED)) => true,
    };
    if !ended {
        // Half of the time there is: stopping it takes a moment too.
        let in_time = guard.grace() / 2;
        group.end(args.grace.unwrap_or(HURRIED).min(in_time)).await;
    }
    Ok(end)
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

/// What others see as the holder.
pub(crate) fn default_owner() -> String {
    let host = nix::unistd::gethostname().ok();
    let host = host.as_ref().map_or_else(|| "localhost".into(), |host| host.to_string_lossy());
    format!("{host}:{}", std::process::id())
}
