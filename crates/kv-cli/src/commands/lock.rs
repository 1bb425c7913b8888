//! `kv lock KEY -- COMMAND`: the command runs while the lock is held, and not a moment longer.

use std::time::{Duration, Instant};

use kv_core::{ErrorKind, Key, LockGuard, LockOptions, LockWait, Operation, Store, StoreExt};

use super::hold::{Bounds, End, hold, holds, tell_holders};
use super::owner::default_owner;
use crate::child::{Signals, number};
use crate::cli::Lock;
use crate::exit::Failure;
use crate::output::say;
use crate::session::{Session, Wait};

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
    let bounds = Bounds { max_hold: args.max_hold, grace: args.grace };
    let end = hold(&guard, &args.command, bounds, &mut signals).await;
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
        Err(error) if matches!(error.kind(), ErrorKind::NotHeld { .. }) => Err(Failure::NoLock(format!(
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
    let told = tell_holders(session, &**store, "lock", key);
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

/// Who has the lock, in words.
async fn holder_words(session: &Session, store: &dyn Store, key: &Key) -> String {
    match session.in_time(Operation::LockHolder, store.lock_holder(key)).await {
        Ok(Some(holder)) => holds(&holder),
        Ok(None) => "It is free again by now".to_owned(),
        Err(error) => format!("Who holds it could not be asked: {error}"),
    }
}
