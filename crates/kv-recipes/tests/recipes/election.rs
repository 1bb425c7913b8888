//! Elections.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::FutureExt;
use kv_layers::{Call, LayerExt, Next, Policy};
use kv_recipes::kv_core::implement::Hold;
use kv_recipes::kv_core::{
    ErrorKind, Fence, LockGuard, LockLoss, Operation, Power, PutOptions, Result, Store, StoreExt,
};
use kv_recipes::{Election, Leader, Leaders, Term, TermEnd};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::common::{flaky, handles, soon, until, without};

const KEY: &str = "dir/office";

fn candidate(store: &Arc<dyn Store>, identity: &'static str) -> Election {
    Election::new(Arc::clone(store), KEY).unwrap().with_identity(identity)
}

async fn next(leaders: &mut Leaders) -> Option<Leader> {
    soon("the next leader", leaders.next()).await.unwrap().unwrap()
}

#[tokio::test]
async fn terms_rise_and_vacancies_are_seen() {
    let stores = handles::<3>();
    let mut leaders = candidate(&stores[2], "observer").observe().await.unwrap();
    assert_eq!(next(&mut leaders).await, None);
    let mut last = 0;
    for (store, identity) in [(&stores[0], "a"), (&stores[1], "b"), (&stores[0], "c")] {
        let election = candidate(store, identity);
        let leadership = election.campaign().await.unwrap();
        assert!(leadership.is_leader() && leadership.term().get() > last);
        last = leadership.term().get();
        assert!(candidate(&stores[2], "late").try_campaign().await.unwrap().is_none());
        let seen = next(&mut leaders).await.unwrap();
        assert_eq!((seen.term, &*seen.identity), (leadership.term(), identity.as_bytes()));
        assert_eq!(election.leader().await.unwrap().as_ref(), Some(&seen));
        leadership.resign().await.unwrap();
        assert_eq!(next(&mut leaders).await, None);
    }
    assert_eq!(candidate(&stores[0], "a").leader().await.unwrap(), None);
    // A vacancy that is over before it is looked at.
    candidate(&stores[0], "a").campaign().await.unwrap().resign().await.unwrap();
    let _leadership = candidate(&stores[1], "b").campaign().await.unwrap();
    let told: Vec<_> = [next(&mut leaders).await, next(&mut leaders).await, next(&mut leaders).await]
        .map(|leader| leader.map(|leader| leader.identity))
        .into();
    assert_eq!(told, [Some("a".into()), None, Some("b".into())]);
}

#[tokio::test]
async fn a_candidate_leads_when_the_leader_dies() {
    let [first, second] = handles::<2>();
    let leadership = candidate(&first, "a").campaign().await.unwrap();
    let election = candidate(&second, "b");
    let waiting = tokio::spawn(async move { election.campaign().await });
    let mut lost = Box::pin(leadership.lost());
    assert!(lost.as_mut().now_or_never().is_none());
    first.close().await.unwrap();
    let next = soon("the next leader", waiting).await.unwrap().unwrap();
    assert!(next.term() > leadership.term());
    assert!(!leadership.is_leader());
    assert_eq!(lost.await, LockLoss::Closed);
}

#[tokio::test]
async fn a_withdrawn_candidate_leaves_no_trace() {
    let [store] = handles::<1>();
    let leadership = candidate(&store, "a").campaign().await.unwrap();
    let election = candidate(&store, "b");
    assert!(election.campaign().now_or_never().is_none());
    leadership.resign().await.unwrap();
    let again = candidate(&store, "c").try_campaign().await.unwrap();
    assert!(again.is_some(), "the office is kept by a candidate that withdrew");
}

#[tokio::test]
async fn what_is_proclaimed_is_the_leaders_own() {
    let [store, other] = handles::<2>();
    let election = candidate(&store, "a");
    let mut leaders = candidate(&other, "observer").observe().await.unwrap();
    assert_eq!(next(&mut leaders).await, None);
    let leadership = election.campaign().await.unwrap();
    assert_eq!(next(&mut leaders).await.unwrap().proclaimed, None);
    for value in ["up", "", "busy\n7"] {
        leadership.proclaim(value).await.unwrap();
        assert_eq!(next(&mut leaders).await.unwrap().proclaimed.unwrap(), value);
        assert_eq!(election.leader().await.unwrap().unwrap().proclaimed.unwrap(), value);
    }
    assert!(store.break_lock(KEY, leadership.term()).await.unwrap());
    let refused = leadership.proclaim("late").await.unwrap_err();
    assert!(matches!(refused.kind(), ErrorKind::NotHeld { .. }));
    assert_eq!(next(&mut leaders).await, None);
    // The value is still stored, and is not the next leader's.
    let leadership = candidate(&other, "b").campaign().await.unwrap();
    let leader = next(&mut leaders).await.unwrap();
    assert_eq!((&*leader.identity, leader.proclaimed), (&b"b"[..], None));
    assert_eq!(election.leader().await.unwrap().unwrap().proclaimed, None);
    leadership.proclaim("new").await.unwrap();
    assert_eq!(next(&mut leaders).await.unwrap().proclaimed.unwrap(), "new");
}

#[tokio::test]
async fn an_older_term_never_replaces_what_a_newer_one_proclaimed() {
    let [store] = handles::<1>();
    // A store that does not check the fence, as one without fenced writes.
    let store = without(store, Power::FencedWrites);
    let election = candidate(&store, "a");
    let leadership = election.campaign().await.unwrap();
    leadership.proclaim("old").await.unwrap();
    let newer = format!("{}\nnewer", leadership.term().get() + 1);
    store.put(KEY, newer.clone()).await.unwrap();
    let refused = leadership.proclaim("late").await.unwrap_err();
    assert!(matches!(refused.kind(), ErrorKind::NotHeld { .. }));
    assert_eq!(store.get(KEY).await.unwrap().unwrap().value, newer);
}

#[tokio::test]
async fn a_foreign_entry_is_not_overwritten() {
    let [store] = handles::<1>();
    store.put(KEY, "mine").await.unwrap();
    let election = candidate(&store, "a");
    let leadership = election.campaign().await.unwrap();
    let refused = leadership.proclaim("x").await.unwrap_err();
    assert!(matches!(refused.kind(), ErrorKind::InvalidValue { .. }), "{refused}");
    assert_eq!(refused.key(), Some(KEY));
    assert_eq!(store.get(KEY).await.unwrap().unwrap().value, "mine");
    assert_eq!(election.leader().await.unwrap().unwrap().proclaimed, None);
}

#[tokio::test]
async fn a_store_that_cannot_see_locks_is_refused_at_construction() {
    let [store] = handles::<1>();
    let refused = Election::new(without(store, Power::LockView), KEY).unwrap_err();
    assert!(matches!(refused.kind(), ErrorKind::Unsupported { .. }), "{refused}");
    assert!(refused.to_string().contains("plain lock"), "{refused}");
}

/// Notes, when it is dropped, whether the office was still taken.
struct Work {
    store: Arc<dyn Store>,
    was_held: Arc<Mutex<Vec<bool>>>,
}

impl Drop for Work {
    fn drop(&mut self) {
        let holder = self.store.lock_holder(KEY).now_or_never();
        self.was_held.lock().unwrap().push(holder.unwrap().unwrap().is_some());
    }
}

#[tokio::test]
async fn the_office_is_given_up_after_the_work_and_not_before() {
    let [store] = handles::<1>();
    let was_held = Arc::new(Mutex::new(Vec::new()));
    let work = |ends: Option<ControlFlow<()>>| {
        let (store, was_held) = (Arc::clone(&store), Arc::clone(&was_held));
        move |_: Term| {
            let work = Work { store: Arc::clone(&store), was_held: Arc::clone(&was_held) };
            async move {
                let _work = work;
                match ends {
                    Some(ends) => ends,
                    None => std::future::pending().await,
                }
            }
        }
    };
    let election = candidate(&store, "a").with_stop_within(Duration::ZERO);
    // It ends by itself.
    let done = election.run(std::future::pending(), work(Some(ControlFlow::Break(())))).await.unwrap();
    assert_eq!(done, Some(()));
    // It is stopped.
    let (stop, mut stopped) = watch::channel(false);
    let stopping = async move { drop(stopped.wait_for(|stop| *stop).await) };
    let mut running = Box::pin(election.run(stopping, work(None)));
    assert!(running.as_mut().now_or_never().is_none());
    stop.send_replace(true);
    assert_eq!(soon("the end", running).await.unwrap(), None);
    // Its future is dropped.
    let mut running = Box::pin(election.run(std::future::pending(), work(None)));
    assert!(running.as_mut().now_or_never().is_none());
    drop(running);
    assert_eq!(*was_held.lock().unwrap(), [true, true, true]);
    assert_eq!(election.leader().await.unwrap(), None);
}

#[tokio::test]
async fn a_lost_term_ends_its_work_and_the_next_is_greater() {
    let [store] = handles::<1>();
    let election = candidate(&store, "a");
    let (terms, mut told) = tokio::sync::mpsc::unbounded_channel();
    let running = election.clone();
    let run = tokio::spawn(async move {
        let work = |term: Term| {
            let terms = terms.clone();
            async move {
                terms.send(term).unwrap();
                std::future::pending::<ControlFlow<()>>().await
            }
        };
        running.run(std::future::pending(), work).await
    });
    let mut last = 0;
    for _ in 0..3 {
        let term = soon("a term", told.recv()).await.unwrap();
        assert!(term.token().get() > last && term.is_current());
        last = term.token().get();
        term.proclaim("here").await.unwrap();
        assert!(store.break_lock(KEY, term.token()).await.unwrap());
        assert_eq!(soon("the end of the term", term.over()).await, TermEnd::Lost(LockLoss::Removed));
        assert!(!term.is_current());
        // What the old leader still sends is refused.
        let fenced = PutOptions::default().with_fence(term.fence());
        let refused = store.put_with("data", "x", fenced).await.unwrap_err();
        assert!(matches!(refused.kind(), ErrorKind::NotHeld { .. }));
        let refused = term.proclaim("late").await.unwrap_err();
        assert!(matches!(refused.kind(), ErrorKind::NotHeld { .. }));
    }
    store.close().await.unwrap();
    let ended = soon("the end of the run", run).await.unwrap().unwrap_err();
    assert_eq!(*ended.kind(), ErrorKind::Closed);
}

#[tokio::test]
async fn work_that_continues_campaigns_again() {
    let [store] = handles::<1>();
    let mut rounds = 0;
    let work = |_: Term| {
        rounds += 1;
        std::future::ready(if rounds < 3 { ControlFlow::Continue(()) } else { ControlFlow::Break(rounds) })
    };
    let run = candidate(&store, "a").run(std::future::pending(), work).await;
    assert_eq!(run.unwrap(), Some(3));
}

#[tokio::test(start_paused = true)]
async fn failing_campaigns_are_tried_again_until_they_are_refused() {
    let [store] = handles::<1>();
    let flaky = flaky(store, &[Operation::Lock]);
    let mut rounds = 0;
    let work = |_: Term| {
        rounds += 1;
        std::future::ready(if rounds < 20 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
    };
    let election = candidate(&flaky, "a");
    assert_eq!(election.run(std::future::pending(), work).await.unwrap(), Some(()));
    let election = election.with_ttl(Duration::ZERO);
    let work = |_: Term| std::future::ready(ControlFlow::Break(()));
    let refused = election.run(std::future::pending(), work);
    assert!(matches!(refused.await.unwrap_err().kind(), ErrorKind::TtlOutOfRange { .. }));
}

/// Locks that expire when they are told to, with a grace.
#[derive(Clone, Debug)]
struct Expiring {
    has_expired: watch::Sender<bool>,
}

const GRACE: Duration = Duration::from_secs(3);

struct ExpiringHold {
    guard: LockGuard,
    has_expired: watch::Receiver<bool>,
}

#[async_trait]
impl Hold for ExpiringHold {
    fn fence(&self) -> Fence {
        self.guard.fence()
    }

    fn loss(&self) -> Option<LockLoss> {
        if *self.has_expired.borrow() { Some(LockLoss::Expired) } else { self.guard.loss() }
    }

    async fn lost(&self) -> LockLoss {
        drop(self.has_expired.clone().wait_for(|expired| *expired).await);
        LockLoss::Expired
    }

    fn grace(&self) -> Duration {
        GRACE
    }

    async fn unlock(&self) -> Result<()> {
        Hold::unlock(&self.guard).await
    }

    fn release(&self) {
        self.guard.release();
    }
}

impl Policy for Expiring {
    async fn around<'a, T: Send + 'a>(&'a self, _: Call<'a>, next: Next<'a, T>) -> Result<T> {
        next().await
    }

    fn guard(&self, guard: LockGuard) -> LockGuard {
        LockGuard::new(ExpiringHold { guard, has_expired: self.has_expired.subscribe() })
    }
}

#[tokio::test(start_paused = true)]
async fn work_has_the_grace_of_an_expired_term_and_no_more() {
    for (takes, told_by_itself) in [(GRACE / 2, true), (GRACE * 2, false)] {
        let [store, observer] = handles::<2>();
        let expiring = Expiring { has_expired: watch::Sender::new(false) };
        let store: Arc<dyn Store> = Arc::new(store.layered(expiring.clone()));
        let has_ended = AtomicBool::new(false);
        let work = |term: Term| {
            let has_ended = &has_ended;
            async move {
                assert_eq!(term.over().await, TermEnd::Lost(LockLoss::Expired));
                tokio::time::sleep(takes).await;
                has_ended.store(true, Ordering::SeqCst);
                ControlFlow::Break(())
            }
        };
        let election = candidate(&store, "a");
        let stop = tokio::time::sleep(GRACE * 10);
        let mut run = std::pin::pin!(election.run(stop, work));
        assert!(run.as_mut().now_or_never().is_none());
        let begin = Instant::now();
        expiring.has_expired.send_replace(true);
        let seen =
            until("the office is given up", || async { observer.lock_holder(KEY).await.unwrap().is_none() });
        tokio::select! {
            biased;
            () = seen => {}
            done = run => assert_eq!(done.unwrap(), Some(())),
        }
        assert_eq!(has_ended.load(Ordering::SeqCst), told_by_itself);
        let took = begin.elapsed();
        let expected = takes.min(GRACE);
        assert!(took >= expected && took < expected + Duration::from_millis(100), "{took:?}");
    }
}
