//! Work that only a leader does: campaign, work, end the work when the term is over, campaign again.

use std::fmt;
use std::ops::ControlFlow;
use std::pin::{Pin, pin};
use std::sync::{Arc, Weak};

use kv_core::{Bytes, Error, ErrorKind, Fence, FencingToken, Key, LockLoss, Operation, Result};
use tokio::sync::watch;
use tokio::time::Instant;

use super::candidate::Election;
use super::leadership::Leadership;
use crate::pace::{Pauses, passes, until};

/// Why a term that [`Election::run`] leads in is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TermEnd {
    /// The office was lost.
    Lost(LockLoss),
    /// The run was asked to stop.
    Stopped,
}

/// What the work of [`Election::run`] knows of its term. Clones are the same term; they do not keep the
/// office.
#[derive(Clone)]
pub struct Term {
    key: Key,
    fence: Fence,
    leadership: Weak<Leadership>,
    end: watch::Receiver<Option<TermEnd>>,
}

impl Term {
    /// The number of the term: greater than that of every earlier leader.
    #[must_use]
    pub fn token(&self) -> FencingToken {
        self.fence.token()
    }

    /// What to give to writes that must happen only during this term.
    #[must_use]
    pub fn fence(&self) -> Fence {
        self.fence.clone()
    }

    /// Whether the term goes on, as far as this process can know now.
    #[must_use]
    pub fn is_current(&self) -> bool {
        let is_over = self.end.borrow().is_some();
        !is_over && self.leadership.upgrade().is_some_and(|leadership| leadership.is_leader())
    }

    /// Resolves once the term is over, with the reason. Tasks that the work has spawned, which are not
    /// dropped with it, must end on it. Cancel-safe.
    pub fn over(&self) -> impl Future<Output = TermEnd> + Send + 'static {
        let mut end = self.end.clone();
        async move {
            match end.wait_for(Option::is_some).await.map(|end| *end) {
                Ok(Some(end)) => end,
                // The run was dropped.
                Ok(None) | Err(_) => TermEnd::Stopped,
            }
        }
    }

    /// Tells observers this value as the leader's, as [`Leadership::proclaim`] does.
    ///
    /// # Errors
    ///
    /// As there.
    pub async fn proclaim(&self, value: impl Into<Bytes>) -> Result<()> {
        match self.leadership.upgrade() {
            Some(leadership) => leadership.proclaim(value).await,
            None => Err(Error::not_held(None)
                .with_operation(Operation::Put)
                .with_key(self.key.as_str())
                .with_detail(format!("term {} is over", self.token()))),
        }
    }
}

impl fmt::Debug for Term {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Term").field("fence", &self.fence).field("end", &*self.end.borrow()).finish()
    }
}

/// How a term of a run went.
enum Ended<T> {
    /// The work has said that this was all.
    Done(T),
    Stopped,
    /// The next term may come.
    Again,
}

impl Election {
    /// Leads again and again: campaigns, does `work` for as long as the term goes on, and campaigns again,
    /// until `stop` resolves or the work breaks with a value.
    ///
    /// - When the office is lost, the term is [over](Term::over) for the work at once. The work then has
    ///   the [grace](Leadership::grace) of the office to end by itself, before another can lead, and is
    ///   dropped after that. A loss without grace drops it at once.
    /// - When `stop` resolves, the work is told in the same way and has the time of
    ///   [`with_stop_within`](Election::with_stop_within).
    /// - The office is given up only after the work has ended or was dropped. Work that returns
    ///   `Continue` resigns and campaigns again; `Break` resigns and ends the run with its value.
    /// - Outages are waited out with pauses that grow from 50 ms to 5 s, with jitter.
    ///
    /// Dropping the future drops the work first and then resigns in the background. A task that the work
    /// has spawned is not dropped with it: let it end on [`Term::over`].
    ///
    /// Returns `None` if it was stopped. That a resignation was not confirmed by the backend is logged
    /// and not an error: the office ends with its time to live at the latest.
    ///
    /// # Errors
    ///
    /// `Closed`, missing rights, and whatever a campaign is refused with.
    ///
    /// # Examples
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use kv_recipes::kv_core::{Result, Store};
    /// use std::ops::ControlFlow;
    /// use kv_recipes::Election;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<()> {
    /// # let store: Arc<dyn Store> = Arc::new(kv_mem::MemStore::open(Default::default())?);
    /// let election = Election::new(store, "jobs/leader")?;
    /// let stop = std::future::pending(); // or tokio::signal::ctrl_c()
    /// let led = election
    ///     .run(stop, |term| async move {
    ///         // Work that only one process may do, with writes under `term.fence()`.
    ///         ControlFlow::Break(term.token())
    ///     })
    ///     .await?;
    /// assert!(led.is_some());
    /// # Ok(()) }
    /// ```
    pub async fn run<T, W>(
        &self,
        stop: impl Future<Output = ()>,
        mut work: impl FnMut(Term) -> W,
    ) -> Result<Option<T>>
    where
        W: Future<Output = ControlFlow<T>>,
    {
        let mut stop = pin!(stop);
        let mut pauses = Pauses::new();
        loop {
            let won = tokio::select! {
                biased;
                () = &mut stop => return Ok(None),
                won = self.campaign() => won,
            };
            match won {
                Ok(leadership) => {
                    pauses.reset();
                    match self.lead(leadership, stop.as_mut(), &mut work).await? {
                        Ended::Done(value) => return Ok(Some(value)),
                        Ended::Stopped => return Ok(None),
                        Ended::Again => {}
                    }
                }
                Err(error) if passes(&error) => {
                    tracing::warn!(key = self.key.as_str(), %error, "the campaign failed, it is tried again");
                }
                Err(error) => return Err(error),
            }
            tokio::select! {
                biased;
                () = &mut stop => return Ok(None),
                () = pauses.pause() => {}
            }
        }
    }

    /// Does the work of one term, and resigns.
    async fn lead<T, W>(
        &self,
        leadership: Leadership,
        mut stop: Pin<&mut impl Future<Output = ()>>,
        work: &mut impl FnMut(Term) -> W,
    ) -> Result<Ended<T>>
    where
        W: Future<Output = ControlFlow<T>>,
    {
        // Declared before the work, and so dropped after it: the office outlives the work also where this
        // future is dropped.
        let leadership = Arc::new(leadership);
        let (end, told) = watch::channel(None);
        let mut lost = pin!(leadership.lost());
        let mut working = Box::pin(work(Term {
            key: self.key.clone(),
            fence: leadership.fence(),
            leadership: Arc::downgrade(&leadership),
            end: told,
        }));
        let (mut is_lost, mut is_stopped) = (false, false);
        let mut deadline: Option<Instant> = None;
        let flow = loop {
            let time = tokio::select! {
                // The loss is looked at first: work must not go on as if nothing was.
                biased;
                loss = &mut lost, if !is_lost => {
                    is_lost = true;
                    first(&end, TermEnd::Lost(loss));
                    // Every other loss is told when another may lead already.
                    if loss == LockLoss::Expired { Some(leadership.grace()) } else { None }
                }
                () = stop.as_mut(), if !is_stopped => {
                    is_stopped = true;
                    first(&end, TermEnd::Stopped);
                    Some(self.stop_within)
                }
                () = until(deadline), if deadline.is_some() => break None,
                flow = &mut working => break Some(flow),
            };
            let now = Instant::now();
            let Some(end) = now.checked_add(time.unwrap_or_default()) else { continue };
            deadline = Some(deadline.map_or(end, |deadline| deadline.min(end)));
        };
        drop(working);
        let loss = leadership.loss();
        match loss {
            // Dropping it says that the work has ended: another may lead before the grace is over.
            Some(loss) => {
                tracing::info!(key = self.key.as_str(), term = %leadership.term(), %loss, "a term was lost")
            }
            None => match leadership.release().await {
                Err(error) if !matches!(error.kind(), ErrorKind::NotHeld { .. }) => {
                    tracing::warn!(key = self.key.as_str(), %error, "the resignation is not confirmed");
                }
                _ => {}
            },
        }
        match flow {
            Some(ControlFlow::Break(value)) => Ok(Ended::Done(value)),
            _ if is_stopped => Ok(Ended::Stopped),
            _ if loss == Some(LockLoss::Closed) => Err(Error::new(ErrorKind::Closed)
                .with_operation(Operation::Lock)
                .with_backend(self.store.capabilities().backend)
                .with_key(self.key.as_str())),
            _ => Ok(Ended::Again),
        }
    }
}

/// Tells the work why its term is over, unless it was told before.
fn first(end: &watch::Sender<Option<TermEnd>>, why: TermEnd) {
    end.send_if_modified(|end| end.is_none().then(|| *end = Some(why)).is_some());
}
