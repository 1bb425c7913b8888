//! Locks that must be renewed and are lost by the clock: the memory store has none. One does what it
//! should after a loss, the others do not.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use kv_core::implement::Hold;
use kv_core::{Error, Fence, LockGuard, LockLoss, Result, StoreExt};

use super::Fault;
use super::tools::pause;

/// What becomes of a lock that was lost by the clock.
#[derive(Clone, Copy, PartialEq)]
enum AfterExpiry {
    /// It is released at the end of its grace, or when its holder lets go of it.
    Kept,
    Released,
    /// It is released at the end of its grace, whatever its holder says.
    KeptWhateverIsSaid,
}

fn expiring(name: &'static str, caught_by: &'static [&'static str], after: AfterExpiry) -> Fault {
    Fault::new(name, caught_by).lock(move |store, key, options| async move {
        let ttl = options.ttl.unwrap_or(Duration::from_secs(8));
        let guard = store.lock_with(&key, options).await?;
        Ok(LockGuard::new(Expiring::new(guard, ttl, after)))
    })
}

/// Not a fault.
pub(crate) fn honest_expiry() -> Fault {
    expiring("locks_expire", &[], AfterExpiry::Kept)
}

pub(super) fn faults() -> [Fault; 2] {
    [
        expiring(
            "an_expired_lock_is_released_at_once",
            &["expired_lock_is_kept_through_its_grace"],
            AfterExpiry::Released,
        ),
        expiring(
            "an_expired_lock_is_kept_from_everybody",
            &["letting_go_of_an_expired_lock_ends_its_grace"],
            AfterExpiry::KeptWhateverIsSaid,
        ),
    ]
}

struct Expiring {
    fence: Fence,
    after: AfterExpiry,
    state: Arc<State>,
}

struct State {
    guard: Mutex<Option<LockGuard>>,
    times: Mutex<Times>,
    grace: Duration,
    ttl: Duration,
}

struct Times {
    renewed: Instant,
    told_lost: Option<Instant>,
}

impl State {
    /// When it was first told lost, which is now at the earliest.
    fn told_lost(&self) -> Option<Instant> {
        let mut times = self.times.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if now >= times.renewed + self.ttl - self.grace {
            times.told_lost.get_or_insert(now);
        }
        times.told_lost
    }

    fn renew(&self) {
        self.times.lock().unwrap_or_else(PoisonError::into_inner).renewed = Instant::now();
    }

    fn with_guard<R>(&self, ask: impl FnOnce(&mut Option<LockGuard>) -> R) -> R {
        ask(&mut self.guard.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Expiring {
    fn new(guard: LockGuard, ttl: Duration, after: AfterExpiry) -> Self {
        let fence = guard.fence();
        let state = Arc::new(State {
            guard: Mutex::new(Some(guard)),
            times: Mutex::new(Times { renewed: Instant::now(), told_lost: None }),
            grace: ttl * 3 / 4,
            ttl,
        });
        tokio::spawn({
            let state = Arc::clone(&state);
            async move {
                while state.with_guard(|guard| guard.is_some()) {
                    match state.told_lost() {
                        None => state.renew(),
                        Some(_) if after == AfterExpiry::Released => drop(state.with_guard(Option::take)),
                        Some(at) if at.elapsed() > state.grace => drop(state.with_guard(Option::take)),
                        Some(_) => {}
                    }
                    pause(100).await;
                }
            }
        });
        Self { fence, after, state }
    }
}

#[async_trait]
impl Hold for Expiring {
    fn fence(&self) -> Fence {
        self.fence.clone()
    }

    fn loss(&self) -> Option<LockLoss> {
        match self.state.told_lost() {
            Some(_) => Some(LockLoss::Expired),
            None => self.state.with_guard(|guard| match guard {
                Some(guard) => guard.loss(),
                None => Some(LockLoss::Released),
            }),
        }
    }

    async fn lost(&self) -> LockLoss {
        loop {
            if let Some(loss) = self.loss() {
                return loss;
            }
            pause(20).await;
        }
    }

    fn grace(&self) -> Duration {
        self.state.grace
    }

    async fn unlock(&self) -> Result<()> {
        if self.state.told_lost().is_some() {
            self.release();
            return Err(Error::not_held(None));
        }
        match self.state.with_guard(Option::take) {
            Some(guard) => guard.unlock().await,
            None => Err(Error::not_held(None)),
        }
    }

    fn release(&self) {
        if self.state.told_lost().is_none() || self.after != AfterExpiry::KeptWhateverIsSaid {
            drop(self.state.with_guard(Option::take));
        }
    }
}
