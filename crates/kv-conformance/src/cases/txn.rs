//! Transactions: conditions, branches, outcomes, isolation.

use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use futures_util::future::{join_all, try_join_all};
use kv_core::{
    Compare, Condition, DeleteResult, EntryExpiry, Expiry, Key, Prefix, Store, StoreExt, Txn, TxnOp,
    TxnOutcome, Version,
};

use crate::case::needs::{SESSION_KEYS, TRANSACTIONS, TTL, WATCH_COMPLETE};
use crate::case::{Case, case};
use crate::fixture::{Fixture, GRACE};
use crate::follow::Follower;
use crate::steps::{at_once, ensure_eq, entry, expiry_of, key, names, put_expiring, until_gone};

pub(super) const CASES: &[Case] = &[
    case!(txn_runs_then, "If all conditions hold, the then branch runs.", TRANSACTIONS),
    case!(txn_runs_or_else, "If one condition does not hold, the else branch runs.", TRANSACTIONS),
    case!(txn_needs_every_condition, "All conditions must hold.", TRANSACTIONS),
    case!(txn_without_conditions, "Without conditions the then branch runs.", TRANSACTIONS),
    case!(txn_tells_each_outcome, "The result tells each operation's outcome, in order.", TRANSACTIONS),
    case!(txn_reads_its_own_writes, "A get sees what earlier operations of its branch wrote.", TRANSACTIONS),
    case!(txn_compares_presence, "Conditions can ask for absent and present.", TRANSACTIONS),
    case!(txn_compares_versions, "Conditions compare versions with =, !=, < and >.", TRANSACTIONS),
    case!(txn_compares_created_versions, "Conditions compare created versions likewise.", TRANSACTIONS),
    case!(txn_compares_values, "Conditions compare values by bytes likewise.", TRANSACTIONS),
    case!(txn_absent_compares_as_absent, "On an absent key only absent and != hold.", TRANSACTIONS),
    case!(txn_sees_implicit_parents_as_absent, "A key that only others lie below is absent.", TRANSACTIONS),
    case!(txn_versions_grow, "A transaction's puts get greater versions, created rightly.", TRANSACTIONS),
    case!(txn_puts_expire, "A transaction puts with a time to live.", TRANSACTIONS, TTL),
    case!(txn_puts_live_by_the_session, "A transaction puts with the session.", TRANSACTIONS, SESSION_KEYS),
    case!(
        one_of_many_txns_wins,
        "Exactly one of N concurrent transactions on one condition wins.",
        TRANSACTIONS
    ),
    case!(txn_is_isolated, "Transactions are isolated: a sum they keep is kept in every read.", TRANSACTIONS),
    case!(txn_reaches_watchers, "A watch tells what a transaction changed.", TRANSACTIONS),
    case!(
        txn_changes_all_reach_watchers,
        "A complete watch tells every change of a transaction.",
        TRANSACTIONS,
        WATCH_COMPLETE,
    ),
];

/// Whether `condition` holds, by the branch that runs.
async fn holds(store: &impl Store, condition: kv_core::Result<Condition>) -> Result<bool> {
    Ok(store.transact(Txn::when([condition])).await?.succeeded)
}

async fn must_hold(store: &impl Store, condition: kv_core::Result<Condition>, expected: bool) -> Result<()> {
    ensure_eq!(holds(store, condition.clone()).await?, expected, "whether {condition:?} holds");
    Ok(())
}

async fn txn_runs_then(fixture: &Fixture) -> Result<()> {
    let (store, from, to) = (&fixture.store, key("queue/1")?, key("taken/1")?);
    store.put(&from, "x").await?;
    let txn = Txn::when([Condition::present(&from), Condition::absent(&to)])
        .then([TxnOp::delete(&from), TxnOp::put(&to, "worker")])
        .or_else([TxnOp::put("never".parse::<Key>()?, "x")]);
    let result = store.transact(txn).await?;
    ensure!(result.succeeded, "the conditions hold");
    ensure_eq!(names(store, "").await?, ["taken/1"], "the list");
    ensure_eq!(entry(store, &to).await?.value, Bytes::from("worker"), "the value put");
    Ok(())
}

/// Catches a transaction that sees an absent key as the empty value.
async fn txn_runs_or_else(fixture: &Fixture) -> Result<()> {
    let (store, k, other) = (&fixture.store, key("k")?, key("other")?);
    let version = store.put(&other, "x").await?;
    let txn = Txn::when([Condition::present(&k)])
        .then([TxnOp::put(&k, "never"), TxnOp::delete(&other)])
        .or_else([TxnOp::get(&other), TxnOp::put(&k, "else")]);
    let result = store.transact(txn).await?;
    ensure!(!result.succeeded, "the condition does not hold");
    let [TxnOutcome::Get(Some(got)), TxnOutcome::Put(_)] = &result.outcomes[..] else {
        bail!("the outcomes are {:?}", result.outcomes)
    };
    ensure_eq!(got.version, version, "the version that was got");
    ensure_eq!(entry(store, &k).await?.value, Bytes::from("else"), "the value put");

    let empty = store.transact(Txn::when([Condition::absent(&k)]).then([TxnOp::delete(&k)])).await?;
    ensure!(!empty.succeeded && empty.outcomes.is_empty(), "an empty else branch answered {empty:?}");
    ensure!(store.exists(&k).await?, "the key should be there");
    Ok(())
}

async fn txn_needs_every_condition(fixture: &Fixture) -> Result<()> {
    let (store, a, b) = (&fixture.store, key("a")?, key("b")?);
    let version = store.put(&a, "1").await?;
    let good = [
        Condition::present(&a),
        Condition::version(&a, Compare::Equal, version),
        Condition::absent(&b),
        Condition::value(&a, Compare::Less, "2"),
    ];
    ensure!(store.transact(Txn::when(good.clone())).await?.succeeded, "all conditions hold");
    for bad in [Condition::present(&b), Condition::value(&a, Compare::Equal, "2"), Condition::absent(&a)] {
        for at in 0..=good.len() {
            let mut conditions = good.to_vec();
            conditions.insert(at, bad.clone());
            let result = store.transact(Txn::when(conditions).then([TxnOp::put(&b, "x")])).await?;
            ensure!(!result.succeeded, "{bad:?} at place {at} does not hold");
        }
    }
    ensure_eq!(names(store, "").await?, ["a"], "the list");
    Ok(())
}

async fn txn_without_conditions(fixture: &Fixture) -> Result<()> {
    let (store, a, b) = (&fixture.store, key("a")?, key("b/c")?);
    let result = store.transact(Txn::always().then([TxnOp::put(&a, "1"), TxnOp::put(&b, "2")])).await?;
    ensure!(result.succeeded && result.outcomes.len() == 2, "it answered {result:?}");
    ensure_eq!(names(store, "").await?, ["a", "b/c"], "the list");
    Ok(())
}

async fn txn_tells_each_outcome(fixture: &Fixture) -> Result<()> {
    let store = &fixture.store;
    let keys = ["existing", "absent", "put", "gone", "never"].map(key);
    let [existing, absent, put, gone, never] = keys;
    let (existing, absent, put, gone, never) = (existing?, absent?, put?, gone?, never?);
    store.put(&existing, "1").await?;
    store.put(&gone, "1").await?;
    let before = entry(store, &existing).await?;
    let txn = Txn::always().then([
        TxnOp::get(&existing),
        TxnOp::put(&put, "2"),
        TxnOp::delete(&gone),
        TxnOp::get(&absent),
        TxnOp::delete(&never),
    ]);
    let outcomes = store.transact(txn).await?.outcomes;
    let version = entry(store, &put).await?.version;
    ensure_eq!(outcomes.len(), 5, "the number of outcomes");
    ensure_eq!(outcomes[0], TxnOutcome::Get(Some(before)), "the get of an existing key");
    let TxnOutcome::Put(result) = &outcomes[1] else { bail!("a put answered {:?}", outcomes[1]) };
    ensure_eq!((result.version, result.granted_ttl), (version, None), "the outcome of the put");
    ensure_eq!(outcomes[2], TxnOutcome::Delete(DeleteResult::deleted(None)), "the delete of an existing key");
    ensure_eq!(outcomes[3], TxnOutcome::Get(None), "the get of an absent key");
    ensure_eq!(outcomes[4], TxnOutcome::Delete(DeleteResult::absent()), "the delete of an absent key");
    Ok(())
}

async fn txn_reads_its_own_writes(fixture: &Fixture) -> Result<()> {
    let (store, k, gone) = (&fixture.store, key("k")?, key("gone")?);
    store.put(&k, "old").await?;
    store.put(&gone, "old").await?;
    let txn = Txn::always().then([
        TxnOp::get(&k),
        TxnOp::put(&k, "new"),
        TxnOp::get(&k),
        TxnOp::delete(&gone),
        TxnOp::get(&gone),
    ]);
    let outcomes = store.transact(txn).await?.outcomes;
    let value = |at: usize| match &outcomes[at] {
        TxnOutcome::Get(found) => Ok(found.as_ref().map(|entry| entry.value.clone())),
        other => bail!("a get answered {other:?}"),
    };
    ensure_eq!(value(0)?, Some(Bytes::from("old")), "the get before the put");
    ensure_eq!(value(2)?, Some(Bytes::from("new")), "the get after the put");
    ensure_eq!(value(4)?, None, "the get after the delete");
    let (TxnOutcome::Put(put), TxnOutcome::Get(Some(got))) = (&outcomes[1], &outcomes[2]) else {
        bail!("the outcomes are {outcomes:?}")
    };
    ensure_eq!(got.version, put.version, "the version of the get after the put");
    Ok(())
}

async fn txn_compares_presence(fixture: &Fixture) -> Result<()> {
    let (store, existing, absent) = (&fixture.store, key("existing")?, key("absent")?);
    store.put(&existing, "").await?;
    must_hold(store, Condition::present(&existing), true).await?;
    must_hold(store, Condition::absent(&existing), false).await?;
    must_hold(store, Condition::present(&absent), false).await?;
    must_hold(store, Condition::absent(&absent), true).await?;
    store.delete(&existing).await?;
    must_hold(store, Condition::absent(&existing), true).await
}

const COMPARES: [Compare; 4] = [Compare::Equal, Compare::NotEqual, Compare::Less, Compare::Greater];

async fn txn_compares_versions(fixture: &Fixture) -> Result<()> {
    compares(fixture, |entry| entry.version, Condition::version).await
}

/// Catches a created version that is never read, or is the version of the last change.
async fn txn_compares_created_versions(fixture: &Fixture) -> Result<()> {
    compares(fixture, |entry| entry.created, Condition::created).await
}

async fn compares(
    fixture: &Fixture,
    stored: fn(&kv_core::Entry) -> Version,
    condition: fn(Key, Compare, Version) -> kv_core::Result<Condition>,
) -> Result<()> {
    let (store, k) = (&fixture.store, key("k")?);
    store.put(&k, "1").await?;
    store.put("beside", "x").await?;
    store.put(&k, "2").await?;
    let stored = stored(&entry(store, &k).await?);
    for given in [stored, Version::new(stored.get() + 1), Version::new(stored.get() - 1), Version::ZERO] {
        for compare in COMPARES {
            let expected = compare.holds(&stored, &given);
            must_hold(store, condition(k.clone(), compare, given), expected).await?;
        }
    }
    Ok(())
}

async fn txn_compares_values(fixture: &Fixture) -> Result<()> {
    let (store, k) = (&fixture.store, key("k")?);
    let values: [&[u8]; 6] = [b"", b"a", b"ab", b"b", b"\0", b"\xff\x01"];
    for stored in values {
        store.put(&k, stored).await?;
        for given in values {
            for compare in COMPARES {
                must_hold(store, Condition::value(&k, compare, given), compare.holds(stored, given)).await?;
            }
        }
    }
    Ok(())
}

/// Catches a comparison of values that is always false, or takes an absent key for an empty value.
async fn txn_absent_compares_as_absent(fixture: &Fixture) -> Result<()> {
    let (store, never, gone) = (&fixture.store, key("never")?, key("gone")?);
    let version = store.put(&gone, "").await?;
    store.delete(&gone).await?;
    for k in [&never, &gone] {
        for compare in COMPARES {
            let expected = compare == Compare::NotEqual;
            for given in [Version::ZERO, version] {
                must_hold(store, Condition::version(k, compare, given), expected).await?;
                must_hold(store, Condition::created(k, compare, given), expected).await?;
            }
            for given in ["", "x"] {
                must_hold(store, Condition::value(k, compare, given), expected).await?;
            }
        }
    }
    Ok(())
}

async fn txn_sees_implicit_parents_as_absent(fixture: &Fixture) -> Result<()> {
    let (store, parent, child) = (&fixture.store, key("a")?, key("a/b")?);
    store.put(&child, "x").await?;
    must_hold(store, Condition::absent(&parent), true).await?;
    must_hold(store, Condition::value(&parent, Compare::Equal, ""), false).await?;
    must_hold(store, Condition::version(&parent, Compare::Equal, Version::ZERO), false).await?;
    let guard = crate::steps::lock(store, &parent).await?;
    must_hold(store, Condition::absent(&parent), true).await?;
    guard.unlock().await?;
    let result = store.transact(Txn::always().then([TxnOp::get(&parent), TxnOp::delete(&parent)])).await?;
    let expected = [TxnOutcome::Get(None), TxnOutcome::Delete(DeleteResult::absent())];
    ensure_eq!(result.outcomes, expected, "what a get and a delete of it answer");
    ensure_eq!(names(store, "").await?, ["a/b"], "the list");
    Ok(())
}

async fn txn_versions_grow(fixture: &Fixture) -> Result<()> {
    let (store, old, new) = (&fixture.store, key("old")?, key("new")?);
    let mut last = store.put(&old, "same").await?;
    let created = last;
    for round in 0..5 {
        let txn = Txn::always().then([TxnOp::put(&old, "same"), TxnOp::put(&new, "same")]);
        for outcome in store.transact(txn).await?.outcomes {
            let TxnOutcome::Put(put) = outcome else { bail!("a put answered {outcome:?}") };
            ensure!(put.version > last, "round {round}: a put got version {}, after {last}", put.version);
        }
        let (old, new) = (entry(store, &old).await?, entry(store, &new).await?);
        ensure_eq!(old.created, created, "round {round}: created, of the old key");
        ensure_eq!(new.created, new.version, "round {round}: created, of the new key");
        last = old.version.max(new.version);
        ensure!(
            store.transact(Txn::always().then([TxnOp::delete(&new.key)])).await?.succeeded,
            "a transaction without conditions"
        );
    }
    Ok(())
}

async fn txn_puts_expire(fixture: &Fixture) -> Result<()> {
    let (store, ttl) = (&fixture.store, fixture.short_ttl());
    let (expiring, renewed, permanent) = (key("expiring")?, key("renewed")?, key("permanent")?);
    put_expiring(store, &renewed, "x", Expiry::Ttl(ttl)).await?;
    let begun = std::time::Instant::now();
    let txn = Txn::always().then([
        TxnOp::put_expiring(&expiring, "x", Expiry::Ttl(ttl)),
        TxnOp::put_expiring(&renewed, "y", Expiry::Ttl(ttl)),
        TxnOp::put(&permanent, "x"),
    ]);
    let result = store.transact(txn).await?;
    let Some(TxnOutcome::Put(put)) = result.outcomes.first() else { bail!("it answered {result:?}") };
    let granted = put.granted_ttl.context("no granted time to live was told")?;
    ensure!(granted >= ttl, "{granted:?} was granted of {ttl:?}");
    while begun.elapsed() + std::time::Duration::from_millis(100) < ttl {
        let found = [store.get(&expiring).await?, store.get(&renewed).await?];
        ensure!(found.iter().all(Option::is_some) || begun.elapsed() >= ttl, "gone before {ttl:?}");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    let late = fixture.latest_end(ttl) + GRACE;
    tokio::try_join!(until_gone(store, &expiring, late), until_gone(store, &renewed, late))?;
    ensure!(store.exists(&permanent).await?, "the permanent key should be there");
    Ok(())
}

async fn txn_puts_live_by_the_session(fixture: &Fixture) -> Result<()> {
    let (store, other, k) = (&fixture.store, fixture.another().await?, key("k")?);
    let txn = Txn::when([Condition::absent(&k)]).then([TxnOp::put_expiring(&k, "x", Expiry::Session)]);
    ensure!(other.transact(txn).await?.succeeded, "the key is absent");
    ensure_eq!(expiry_of(&other, &k).await?, EntryExpiry::Session, "the expiry");
    other.close().await?;
    until_gone(store, &k, crate::fixture::PATIENCE).await
}

async fn one_of_many_txns_wins(fixture: &Fixture) -> Result<()> {
    let stores = [&fixture.store, &fixture.another().await?];
    for round in 0..8 {
        let (k, own) = (key(&format!("dir/{round}"))?, format!("own/{round}"));
        let txns = (0..12).map(|at| {
            let (store, k, own) = (Arc::clone(stores[at % 2]), k.clone(), key(&format!("{own}/{at}")));
            at_once(async move {
                let txn =
                    Txn::when([Condition::absent(&k)]).then([TxnOp::put(&k, "x"), TxnOp::put(own?, "x")]);
                anyhow::Ok(store.transact(txn).await?.succeeded)
            })
        });
        let txns: Vec<_> = txns.collect();
        let mut won = 0;
        for answer in join_all(txns).await {
            won += usize::from(answer?);
        }
        ensure_eq!(won, 1, "round {round}: how many won");
        crate::steps::sees(fixture, "only the winner should have written", || async {
            Ok(names(stores[0], &own).await?.len() == 1)
        })
        .await?;
    }
    Ok(())
}

const ACCOUNTS: usize = 4;
const SUM: i64 = 400;

fn account(at: usize) -> Result<Key> {
    key(&format!("accounts/{at}"))
}

fn balance(value: &Bytes) -> Result<i64> {
    Ok(std::str::from_utf8(value)?.parse()?)
}

async fn txn_is_isolated(fixture: &Fixture) -> Result<()> {
    let stores = [&fixture.store, &fixture.another().await?];
    let fill = (0..ACCOUNTS).map(|at| Ok(TxnOp::put(account(at)?, (SUM / 4).to_string())));
    ensure!(
        stores[0].transact(Txn::always().then(fill.collect::<Result<Vec<_>>>()?)).await?.succeeded,
        "a transaction without conditions"
    );
    let moving = (0..4).map(|task| {
        let mut random = fixture.random();
        random.seed(random.get_seed() ^ task as u64);
        let store = Arc::clone(stores[task % 2]);
        at_once(async move { transfer(&store, random).await })
    });
    let moving: Vec<_> = moving.collect();
    let reader = Arc::clone(stores[1]);
    let reading = at_once(async move {
        for round in 0..40 {
            let gets = (0..ACCOUNTS).map(|at| Ok(TxnOp::get(account(at)?))).collect::<Result<Vec<_>>>()?;
            let mut sum = 0;
            for outcome in reader.transact(Txn::always().then(gets)).await?.outcomes {
                let TxnOutcome::Get(Some(entry)) = outcome else { bail!("an account is {outcome:?}") };
                sum += balance(&entry.value)?;
            }
            ensure_eq!(sum, SUM, "the sum that read {round} saw");
        }
        Ok(())
    });
    tokio::try_join!(try_join_all(moving), reading)?;
    let mut sum = 0;
    for at in 0..ACCOUNTS {
        sum += balance(&entry(stores[0], &account(at)?).await?.value)?;
    }
    ensure!(!fixture.reads_are_linearizable() || sum == SUM, "the sum in the end is {sum}");
    Ok(())
}

async fn transfer(store: &impl Store, mut random: fastrand::Rng) -> Result<()> {
    let mut done = 0;
    while done < 12 {
        let (from, to) = (random.usize(..ACCOUNTS), random.usize(..ACCOUNTS));
        if from == to {
            continue;
        }
        let (from, to) = (entry(store, &account(from)?).await?, entry(store, &account(to)?).await?);
        let amount = random.i64(1..20);
        let txn = Txn::when([
            Condition::version(&from.key, Compare::Equal, from.version),
            Condition::version(&to.key, Compare::Equal, to.version),
        ])
        .then([
            TxnOp::put(&from.key, (balance(&from.value)? - amount).to_string()),
            TxnOp::put(&to.key, (balance(&to.value)? + amount).to_string()),
        ]);
        done += usize::from(store.transact(txn).await?.succeeded);
    }
    Ok(())
}

async fn txn_reaches_watchers(fixture: &Fixture) -> Result<()> {
    let (store, other) = (&fixture.store, fixture.another().await?);
    let (changed, gone) = (key("dir/changed")?, key("dir/gone")?);
    store.put(&changed, "1").await?;
    store.put(&gone, "1").await?;
    let mut follower = Follower::synced(store, Prefix::new("dir")?).await?;
    let ops = [TxnOp::put(&changed, "2"), TxnOp::delete(&gone), TxnOp::put(key("dir/new")?, "1")];
    let _ = other.transact(Txn::when([Condition::present(&gone)]).then(ops)).await?;
    follower.until_state(&other.entries("dir").await?).await?;
    // A transaction that changed nothing tells nothing.
    let ops = [TxnOp::put(&gone, "2")];
    let _ = other.transact(Txn::when([Condition::present(&gone)]).then(ops)).await?;
    let version = other.put(&changed, "3").await?;
    follower.until_version(&changed, version).await?;
    ensure!(follower.state.get(&gone).is_none(), "a branch that did not run was told");
    Ok(())
}

/// Catches a watch that handles the first event of a batch only.
async fn txn_changes_all_reach_watchers(fixture: &Fixture) -> Result<()> {
    let (store, other, last) = (&fixture.store, fixture.another().await?, key("dir/last")?);
    let mut follower = Follower::now(store, last.parent()).await?;
    for round in 0..10 {
        let ops = (0..5).map(|at| Ok(TxnOp::put(key(&format!("dir/{at}"))?, format!("{round}"))));
        ensure!(
            other.transact(Txn::always().then(ops.collect::<Result<Vec<_>>>()?)).await?.succeeded,
            "a transaction without conditions"
        );
    }
    let version = other.put(&last, "x").await?;
    follower.until_version(&last, version).await?;
    for at in 0..5 {
        ensure_eq!(follower.versions_of(&key(&format!("dir/{at}"))?).len(), 10, "the puts told of dir/{at}");
    }
    Ok(())
}
