//! Acquires one of two locks, says again and again whether it holds, writes under its fence, and
//! releases it or holds it until it is lost.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use kv_any::kv_core::{Key, LockGuard, LockLoss, LockOptions, LockWait, Power, StoreExt};

use super::caller::{Caller, Condition};
use super::work::Work;
use crate::history::{Answer, Call, Life, Note, now};

const LOCKS: u64 = 2;
const LOOK: Duration = Duration::from_millis(50);

pub(super) async fn run(work: Arc<Work>, caller: Caller, task: u64) -> Result<()> {
    let mut random = work.random(caller.client(), task);
    while work.goes_on() {
        let name = format!("lock{}", random.u64(..LOCKS));
        let options = LockOptions::default()
            .with_owner(format!("{:?}", caller.client()))
            .with_wait(LockWait::UpTo(Duration::from_secs(random.u64(1..20))));
        let mut guard = None;
        let key: Key = name.parse()?;
        caller
            .noted(&Call::Acquire { lock: name.clone() }, async {
                let acquired = caller.store().lock_with(&key, options).await?;
                let token = acquired.token().get();
                guard = Some(acquired);
                Ok(Answer::Acquired { token })
            })
            .await?;
        if let Some(guard) = guard {
            let hold = Duration::from_millis(random.u64(20..4_000));
            hold_on(&work, &caller, &name, guard, hold, &mut random).await?;
        }
        tokio::time::sleep(Duration::from_millis(random.u64(10..500))).await;
    }
    Ok(())
}

async fn hold_on(
    work: &Work,
    caller: &Caller,
    lock: &str,
    guard: LockGuard,
    hold: Duration,
    random: &mut fastrand::Rng,
) -> Result<()> {
    let token = guard.token().get();
    let fenced = caller.store().capabilities().has(Power::FencedWrites);
    let key: Key = format!("fenced/{lock}").parse()?;
    let until = Instant::now() + hold;
    let note = |at, note| caller.recorder().note(caller.client(), at, note);
    while Instant::now() < until && work.goes_on() {
        let at = now();
        if let Some(loss) = guard.loss() {
            let lost = Note::Lost {
                lock: lock.to_owned(),
                token,
                expired: loss == LockLoss::Expired,
                grace: u64::try_from(guard.grace().as_nanos()).unwrap_or(u64::MAX),
            };
            note(now(), lost)?;
            break;
        }
        note(at, Note::Held { lock: lock.to_owned(), token })?;
        if fenced && random.u8(..4) == 0 {
            caller.put(&key, Condition::Any, Some(guard.fence()), Life::Permanent).await?;
        } else {
            tokio::time::sleep(LOOK).await;
        }
    }
    let fence = guard.fence();
    caller
        .noted(&Call::Release { lock: lock.to_owned(), token }, async {
            guard.unlock().await?;
            Ok(Answer::Done)
        })
        .await?;
    if fenced && random.bool() {
        // A write with the fence of a hold that is over must be refused.
        caller.put(&key, Condition::Any, Some(fence), Life::Permanent).await?;
    }
    Ok(())
}
