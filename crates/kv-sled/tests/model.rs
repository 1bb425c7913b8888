//! Random sequences of operations on this store and on kv-mem give the same answers, also with the
//! store opened again in between.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::Arc;
use std::time::Duration;

use futures_util::TryStreamExt;
use kv_backend::{ManualClock, Timestamp};
use kv_core::{
    Bytes, Compare, Condition, DeleteOptions, Entry, EntryExpiry, Error, ErrorKind, Expiry, GetOptions, Key,
    ListItem, ListOptions, Precondition, Prefix, PutOptions, Store, StoreExt, Txn, TxnOp, TxnOutcome,
    Version, Watch, WatchEvent, WatchOptions, WatchTarget,
};
use kv_mem::{MemConfig, MemStore};
use kv_sled::{SledConfig, SledStore};
use proptest::prelude::*;
use proptest::sample::Index;

/// Few keys, so that operations meet; nested and with neighbours, so that order matters.
const KEYS: [&str; 8] = ["a", "a/b", "a/b/c", "a-b", "a/c", "b", "b/a", "c"];
const PREFIXES: [&str; 5] = ["", "a", "a/b", "b", "none"];

#[derive(Clone, Debug)]
enum Guard {
    Any,
    Absent,
    Present,
    /// One of the versions the key had so far.
    At(Index),
    Value(u8),
}

#[derive(Clone, Debug)]
enum TestOf {
    Absent,
    Present,
    Version(Compare, Index),
    Created(Compare, Index),
    Value(Compare, u8),
}

#[derive(Clone, Debug)]
enum Step {
    Put(usize, u8, Option<u8>),
    Delete(usize),
    Get(usize),
}

#[derive(Clone, Debug)]
enum Op {
    Put {
        key: usize,
        value: u8,
        guard: Guard,
        ttl: Option<u8>,
    },
    Delete {
        key: usize,
        guard: Guard,
    },
    Get {
        key: usize,
    },
    List {
        prefix: usize,
        from: Option<usize>,
        to: Option<usize>,
        limit: Option<usize>,
        one_level: bool,
    },
    DeleteTree {
        prefix: usize,
    },
    Transact {
        conditions: Vec<(usize, TestOf)>,
        then: Vec<Step>,
        or_else: Vec<Step>,
    },
    /// Seconds pass.
    Advance(u8),
    Reopen,
}

fn key_index() -> impl Strategy<Value = usize> {
    0..KEYS.len()
}

fn guard() -> impl Strategy<Value = Guard> {
    prop_oneof![
        6 => Just(Guard::Any),
        2 => Just(Guard::Absent),
        2 => Just(Guard::Present),
        3 => any::<Index>().prop_map(Guard::At),
        2 => (0u8..6).prop_map(Guard::Value),
    ]
}

fn ttl() -> impl Strategy<Value = Option<u8>> {
    prop::option::weighted(0.3, 1u8..8)
}

fn compare() -> impl Strategy<Value = Compare> {
    prop::sample::select(vec![Compare::Equal, Compare::NotEqual, Compare::Less, Compare::Greater])
}

fn test() -> impl Strategy<Value = TestOf> {
    prop_oneof![
        Just(TestOf::Absent),
        Just(TestOf::Present),
        (compare(), any::<Index>()).prop_map(|(compare, index)| TestOf::Version(compare, index)),
        (compare(), any::<Index>()).prop_map(|(compare, index)| TestOf::Created(compare, index)),
        (compare(), 0u8..6).prop_map(|(compare, value)| TestOf::Value(compare, value)),
    ]
}

fn branch() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (key_index(), 0u8..6, ttl()).prop_map(|(key, value, ttl)| Step::Put(key, value, ttl)),
        2 => key_index().prop_map(Step::Delete),
        2 => key_index().prop_map(Step::Get),
    ];
    prop::collection::vec(step, 0..4)
}

fn op(trees: u32) -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => (key_index(), 0u8..6, guard(), ttl()).prop_map(|(key, value, guard, ttl)| Op::Put { key, value, guard, ttl }),
        4 => (key_index(), guard()).prop_map(|(key, guard)| Op::Delete { key, guard }),
        4 => key_index().prop_map(|key| Op::Get { key }),
        4 => (0..PREFIXES.len(), prop::option::of(key_index()), prop::option::of(key_index()), prop::option::of(0usize..5), any::<bool>())
            .prop_map(|(prefix, from, to, limit, one_level)| Op::List { prefix, from, to, limit, one_level }),
        trees => (0..PREFIXES.len()).prop_map(|prefix| Op::DeleteTree { prefix }),
        4 => (prop::collection::vec((key_index(), test()), 0..3), branch(), branch())
            .prop_map(|(conditions, then, or_else)| Op::Transact { conditions, then, or_else }),
        2 => (1u8..5).prop_map(Op::Advance),
        1 => Just(Op::Reopen),
    ]
}

fn key(index: usize) -> Key {
    Key::new(KEYS[index]).unwrap()
}

/// Small, empty, and larger than what fits into one record.
fn value(number: u8) -> Bytes {
    match number {
        0 => Bytes::new(),
        5 => vec![5; 20_000].into(),
        4 => vec![4; 1_100].into(),
        _ => vec![number; 3].into(),
    }
}

/// A store, with names for its versions that mean the same for every store: the how-manieth write of
/// that key it was.
struct Named<S> {
    store: S,
    names: HashMap<(Key, Version), usize>,
    /// The versions each key had, in order. Those of another key say nothing here: the writes of one
    /// transaction share a version in one store and have each their own in another.
    given: HashMap<Key, Vec<Version>>,
}

impl<S: Store> Named<S> {
    fn new(store: S) -> Self {
        Self { store, names: HashMap::new(), given: HashMap::new() }
    }

    fn name(&mut self, key: &Key, version: Version) {
        let given = self.given.entry(key.clone()).or_default();
        given.push(version);
        let name = self.names.insert((key.clone(), version), given.len());
        assert!(name.is_none(), "{key} had {version} before");
    }

    fn version(&self, at: usize, index: Index) -> Version {
        self.given.get(&key(at)).map_or(Version::new(1), |given| *index.get(given))
    }

    fn named(&self, key: &Key, version: Version) -> String {
        self.names
            .get(&(key.clone(), version))
            .map_or_else(|| format!("unknown {version}"), |name| format!("#{name}"))
    }

    fn entry(&self, entry: &Entry) -> String {
        let expiry = match entry.expiry {
            None => String::new(),
            Some(EntryExpiry::Ttl { granted, remaining, .. }) => format!(" {granted:?} {remaining:?}"),
            Some(other) => format!(" {other:?}"),
        };
        let (version, created) =
            (self.named(&entry.key, entry.version), self.named(&entry.key, entry.created));
        let value = (entry.value.len(), entry.value.first());
        format!("{}={value:?} at {version} created {created}{expiry}", entry.key)
    }

    fn error(&self, key: &Key, error: &Error) -> String {
        let named = |version: &Option<Version>| version.map(|version| self.named(key, version));
        match error.kind() {
            ErrorKind::AlreadyExists { current } => format!("exists {:?}", named(current)),
            ErrorKind::PreconditionFailed { current } => format!("failed {:?}", named(current)),
            other => format!("{other:?}"),
        }
    }

    fn guard(&self, at: usize, guard: &Guard) -> Precondition {
        match guard {
            Guard::Any => Precondition::Any,
            Guard::Absent => Precondition::Absent,
            Guard::Present => Precondition::Present,
            Guard::At(index) => Precondition::At(self.version(at, *index)),
            Guard::Value(number) => Precondition::Value(value(*number)),
        }
    }

    fn condition(&self, at: usize, test: &TestOf) -> kv_core::Result<Condition> {
        match test {
            TestOf::Absent => Condition::absent(key(at)),
            TestOf::Present => Condition::present(key(at)),
            TestOf::Version(compare, index) => {
                Condition::version(key(at), *compare, self.version(at, *index))
            }
            TestOf::Created(compare, index) => {
                Condition::created(key(at), *compare, self.version(at, *index))
            }
            TestOf::Value(compare, number) => Condition::value(key(at), *compare, value(*number)),
        }
    }

    /// Carries out an operation and says what came of it, in words that mean the same for every store.
    async fn apply(&mut self, op: &Op) -> String {
        match op {
            Op::Put { key: at, value: number, guard, ttl } => {
                let options =
                    PutOptions::default().with_precondition(self.guard(*at, guard)).with_expiry(expiry(*ttl));
                match self.store.put_with(&key(*at), value(*number), options).await {
                    Ok(result) => {
                        self.name(&key(*at), result.version);
                        format!("put {:?}", result.granted_ttl)
                    }
                    Err(error) => self.error(&key(*at), &error),
                }
            }
            Op::Delete { key: at, guard } => {
                let options =
                    DeleteOptions::default().with_precondition(self.guard(*at, guard)).with_previous();
                match self.store.delete_with(&key(*at), options).await {
                    Ok(result) => {
                        format!("{} {:?}", result.existed, result.previous.map(|entry| self.entry(&entry)))
                    }
                    Err(error) => self.error(&key(*at), &error),
                }
            }
            Op::Get { key: at } => {
                let entry =
                    self.store.get_with(&key(*at), GetOptions::default().with_expiry()).await.unwrap();
                format!("{:?}", entry.map(|entry| self.entry(&entry)))
            }
            Op::List { prefix, from, to, limit, one_level } => {
                self.list(*prefix, *from, *to, *limit, *one_level).await
            }
            Op::DeleteTree { prefix } => {
                format!("{}", self.store.delete_tree(PREFIXES[*prefix]).await.unwrap())
            }
            Op::Transact { conditions, then, or_else } => self.transact(conditions, then, or_else).await,
            Op::Advance(_) | Op::Reopen => String::new(),
        }
    }

    async fn list(
        &self,
        prefix: usize,
        from: Option<usize>,
        to: Option<usize>,
        limit: Option<usize>,
        one_level: bool,
    ) -> String {
        let mut options = ListOptions::default().with_range((
            from.map_or(Bound::Unbounded, |from| Bound::Excluded(key(from))),
            to.map_or(Bound::Unbounded, |to| Bound::Included(key(to))),
        ));
        options.limit = limit;
        options.one_level = one_level;
        let listing = self.store.list_with(&Prefix::new(PREFIXES[prefix]).unwrap(), options).await.unwrap();
        let items: Vec<ListItem> = listing.try_collect().await.unwrap();
        let items = items.iter().map(|item| match item {
            ListItem::Entry(entry) => self.entry(entry),
            other => format!("{other:?}"),
        });
        items.collect::<Vec<_>>().join(", ")
    }

    async fn transact(&mut self, conditions: &[(usize, TestOf)], then: &[Step], or_else: &[Step]) -> String {
        let ops = |steps: &[Step]| {
            let mut written = Vec::new();
            let ops = steps.iter().filter_map(|step| {
                let (at, op) = match step {
                    Step::Put(at, number, ttl) => {
                        (at, TxnOp::put_expiring(key(*at), value(*number), expiry(*ttl)))
                    }
                    Step::Delete(at) => (at, TxnOp::delete(key(*at))),
                    Step::Get(at) => return Some(TxnOp::get(key(*at))),
                };
                // A key may be written once.
                (!written.contains(at)).then(|| {
                    written.push(*at);
                    op
                })
            });
            ops.collect::<Vec<_>>()
        };
        let (then, or_else) = (ops(then), ops(or_else));
        let txn = Txn::when(conditions.iter().map(|(at, test)| self.condition(*at, test)))
            .then(then.clone())
            .or_else(or_else.clone());
        let result = self.store.transact(txn).await.unwrap();
        let ran = if result.succeeded { then } else { or_else };
        assert_eq!(ran.len(), result.outcomes.len());
        for (op, outcome) in ran.iter().flatten().zip(&result.outcomes) {
            if let TxnOutcome::Put(put) = outcome {
                self.name(op.key(), put.version);
            }
        }
        let outcomes = result.outcomes.iter().map(|outcome| match outcome {
            TxnOutcome::Put(put) => format!("put {:?}", put.granted_ttl),
            TxnOutcome::Delete(delete) => format!("deleted {}", delete.existed),
            TxnOutcome::Get(entry) => format!("{:?}", entry.as_ref().map(|entry| self.entry(entry))),
            other => panic!("{other:?}"),
        });
        format!("{} {}", result.succeeded, outcomes.collect::<Vec<_>>().join(", "))
    }

    /// All that ever happened, in order, as one who watches from the beginning sees it.
    async fn history(&self) -> Vec<String> {
        let all = WatchTarget::Prefix(Prefix::root());
        let options = WatchOptions::default().with_from(Version::ZERO);
        let mut watch = self.store.watch_with(all, options).await.unwrap();
        self.seen(&mut watch).await
    }

    /// What a watch has to say.
    async fn seen(&self, watch: &mut Watch) -> Vec<String> {
        let end = self.store.put("end", "").await.unwrap();
        let mut seen = Vec::new();
        loop {
            match watch.next().await.unwrap().unwrap() {
                WatchEvent::Put(entry) if entry.version == end => break,
                WatchEvent::Put(entry) => seen.push(self.entry(&entry)),
                WatchEvent::Delete(gone) => {
                    let previous = self.entry(&gone.previous.unwrap());
                    seen.push(format!("{} gone, {:?}, was {previous}", gone.key, gone.cause));
                }
                other => panic!("{other:?}"),
            }
        }
        self.store.delete("end").await.unwrap();
        seen
    }
}

fn expiry(ttl: Option<u8>) -> Expiry {
    ttl.map_or(Expiry::Never, |seconds| Expiry::Ttl(Duration::from_secs(seconds.into())))
}

/// What expires at one moment is deleted in no particular order.
fn sort_runs_of_expiry(history: Vec<String>) -> Vec<String> {
    let mut sorted: Vec<String> = Vec::new();
    let mut run: BTreeMap<String, ()> = BTreeMap::new();
    for event in history {
        if event.contains("gone, Expired") {
            run.insert(event, ());
        } else {
            sorted.extend(std::mem::take(&mut run).into_keys());
            sorted.push(event);
        }
    }
    sorted.extend(run.into_keys());
    sorted
}

/// The same with every subtree of more than one entry deleted the way of large ones. That ends its
/// history, so what happened is compared as one sees it who watches all the time.
async fn compare_stores_with_large_trees(ops: Vec<Op>) {
    let dir = tempfile::tempdir().unwrap();
    let clock = ManualClock::new(Timestamp::from_millis(1_700_000_000_000));
    let config = || SledConfig::new(dir.path()).with_small_tree(1).with_clock(Arc::new(clock.clone()));
    let mut sled = Named::new(SledStore::open(config()).await.unwrap());
    let mut mem = Named::new(MemStore::open(MemConfig::new().with_clock(Arc::new(clock.clone()))).unwrap());
    let mut watches = (sled.store.watch("").await.unwrap(), mem.store.watch("").await.unwrap());
    for (at, op) in ops.iter().chain([&Op::Reopen]).enumerate() {
        match op {
            Op::Advance(seconds) => {
                clock.advance(Duration::from_secs((*seconds).into()));
                let_due_expire(&sled, &mem).await;
            }
            Op::Reopen => {
                let seen = sort_runs_of_expiry(sled.seen(&mut watches.0).await);
                assert_eq!(seen, sort_runs_of_expiry(mem.seen(&mut watches.1).await), "before {at}");
                sled.store.close().await.unwrap();
                sled.store = SledStore::open(config()).await.unwrap();
                watches = (sled.store.watch("").await.unwrap(), mem.store.watch("").await.unwrap());
            }
            op => {
                let (ours, model) = (sled.apply(op).await, mem.apply(op).await);
                assert_eq!(ours, model, "operation {at}: {op:?}");
            }
        }
    }
    sled.store.close().await.unwrap();
}

/// Whatever is written next comes after what has expired.
async fn let_due_expire(sled: &Named<SledStore>, mem: &Named<MemStore>) {
    assert!(!sled.store.delete("nothing").await.unwrap());
    assert!(!mem.store.delete("nothing").await.unwrap());
}

async fn compare_stores(ops: Vec<Op>) {
    let dir = tempfile::tempdir().unwrap();
    let clock = ManualClock::new(Timestamp::from_millis(1_700_000_000_000));
    let config = || SledConfig::new(dir.path()).with_clock(Arc::new(clock.clone()));
    let mut sled = Named::new(SledStore::open(config()).await.unwrap());
    let mut mem = Named::new(MemStore::open(MemConfig::new().with_clock(Arc::new(clock.clone()))).unwrap());
    for (at, op) in ops.iter().enumerate() {
        match op {
            Op::Advance(seconds) => {
                clock.advance(Duration::from_secs((*seconds).into()));
                let_due_expire(&sled, &mem).await;
            }
            Op::Reopen => {
                sled.store.close().await.unwrap();
                sled.store = SledStore::open(config()).await.unwrap();
            }
            op => {
                let (ours, model) = (sled.apply(op).await, mem.apply(op).await);
                assert_eq!(ours, model, "operation {at}: {op:?}");
            }
        }
    }
    assert_eq!(sort_runs_of_expiry(sled.history().await), sort_runs_of_expiry(mem.history().await));
    sled.store.close().await.unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 80, failure_persistence: None, max_shrink_iters: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn random_sequences_give_the_answers_of_the_model(ops in prop::collection::vec(op(1), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(compare_stores(ops));
    }

    #[test]
    fn also_where_subtrees_are_deleted_the_way_of_large_ones(ops in prop::collection::vec(op(4), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(compare_stores_with_large_trees(ops));
    }
}
