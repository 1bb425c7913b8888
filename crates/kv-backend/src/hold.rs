//! What a process knows about a lock it holds: lost when told so, and lost when the clock says so.

use std::sync::Arc;
use std::task::Wake;
use std::time::Duration;

use kv_core::LockLoss;
use tokio::sync::watch;
use tokio::time::Instant;

/// The state of one hold, shared by the guard and the task that renews it.
///
/// It is lost at the first of: [`lose`](Self::lose); the end of what the last acknowledged renewal
/// vouches for; the maximum hold. Time is monotonic and is looked at on every question, so a process
/// that was stopped is told the truth the first time it asks.
#[derive(Debug)]
pub struct HoldState {
    inner: watch::Sender<Inner>,
}

#[derive(Clone, Copy, Debug)]
struct Inner {
    loss: Option<LockLoss>,
    /// Until when the last acknowledged renewal vouches for the hold; `None`: it needs no renewal.
    valid_until: Option<Instant>,
    /// When the maximum hold ends.
    hold_until: Option<Instant>,
    /// What the last renewal was vouched for short of.
    margin: Duration,
    /// When the holder was first told of the loss.
    reported: Option<Instant>,
    /// Whether the holder said that it does nothing any more that the lock protects.
    let_go: bool,
}

impl Inner {
    fn loss_at(&self, now: Instant) -> Option<LockLoss> {
        let passed = |at: Option<Instant>| at.is_some_and(|at| now >= at);
        // Of two that have passed, the earlier is the reason.
        let by_clock = match (passed(self.valid_until), passed(self.hold_until)) {
            (true, true) if self.hold_until < self.valid_until => Some(LockLoss::HeldTooLong),
            (true, _) => Some(LockLoss::Expired),
            (false, true) => Some(LockLoss::HeldTooLong),
            (false, false) => None,
        };
        self.loss.or(by_clock)
    }

    fn next_deadline(&self) -> Option<Instant> {
        [self.valid_until, self.hold_until].into_iter().flatten().min()
    }
}

impl HoldState {
    /// A hold that begins now and needs no renewal until [`renewed`](Self::renewed) is called.
    #[must_use]
    pub fn new(max_hold: Option<Duration>) -> Self {
        let hold_until = max_hold.and_then(|max_hold| Instant::now().checked_add(max_hold));
        Self {
            inner: watch::Sender::new(Inner {
                loss: None,
                valid_until: None,
                hold_until,
                margin: Duration::ZERO,
                reported: None,
                let_go: false,
            }),
        }
    }

    /// Notes an acknowledged renewal: it vouches for `ttl` from the moment it was *sent*, less
    /// `margin` for what clocks and scheduling may cost. Returns whether the hold still stands; an
    /// acknowledgement that comes too late does not bring a lost hold back.
    pub fn renewed(&self, sent_at: Instant, ttl: Duration, margin: Duration) -> bool {
        let now = Instant::now();
        let mut stands = false;
        self.inner.send_if_modified(|inner| {
            inner.loss = inner.loss_at(now);
            stands = inner.loss.is_none();
            if stands {
                // A time too far to be represented never comes.
                inner.valid_until = sent_at.checked_add(ttl.saturating_sub(margin));
                inner.margin = margin;
            }
            true
        });
        stands
    }

    /// Ends the hold, unless it had ended before. Returns whether this call ended it.
    pub fn lose(&self, loss: LockLoss) -> bool {
        let first = self.lose_quietly(loss);
        self.announce();
        first
    }

    /// [`lose`](Self::lose) that wakes nobody: everybody who asks is told, and whoever waits already
    /// must be woken by [`announce`](Self::announce). For a critical section.
    pub(crate) fn lose_quietly(&self, loss: LockLoss) -> bool {
        let now = Instant::now();
        let mut first = false;
        self.inner.send_if_modified(|inner| {
            first = inner.loss_at(now).is_none();
            inner.loss = Some(inner.loss_at(now).unwrap_or(loss));
            false
        });
        first
    }

    /// Whether somebody waits for the loss. Who begins to wait after it was set sees it.
    pub(crate) fn is_awaited(&self) -> bool {
        self.inner.receiver_count() > 0
    }

    /// Wakes those who wait for the loss.
    fn announce(&self) {
        self.inner.send_if_modified(|_| true);
    }

    /// Why it is lost; `None` while it is held.
    #[must_use]
    pub fn loss(&self) -> Option<LockLoss> {
        self.inner.borrow().loss_at(Instant::now())
    }

    /// The margin of the last acknowledged renewal: how long before the server does this side takes
    /// the hold for expired. Zero if it needs none.
    #[must_use]
    pub fn margin(&self) -> Duration {
        self.inner.borrow().margin
    }

    /// Until when the last acknowledged renewal vouches for the hold.
    #[must_use]
    pub fn valid_until(&self) -> Option<Instant> {
        self.inner.borrow().valid_until
    }

    /// Notes that the holder is told of the loss now; only the first time counts. For the guard, wherever it
    /// answers why the hold is lost.
    pub fn reported(&self) {
        self.inner.send_if_modified(|inner| {
            inner.reported.get_or_insert_with(Instant::now);
            false
        });
    }

    /// Notes that the holder does nothing any more that the lock protects: it dropped the guard, or
    /// unlocked. It ends the grace.
    pub fn let_go(&self) {
        self.inner.send_if_modified(|inner| !std::mem::replace(&mut inner.let_go, true));
    }

    /// Resolves when a store may give away a lock that was lost by expiry: once the holder has let go, or
    /// had [`margin`](Self::margin) to stop since this was called and since the loss was first reported to
    /// it, whichever came later. Cancel-safe, but the time counts anew from the next call.
    pub async fn grace_over(&self) {
        let (noticed, grace) = (Instant::now(), self.margin());
        let mut changes = self.inner.subscribe();
        loop {
            let now = *changes.borrow_and_update();
            let until = now.reported.map_or(noticed, |reported| reported.max(noticed)) + grace;
            if now.let_go || Instant::now() >= until {
                return;
            }
            // The sender lives in `self`, so `changed` cannot fail: only its wake-up counts.
            let _ = tokio::time::timeout_at(until, changes.changed()).await;
        }
    }

    /// Resolves once it is lost. Cancel-safe.
    pub async fn lost(&self) -> LockLoss {
        let mut changes = self.inner.subscribe();
        loop {
            let now = *changes.borrow_and_update();
            if let Some(loss) = now.loss_at(Instant::now()) {
                return loss;
            }
            let changed = changes.changed();
            match now.next_deadline() {
                // The sender lives in `self`, so `changed` cannot fail: only its wake-up counts.
                Some(deadline) => drop(tokio::time::timeout_at(deadline, changed).await),
                None => drop(changed.await),
            }
        }
    }
}

/// Woken, it wakes those who wait for the loss: so it goes among the [`Wakes`](crate::Wakes).
impl Wake for HoldState {
    fn wake(self: Arc<Self>) {
        self.announce();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn it_is_lost_when_renewals_stop() {
        let hold = HoldState::new(None);
        assert!(hold.renewed(Instant::now(), 10 * SECOND, SECOND));
        assert_eq!(hold.margin(), SECOND);
        tokio::time::advance(8 * SECOND).await;
        assert_eq!(hold.loss(), None);
        let begin = Instant::now();
        assert_eq!(hold.lost().await, LockLoss::Expired);
        assert_eq!(begin.elapsed().as_secs(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_late_acknowledgement_does_not_bring_it_back() {
        let hold = HoldState::new(None);
        let sent = Instant::now();
        hold.renewed(sent, 3 * SECOND, SECOND);
        tokio::time::advance(2 * SECOND).await;
        assert!(!hold.renewed(Instant::now(), 10 * SECOND, SECOND));
        assert_eq!(hold.loss(), Some(LockLoss::Expired));
    }

    #[tokio::test(start_paused = true)]
    async fn a_renewal_prolongs_a_wait_for_the_loss() {
        let hold = std::sync::Arc::new(HoldState::new(None));
        hold.renewed(Instant::now(), 3 * SECOND, Duration::ZERO);
        let begin = Instant::now();
        let waiting = tokio::spawn({
            let hold = hold.clone();
            async move { hold.lost().await }
        });
        tokio::time::sleep(2 * SECOND).await;
        hold.renewed(Instant::now(), 3 * SECOND, Duration::ZERO);
        assert_eq!(waiting.await.unwrap(), LockLoss::Expired);
        assert_eq!(begin.elapsed().as_secs(), 5);
    }

    #[tokio::test(start_paused = true)]
    async fn a_time_to_live_too_long_to_count_does_not_end() {
        let hold = HoldState::new(Some(Duration::MAX));
        assert!(hold.renewed(Instant::now(), Duration::MAX, SECOND));
        tokio::time::advance(1000 * SECOND).await;
        assert_eq!(hold.loss(), None);
        assert!(hold.lose(LockLoss::Removed));
        assert_eq!(hold.lost().await, LockLoss::Removed);
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_reason_stays() {
        let hold = HoldState::new(Some(5 * SECOND));
        assert!(hold.lose(LockLoss::Removed));
        assert!(!hold.lose(LockLoss::Closed));
        assert_eq!(hold.lost().await, LockLoss::Removed);

        let hold = HoldState::new(Some(5 * SECOND));
        tokio::time::advance(6 * SECOND).await;
        assert!(!hold.lose(LockLoss::Removed));
        assert_eq!(hold.loss(), Some(LockLoss::HeldTooLong));
    }

    /// A hold that has just expired, with four seconds of grace.
    async fn expired() -> Arc<HoldState> {
        let hold = HoldState::new(None);
        assert!(hold.renewed(Instant::now(), 10 * SECOND, 4 * SECOND));
        tokio::time::advance(6 * SECOND).await;
        assert_eq!(hold.loss(), Some(LockLoss::Expired));
        Arc::new(hold)
    }

    /// How long its grace is, if this happens meanwhile.
    async fn grace_of(hold: &HoldState, meanwhile: impl Future<Output = ()>) -> Duration {
        let begin = Instant::now();
        tokio::join!(hold.grace_over(), meanwhile);
        begin.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn grace_counts_from_the_first_report() {
        let hold = expired().await;
        assert_eq!(grace_of(&hold, async {}).await, 4 * SECOND, "of one who never asks");
        let hold = expired().await;
        let asks = async {
            for _ in 0..2 {
                tokio::time::sleep(3 * SECOND).await;
                hold.reported();
            }
        };
        assert_eq!(grace_of(&hold, asks).await, 7 * SECOND, "of one who asks late, and again");
        let hold = expired().await;
        hold.reported();
        tokio::time::advance(SECOND).await;
        assert_eq!(grace_of(&hold, async {}).await, 4 * SECOND, "of one who was told before");
    }

    #[tokio::test(start_paused = true)]
    async fn grace_ends_when_the_holder_lets_go() {
        let hold = expired().await;
        let lets_go = async {
            tokio::time::sleep(SECOND).await;
            hold.let_go();
        };
        assert_eq!(grace_of(&hold, lets_go).await, SECOND);
        assert_eq!(grace_of(&hold, async {}).await, Duration::ZERO, "for good");
    }

    #[tokio::test(start_paused = true)]
    async fn a_report_does_not_prolong_a_hold_or_bring_it_back() {
        let hold = HoldState::new(None);
        assert!(hold.renewed(Instant::now(), 3 * SECOND, SECOND));
        hold.reported();
        let begin = Instant::now();
        assert_eq!(hold.lost().await, LockLoss::Expired);
        assert_eq!(begin.elapsed(), 2 * SECOND);
    }
}
