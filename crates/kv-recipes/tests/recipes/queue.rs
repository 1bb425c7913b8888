//! Queues.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use kv_layers::{Faults, LayerExt};
use kv_recipes::kv_core::{Applied, Bytes, ErrorKind, Operation, Power, Store, StoreExt};
use kv_recipes::{Job, Queue, QueueOptions};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::common::{faulty, mem, on_both, soon, without};

const SHORT: Duration = Duration::from_millis(300);

fn worker(store: &Arc<dyn Store>, visibility: Duration) -> Queue {
    Queue::open_with(store, "q", QueueOptions::default().with_visibility(visibility)).unwrap()
}

async fn claim(queue: &Queue) -> Job {
    soon("a job", queue.claim()).await.unwrap()
}

#[tokio::test]
async fn a_job_is_claimed_by_one_and_gone_when_acknowledged() {
    on_both(|store| async move {
        let (one, other) = (worker(&store, SHORT * 100), worker(&store, SHORT * 100));
        let payload = Bytes::from_static(b"\xff\n{}");
        let id = one.push(payload.clone()).await.unwrap();
        let job = other.try_claim().await.unwrap().unwrap();
        assert_eq!((job.id(), job.payload(), job.attempt()), (id.as_str(), &payload, 1));
        assert!(one.try_claim().await.unwrap().is_none());
        assert!(other.try_claim().await.unwrap().is_none());
        job.acknowledge().await.unwrap();
        assert!(matches!(job.acknowledge().await.unwrap_err().kind(), ErrorKind::NotHeld { .. }));
        assert!(store.entries("q").await.unwrap().is_empty());
    })
    .await;
}

/// Catches an acknowledgement that does not look whose the claim is.
#[tokio::test(start_paused = true)]
async fn a_claim_ends_after_its_visibility_timeout_and_only_the_new_one_counts() {
    let store = mem();
    let (slow, other) = (worker(&store, SHORT), worker(&store, SHORT));
    slow.push("x").await.unwrap();
    let begun = Instant::now();
    let mut lost = claim(&slow).await;
    assert_eq!(lost.claimed_until(), begun + SHORT);
    let job = claim(&other).await;
    assert!(begun.elapsed() >= SHORT, "{:?}", begun.elapsed());
    assert!(begun.elapsed() < SHORT * 2, "{:?}", begun.elapsed());
    assert_eq!((job.id(), job.attempt()), (lost.id(), 2));
    for error in [lost.acknowledge().await.unwrap_err(), lost.extend().await.unwrap_err()] {
        assert!(matches!(error.kind(), ErrorKind::NotHeld { .. }), "{error}");
        assert_eq!(error.applied(), Applied::No);
    }
    assert!(matches!(lost.release().await.unwrap_err().kind(), ErrorKind::NotHeld { .. }));
    job.acknowledge().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_extension_keeps_the_job() {
    let store = mem();
    let (slow, other) = (worker(&store, SHORT), worker(&store, SHORT));
    slow.push("x").await.unwrap();
    let mut job = claim(&slow).await;
    for _ in 0..5 {
        let taken = tokio::time::timeout(SHORT * 2 / 3, other.claim()).await;
        assert!(taken.is_err(), "it was taken over: {taken:?}");
        job.extend().await.unwrap();
    }
    job.acknowledge().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_released_job_comes_at_once_and_wakes_who_waits() {
    let store = mem();
    let (one, other) = (worker(&store, SHORT * 1000), worker(&store, SHORT * 1000));
    one.push("x").await.unwrap();
    let job = claim(&one).await;
    let waiting = tokio::spawn(async move { other.claim().await });
    tokio::time::sleep(SHORT).await;
    job.release().await.unwrap();
    let job = soon("the job", waiting).await.unwrap().unwrap();
    assert_eq!(job.attempt(), 2);
    job.acknowledge().await.unwrap();

    let waiting = tokio::spawn({
        let store = Arc::clone(&store);
        async move { worker(&store, SHORT).claim().await }
    });
    tokio::time::sleep(SHORT).await;
    one.push("y").await.unwrap();
    assert_eq!(soon("a new job", waiting).await.unwrap().unwrap().payload(), "y");
}

#[tokio::test(start_paused = true)]
async fn a_job_without_attempts_left_becomes_a_dead_letter() {
    let store = mem();
    let options = QueueOptions::default().with_visibility(SHORT).with_max_attempts(2);
    let queue = Queue::open_with(&store, "q", options).unwrap();
    queue.push_as("poison", "x").await.unwrap();
    queue.push_as("rejected", "y").await.unwrap();
    let mut attempts = BTreeMap::new();
    loop {
        let Ok(job) = tokio::time::timeout(SHORT * 3, queue.claim()).await else { break };
        let job = job.unwrap();
        *attempts.entry(job.id().to_owned()).or_insert(0) += 1;
        if job.id() == "rejected" {
            job.reject().await.unwrap();
        }
    }
    assert_eq!(attempts, BTreeMap::from([("poison".to_owned(), 2), ("rejected".to_owned(), 1)]));
    let dead = queue.dead().await.unwrap();
    let told: Vec<_> = dead.iter().map(|job| (job.id.as_str(), &job.payload[..], job.attempts)).collect();
    assert_eq!(told, [("poison", &b"x"[..], 2), ("rejected", b"y", 1)]);
    assert!(store.keys("q/jobs").await.unwrap().is_empty());

    assert!(queue.revive("none").await.unwrap().is_none());
    let id = queue.revive("poison").await.unwrap().unwrap();
    let job = claim(&queue).await;
    assert_eq!((job.id(), job.payload(), job.attempt()), (id.as_str(), &Bytes::from("x"), 1));
    assert_eq!(queue.dead().await.unwrap().len(), 1);
}

/// A worker that dies between the steps of burying leaves it to the next.
#[tokio::test]
async fn a_burial_that_was_broken_off_is_completed() {
    let store = mem();
    let queue = worker(&store, SHORT * 100);
    for step in [Operation::Put, Operation::Delete] {
        queue.push_as("x", "x").await.unwrap();
        let dying: Arc<dyn Store> = Arc::new(Arc::clone(&store).layered(Dying::at(step)));
        let job = worker(&dying, SHORT * 100).try_claim().await.unwrap().unwrap();
        job.reject().await.unwrap_err();
        assert!(store.exists("q/jobs/x").await.unwrap());
        assert!(queue.try_claim().await.unwrap().is_none());
        assert!(!store.exists("q/jobs/x").await.unwrap());
        assert_eq!(queue.dead().await.unwrap().len(), 1);
        store.delete_tree("q").await.unwrap();
    }
}

/// Fails at the third put (push aside: claim, mark, copy) or at any delete.
#[derive(Debug)]
struct Dying(Operation, std::sync::atomic::AtomicU32);

impl Dying {
    fn at(operation: Operation) -> Self {
        Self(operation, std::sync::atomic::AtomicU32::new(0))
    }
}

impl kv_layers::Policy for Dying {
    async fn around<'a, T: Send + 'a>(
        &'a self,
        call: kv_layers::Call<'a>,
        next: kv_layers::Next<'a, T>,
    ) -> kv_recipes::kv_core::Result<T> {
        let is_put = call.operation == Operation::Put;
        let puts = self.1.fetch_add(u32::from(is_put), std::sync::atomic::Ordering::Relaxed);
        if call.operation == self.0 && (!is_put || puts == 2) {
            return Err(ErrorKind::Unavailable.into());
        }
        next().await
    }
}

#[tokio::test]
async fn what_cannot_be_is_refused_before_anything_is_sent() {
    let store = mem();
    let queue = worker(&store, SHORT);
    let max = store.capabilities().limits.max_value - 512;
    queue.push(vec![b'x'; max]).await.unwrap();
    claim(&queue).await.acknowledge().await.unwrap();
    let error = queue.push(vec![b'x'; max + 1]).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::TooLarge { .. }), "{error}");
    for id in ["a/b", "", "/a", ".."] {
        let error = queue.push_as(id, "x").await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::InvalidKey { .. }), "{id}: {error}");
    }
    queue.push_as("a", "x").await.unwrap();
    let error = queue.push_as("a", "x").await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::AlreadyExists { .. }), "{error}");
    let named = QueueOptions::default().with_worker("x".repeat(65));
    assert!(Queue::open_with(&store, "q", named).is_err());
    assert!(Queue::open(&store, "a/../b").is_err());
}

/// Something that is no job holds nobody up and is left alone.
#[tokio::test]
async fn a_foreign_entry_is_left_alone() {
    let store = mem();
    store.put("q/jobs/0", "not a job").await.unwrap();
    let queue = worker(&store, SHORT * 100);
    assert!(queue.try_claim().await.unwrap().is_none());
    queue.push("x").await.unwrap();
    claim(&queue).await.acknowledge().await.unwrap();
    assert!(store.exists("q/jobs/0").await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_claim_whose_answer_was_lost_comes_again() {
    let store = mem();
    worker(&store, SHORT).push("x").await.unwrap();
    let losing = Faults::seeded(1).lose_answer(Operation::Put, 1.0);
    let losing: Arc<dyn Store> = Arc::new(Arc::clone(&store).layered(losing));
    assert_eq!(worker(&losing, SHORT).claim().await.unwrap_err().applied(), Applied::Unknown);
    let job = claim(&worker(&store, SHORT)).await;
    assert_eq!(job.attempt(), 2);
    job.acknowledge().await.unwrap();
}

/// What became of each job.
#[derive(Default)]
struct Books {
    /// The claims, with when each was sent and when it had come.
    claims: BTreeMap<String, Vec<(u32, Instant, Instant)>>,
    acknowledging: BTreeSet<String>,
    acknowledged: BTreeMap<String, u32>,
}

async fn work(queue: Queue, books: Arc<Mutex<Books>>) {
    loop {
        let sent = Instant::now();
        let job = queue.claim().await.unwrap();
        let id = job.id().to_owned();
        let claim = (job.attempt(), sent.max(job.claimed_until() - SHORT), Instant::now());
        books.lock().claims.entry(id.clone()).or_default().push(claim);
        for _ in 0..fastrand::u32(..4) {
            tokio::task::yield_now().await;
        }
        if fastrand::u8(..8) == 0 {
            tokio::time::sleep(Duration::from_millis(fastrand::u64(1..10))).await;
        }
        books.lock().acknowledging.insert(id.clone());
        match job.acknowledge().await {
            Ok(()) => *books.lock().acknowledged.entry(id).or_default() += 1,
            // It took longer than the visibility timeout, on a busy machine.
            Err(error) => assert!(matches!(error.kind(), ErrorKind::NotHeld { .. }), "{error}"),
        }
    }
}

/// Eight workers on `jobs` jobs, of which one is killed every few milliseconds and replaced.
async fn killing(store: Arc<dyn Store>, jobs: usize) {
    let pushing = Queue::open(&store, "q").unwrap();
    let push = async |n: usize| pushing.push_as(&format!("{n:05}"), n.to_string()).await.unwrap();
    futures_util::future::join_all((0..jobs).map(push)).await;
    let books = Arc::new(Mutex::new(Books::default()));
    let options = QueueOptions::default().with_visibility(SHORT).with_max_attempts(u32::MAX);
    let begin = || {
        let queue = Queue::open_with(&store, "q", options.clone()).unwrap();
        tokio::spawn(work(queue, Arc::clone(&books)))
    };
    let mut workers: Vec<_> = (0..8).map(|_| begin()).collect();
    let mut killed = 0;
    let begun = Instant::now();
    loop {
        tokio::time::sleep(Duration::from_millis(fastrand::u64(5..20))).await;
        if store.keys("q/jobs").await.unwrap().is_empty() {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(300), "it takes too long");
        let victim = fastrand::usize(..workers.len());
        workers[victim].abort();
        match std::mem::replace(&mut workers[victim], begin()).await {
            Err(end) => assert!(end.is_cancelled(), "a worker ended by itself: {end}"),
            Ok(()) => unreachable!("a worker never ends"),
        }
        killed += 1;
    }
    let took = begun.elapsed();
    for worker in workers {
        worker.abort();
        let _ = worker.await;
    }
    let books = books.lock();
    assert_eq!(books.claims.len(), jobs, "each job was worked on");
    let mut again = 0;
    for (id, claims) in &books.claims {
        let acknowledged = books.acknowledged.get(id).copied().unwrap_or(0);
        assert!(acknowledged <= 1, "{id} was acknowledged {acknowledged} times");
        assert!(acknowledged == 1 || books.acknowledging.contains(id), "{id} was lost");
        assert!(claims.windows(2).all(|two| two[0].0 < two[1].0), "{id}: {claims:?}");
        for two in claims.windows(2) {
            again += 1;
            assert!(two[1].2 - two[0].1 >= SHORT, "{id} came again too early: {claims:?}");
        }
    }
    assert!(killed > 0 && again > 0, "{killed} were killed, {again} jobs came again");
    #[allow(clippy::print_stdout, reason = "what is measured is told")]
    {
        let backend = store.capabilities().backend;
        println!("{backend}: {jobs} jobs in {took:?}, {killed} workers killed, {again} claims again");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_job_of_10_000_is_lost_while_workers_are_killed() {
    killing(without(mem(), Power::Transactions), 10_000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_job_is_lost_on_disk_while_workers_are_killed() {
    let (store, _dir) = crate::common::sled().await;
    killing(Arc::clone(&store), 500).await;
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn outages_only_delay() {
    let store = mem();
    let unsteady = faulty(Arc::clone(&store), |faults| {
        let calls = [Operation::Put, Operation::List, Operation::Watch];
        calls.into_iter().fold(faults, |faults, operation| faults.refuse(operation, 0.2))
    });
    for n in 0..20 {
        worker(&store, SHORT).push(n.to_string()).await.unwrap();
    }
    let queue = worker(&unsteady, SHORT);
    for _ in 0..20 {
        claim(&queue).await.acknowledge().await.unwrap();
    }
    assert!(store.keys("q").await.unwrap().is_empty());
}
