//! put: the preconditions, what a refusal tells, and what concurrent writers get.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use futures_util::future::{join_all, try_join_all};
use kv_core::{ErrorKind, Key, Precondition, Store, StoreExt, Version};

use crate::case::{Case, case};
use crate::fixture::Fixture;
use crate::follow::Follower;
use crate::steps::{at_once, ensure_eq, entry, key, names, put_if, refused};

pub(super) const CASES: &[Case] = &[
    case!(put_creates_and_replaces, "A put without a precondition creates and replaces."),
    case!(put_returns_its_own_version, "put returns the version of this very write."),
    case!(absent_creates, "`Absent` creates a key that does not exist, also one that was deleted."),
    case!(absent_refuses_an_existing_key, "`Absent` on an existing key is AlreadyExists."),
    case!(present_replaces, "`Present` replaces an existing key."),
    case!(present_refuses_an_absent_key, "`Present` on an absent key is NotFound and creates nothing."),
    case!(at_replaces_that_version, "`At` replaces the version it names."),
    case!(at_refuses_another_version, "`At` another version is PreconditionFailed with the current one."),
    case!(
        at_refuses_an_absent_key,
        "`At` on an absent key is PreconditionFailed, telling that it is absent."
    ),
    case!(value_replaces_that_value, "`Value` replaces the value it names."),
    case!(value_refuses_another_value, "`Value` of another value is PreconditionFailed with the version."),
    case!(value_refuses_an_absent_key, "`Value` on an absent key is PreconditionFailed, telling that."),
    case!(refused_put_changes_nothing, "A refused put changes nothing and reaches no watcher."),
    case!(one_creator_wins, "Exactly one of N concurrent creates wins."),
    case!(version_counter_loses_no_increment, "N writers that compare versions lose no increment."),
    case!(value_counter_loses_no_increment, "N writers that compare values lose no increment."),
    case!(one_of_two_conditional_writes_wins, "Of a put and a delete at one version exactly one wins."),
    case!(concurrent_creates_below_a_new_parent, "Concurrent creates below a new path all succeed."),
];

async fn put_creates_and_replaces(fixture: &Fixture) -> Result<()> {
    let (store, k) = (&fixture.store, key("a/b/c")?);
    for value in ["first", "second", ""] {
        let version = store.put(&k, value).await?;
        let found = entry(store, &k).await?;
        ensure_eq!((found.version, &found.value), (version, &Bytes::from(value)), "what get answers");
    }
    ensure_eq!(names(store, "").await?, ["a/b/c"], "the list");
    Ok(())
}

/// Catches a put that returns what a second read finds: under a hot writer 2119 of 2759 puts of another
/// library returned the version and value of another writer.
async fn put_returns_its_own_version(fixture: &Fixture) -> Result<()> {
    let (one, two) = (&fixture.store, &fixture.another().await?);
    let k = key("hot")?;
    one.put(&k, "start").await?;
    let writer = |store: &Arc<dyn Store>, name: &'static str| {
        let (store, k) = (Arc::clone(store), k.clone());
        at_once(async move {
            let mut written = Vec::new();
            for at in 0..50 {
                let value = Bytes::from(format!("{name}-{at}"));
                written.push((put_if(&store, &k, value.clone(), Precondition::Any).await?.version, value));
            }
            anyhow::Ok(written)
        })
    };
    let reader = {
        let (store, k) = (Arc::clone(one), k.clone());
        at_once(async move {
            let mut read = Vec::new();
            for _ in 0..150 {
                let entry = entry(&store, &k).await?;
                read.push((entry.version, entry.value));
            }
            anyhow::Ok(read)
        })
    };
    let (a, b, c, read) = tokio::try_join!(writer(one, "a"), writer(two, "b"), writer(one, "c"), reader)?;
    let mut written = BTreeMap::new();
    for (version, value) in [a, b, c].concat() {
        if let Some(other) = written.insert(version, value.clone()) {
            anyhow::bail!("the puts of {other:?} and {value:?} both returned version {version}");
        }
    }
    for (version, value) in read {
        if let Some(own) = written.get(&version) {
            ensure_eq!(value, *own, "the value at version {version}");
        }
    }
    let (version, value) = written.pop_last().context("nothing was written")?;
    let last = entry(two, &k).await?;
    if fixture.reads_are_linearizable() {
        ensure_eq!((last.version, last.value), (version, value), "the last write");
    }
    Ok(())
}

async fn absent_creates(fixture: &Fixture) -> Result<()> {
    let (store, k) = (&fixture.store, key("k")?);
    let first = put_if(store, &k, "1", Precondition::Absent).await?.version;
    ensure_eq!(entry(store, &k).await?.version, first, "the created version");
    store.delete(&k).await?;
    let second = put_if(store, &k, "2", Precondition::Absent).await?.version;
    ensure_eq!(entry(store, &k).await?.version, second, "the version created again");
    Ok(())
}

async fn absent_refuses_an_existing_key(fixture: &Fixture) -> Result<()> {
    let (store, k) = (&fixture.store, key("k")?);
    let version = store.put(&k, "").await?;
    refused!(
        put_if(store, &k, "x", Precondition::Absent).await,
        ErrorKind::AlreadyExists { current: Some(at) } if *at == version,
        "a create over version {version}"
    );
    ensure_eq!(entry(store, &k).await?.version, version, "the version afterwards");
    Ok(())
}

async fn present_replaces(fixture: &Fixture) -> Result<()> {
    let (store, k) = (&fixture.store, key("k")?);
    store.put(&k, "1").await?;
    let version = put_if(store, &k, "2", Precondition::Present).await?.version;
    let found = entry(store, &k).await?;
    ensure_eq!((found.version, found.value), (version, Bytes::from("2")), "what get answers");
    Ok(())
}

/// Catches a compare-and-set or a transaction that creates an absent key.
async fn present_refuses_an_absent_key(fixture: &Fixture) -> Result<()> {
    let (store, k) = (&fixture.store, key("k")?);
    refused!(put_if(store, &k, "x", Precondition::Present).await, ErrorKind::NotFound, "an update");
    ensure_eq!(store.get(&k).await?, None, "the key after the refused update");
    store.put(&k, "x").await?;
    store.delete(&k).await?;
    refused!(put_if(store, &k, "x", Precondition::Present).await, ErrorKind::NotFound, "after a delete");
    Ok(())
}

async fn at_replaces_that_version(fixture: &Fixture) -> Result<()> {
    let (store, k) = (&fixture.store, key("k")?);
    let mut version = store.put(&k, "0").await?;
    for at in 1..10 {
        version = put_if(store, &k, format!("{at}"), Precondition::At(version)).await?.version;
    }
    let found = entry(store, &k).await?;
    ensure_eq!((found.version, found.value), (version, Bytes::from("9")), "what get answers");
    Ok(())
}

async fn at_refuses_another_version(fixture: &Fixture) -> Result<()> {
    let (store, k) = (&fixture.store, key("k")?);
    let old = store.put(&k, "1").await?;
    let version = store.put(&k, "2").await?;
    for wrong in [old, Version::new(version.get() + 1), Version::ZERO] {
        refused!(
            put_if(store, &k, "x", Precondition::At(wrong)).await,
            ErrorKind::PreconditionFailed { current: Some(at) } if *at == version,
            "a put at {wrong} over {version}"
        );
    }
    ensure_eq!(entry(store, &k).await?.version, version, "the version afterwards");
    Ok(())
}

/// Catches backends that refuse it with different kinds, or with a raw error.
async fn at_refuses_an_absent_key(fixture: &Fixture) -> Result<()> {
    let (store, k) = (&fixture.store, key("k")?);
    for wrong in [Version::ZERO, Version::new(1), Version::new(u64::MAX >> 1)] {
        refused!(
            put_if(store, &k, "x", Precondition::At(wrong)).await,
            ErrorKind::PreconditionFailed { current: None },
            "a put at {wrong} on an absent key"
        );
    }
    let version = store.put(&k, "1").await?;
    store.delete(&k).await?;
    refused!(
        put_if(store, &k, "x", Precondition::At(version)).await,
        ErrorKind::PreconditionFailed { current: None },
        "a put at {version} on a deleted key"
    );
    ensure_eq!(store.get(&k).await?, None, "the key afterwards");
    Ok(())
}

async fn value_replaces_that_value(fixture: &Fixture) -> Result<()> {
    let (store, k) = (&fixture.store, key("k")?);
    let binary: &[u8] = b"\xff\0\x01";
    let first = store.put(&k, binary).await?;
    let second = put_if(store, &k, binary, Precondition::Value(binary.into())).await?.version;
    ensure!(second > first, "the identical value got version {second}, after {first}");
    let third = put_if(store, &k, "2", Precondition::Value(binary.into())).await?.version;
    let found = entry(store, &k).await?;
    ensure_eq!((found.version, found.value), (third, Bytes::from("2")), "what get answers");
    Ok(())
}

/// Catches backends that refuse it with different kinds.
async fn value_refuses_another_value(fixture: &Fixture) -> Result<()> {
    let (store, k) = (&fixture.store, key("k")?);
    let version = store.put(&k, "value").await?;
    for wrong in ["", "valu", "value ", "other"] {
        refused!(
            put_if(store, &k, "x", Precondition::Value(wrong.into())).await,
            ErrorKind::PreconditionFailed { current: Some(at) } if *at == version,
            "a put over the value {wrong:?}"
        );
    }
    ensure_eq!(entry(store, &k).await?.version, version, "the version afterwards");
    Ok(())
}

async fn value_refuses_an_absent_key(fixture: &Fixture) -> Result<()> {
    let (store, k) = (&fixture.store, key("k")?);
    for wrong in ["", "x"] {
        refused!(
            put_if(store, &k, "x", Precondition::Value(wrong.into())).await,
            ErrorKind::PreconditionFailed { current: None },
            "a put over the value {wrong:?} of an absent key"
        );
    }
    ensure_eq!(store.get(&k).await?, None, "the key afterwards");
    Ok(())
}

async fn refused_put_changes_nothing(fixture: &Fixture) -> Result<()> {
    let store = &fixture.store;
    let (existing, absent, last) = (key("dir/existing")?, key("dir/absent")?, key("dir/last")?);
    store.put(&existing, "before").await?;
    let before = entry(store, &existing).await?;
    let mut follower = Follower::now(store, existing.parent()).await?;
    for (k, precondition) in [
        (&existing, Precondition::Absent),
        (&existing, Precondition::At(Version::new(before.version.get() + 1))),
        (&existing, Precondition::Value("other".into())),
        (&absent, Precondition::Present),
        (&absent, Precondition::At(before.version)),
        (&absent, Precondition::Value(Bytes::new())),
    ] {
        let answer = put_if(store, k, "x", precondition.clone()).await;
        ensure!(answer.is_err_and(|error| error.is_conflict()), "a put on {k:?} with {precondition:?}");
    }
    ensure_eq!(entry(store, &existing).await?, before, "the existing entry");
    ensure_eq!(store.get(&absent).await?, None, "the absent key");
    let version = store.put(&last, "x").await?;
    follower.until_version(&last, version).await?;
    ensure_eq!(follower.named(), ["dir/last"], "what a watch told");
    Ok(())
}

/// Catches a create that is a read and then a write, so that two creators win.
async fn one_creator_wins(fixture: &Fixture) -> Result<()> {
    let stores = [&fixture.store, &fixture.another().await?];
    for round in 0..10 {
        let k = key(&format!("dir/{round}"))?;
        let creates = (0..16).map(|at| {
            let (store, k) = (Arc::clone(stores[at % 2]), k.clone());
            at_once(async move { put_if(&store, &k, format!("{at}"), Precondition::Absent).await })
        });
        let creates: Vec<_> = creates.collect();
        let mut won: Vec<(usize, Version)> = Vec::new();
        for (at, answer) in join_all(creates).await.into_iter().enumerate() {
            match answer {
                Ok(put) => won.push((at, put.version)),
                Err(error) if matches!(error.kind(), ErrorKind::AlreadyExists { .. }) => {}
                Err(error) => return Err(anyhow::Error::new(error).context("a create that lost")),
            }
        }
        let [(winner, version)] = won[..] else { anyhow::bail!("round {round}: these creates won: {won:?}") };
        let found = entry(stores[winner % 2], &k).await?;
        ensure_eq!(
            (found.version, found.value),
            (version, Bytes::from(format!("{winner}"))),
            "the created entry"
        );
    }
    Ok(())
}

const WRITERS: usize = 8;
const INCREMENTS: usize = 12;

/// Adds one to the number under `k`; false if another writer came first.
async fn increment(store: &impl Store, k: &Key, by_value: bool) -> Result<bool> {
    let found = entry(store, k).await?;
    let number: usize = std::str::from_utf8(&found.value)?.parse()?;
    let precondition =
        if by_value { Precondition::Value(found.value) } else { Precondition::At(found.version) };
    match put_if(store, k, (number + 1).to_string(), precondition).await {
        Ok(_) => Ok(true),
        Err(error) if matches!(error.kind(), ErrorKind::PreconditionFailed { .. }) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

async fn count_up(fixture: &Fixture, by_value: bool) -> Result<()> {
    let stores = [&fixture.store, &fixture.another().await?];
    let k = &key("counter")?;
    stores[0].put(k, "0").await?;
    crate::steps::sees(fixture, "the other handle should see the counter", || async {
        Ok(stores[1].get(k).await?.is_some())
    })
    .await?;
    let writers = (0..WRITERS).map(|at| {
        let (store, k) = (Arc::clone(stores[at % 2]), k.clone());
        at_once(async move {
            let mut done = 0;
            while done < INCREMENTS {
                done += usize::from(increment(&store, &k, by_value).await?);
            }
            anyhow::Ok(())
        })
    });
    try_join_all(writers.collect::<Vec<_>>()).await?;
    crate::steps::sees(fixture, "the counter should have every increment and none twice", || async {
        Ok(entry(stores[0], k).await?.value == (WRITERS * INCREMENTS).to_string())
    })
    .await
}

async fn version_counter_loses_no_increment(fixture: &Fixture) -> Result<()> {
    count_up(fixture, false).await
}

async fn value_counter_loses_no_increment(fixture: &Fixture) -> Result<()> {
    count_up(fixture, true).await
}

async fn one_of_two_conditional_writes_wins(fixture: &Fixture) -> Result<()> {
    let (store, other) = (&fixture.store, fixture.another().await?);
    for round in 0..30 {
        let k = key(&format!("dir/{round}"))?;
        let version = store.put(&k, "before").await?;
        let put = {
            let (store, k) = (Arc::clone(store), k.clone());
            at_once(async move {
                // Which of two tasks begins first is the runtime's choice, and often the same one.
                tokio::time::sleep(Duration::from_millis(round % 3)).await;
                store.compare_and_set(&k, version, "after").await
            })
        };
        let delete = {
            let other = Arc::clone(&other);
            at_once(async move {
                tokio::time::sleep(Duration::from_millis(round % 2 * 2)).await;
                other.compare_and_delete(&k, version).await
            })
        };
        let (put, delete) = tokio::join!(put, delete);
        ensure!(
            put.is_ok() != delete.is_ok(),
            "round {round}: at version {version} the put answered {put:?} and the delete {delete:?}"
        );
    }
    Ok(())
}

async fn concurrent_creates_below_a_new_parent(fixture: &Fixture) -> Result<()> {
    let stores = [&fixture.store, &fixture.another().await?];
    for round in 0..5 {
        let creates = (0..16).map(|at| {
            let store = Arc::clone(stores[at % 2]);
            at_once(async move { store.create(format!("new-{round}/dir/{at}/k"), "x").await })
        });
        let creates: Vec<_> = creates.collect();
        let versions: BTreeSet<Version> = try_join_all(creates).await?.into_iter().collect();
        ensure_eq!(versions.len(), 16, "the number of different versions");
        crate::steps::sees(fixture, "all creates should be listed", || async {
            Ok(names(stores[0], &format!("new-{round}")).await?.len() == 16)
        })
        .await?;
    }
    Ok(())
}
