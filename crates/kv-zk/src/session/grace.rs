//! When the store itself may give a lock away that was lost: not before its holder had time to stop.

use std::time::Duration;

use kv_backend::HoldState;
use kv_core::LockLoss;
use tokio::sync::watch;
use tokio::time::Instant;

/// The state of a hold, and what its holder has been told of its end.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) state: HoldState,
    holder: watch::Sender<Holder>,
}

/// What is known of the holder after a loss.
#[derive(Clone, Copy, Debug, Default)]
struct Holder {
    /// When it was first told.
    told: Option<Instant>,
    /// It has said that it is done.
    done: bool,
}

impl Held {
    pub(crate) fn new(max_hold: Option<Duration>) -> Self {
        Self { state: HoldState::new(max_hold), holder: watch::Sender::default() }
    }

    /// The holder has been told of the loss.
    pub(crate) fn tell(&self) {
        self.holder.send_if_modified(|holder| {
            let first = holder.told.is_none();
            holder.told = holder.told.or_else(|| Some(Instant::now()));
            first
        });
    }

    /// The holder has dropped its guard or unlocked.
    pub(crate) fn done(&self) {
        self.holder.send_modify(|holder| holder.done = true);
    }

    /// Resolves when the store may give a lost lock away: after a loss by expiry not before the holder
    /// had the time of grace to stop, counted from when it was told, unless it says that it has.
    pub(crate) async fn given_up(&self) {
        if !matches!(self.state.loss(), Some(LockLoss::Expired | LockLoss::SessionLost)) {
            return;
        }
        // Who waits for the loss is told now; who asks now and then may be told later.
        let (noticed, grace) = (Instant::now(), self.state.margin());
        let mut holder = self.holder.subscribe();
        loop {
            let now = *holder.borrow_and_update();
            let until = now.told.map_or(noticed, |told| told.max(noticed)) + grace;
            if now.done || Instant::now() >= until {
                return;
            }
            // The sender lives in `self`, so `changed` cannot fail: only its wake-up counts.
            let _ = tokio::time::timeout_at(until, holder.changed()).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// A hold that has just expired, with four seconds of grace.
    async fn expired() -> Held {
        let held = Held::new(None);
        assert!(held.state.renewed(Instant::now(), 10 * SECOND, 4 * SECOND));
        tokio::time::advance(6 * SECOND).await;
        assert_eq!(held.state.loss(), Some(LockLoss::Expired));
        held
    }

    #[tokio::test(start_paused = true)]
    async fn an_expired_hold_is_kept_until_the_holder_has_had_its_grace() {
        let held = expired().await;
        let begin = Instant::now();
        held.given_up().await;
        assert_eq!(begin.elapsed().as_secs(), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn the_grace_counts_from_when_the_holder_is_told() {
        let held = expired().await;
        let begin = Instant::now();
        let telling = async {
            tokio::time::sleep(3 * SECOND).await;
            held.tell();
        };
        tokio::join!(held.given_up(), telling);
        assert_eq!(begin.elapsed().as_secs(), 7);
    }

    #[tokio::test(start_paused = true)]
    async fn who_says_that_it_is_done_is_not_waited_for() {
        let held = expired().await;
        let begin = Instant::now();
        let ending = async {
            tokio::time::sleep(SECOND).await;
            held.done();
        };
        tokio::join!(held.given_up(), ending);
        assert_eq!(begin.elapsed().as_secs(), 1);
        let held = Held::new(None);
        held.state.lose(LockLoss::Released);
        let begin = Instant::now();
        held.given_up().await;
        assert!(begin.elapsed().is_zero(), "a lock that was let go is free at once");
    }
}
