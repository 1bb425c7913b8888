//! delete: what it tells, its preconditions, and what concurrent deletes get.

use std::sync::Arc;

use anyhow::{Result, ensure};
use bytes::Bytes;
use futures_util::future::join_all;
use kv_core::{DeleteOptions, ErrorKind, Precondition, StoreExt, Version};

use crate::case::{Case, case};
use crate::fixture::Fixture;
use crate::follow::Follower;
use crate::steps::{at_once, delete_if, ensure_eq, entry, key, names, put_if, refused};

pub(super) const CASES: &[Case] = &[
    case!(delete_removes_the_entry, "A deleted key is absent for every call."),
    case!(delete_of_an_absent_key_is_no_error, "delete of an absent key is no error and says so."),
    case!(delete_returns_the_previous_entry, "delete can return the entry that was deleted."),
    case!(delete_at_a_version, "`At` deletes that version and no other."),
    case!(delete_of_a_value, "`Value` deletes that value and no other."),
    case!(delete_present_needs_the_key, "`Present` on an absent key is NotFound."),
    case!(delete_absent_needs_no_key, "`Absent` on an existing key is AlreadyExists, else nothing is there."),
    case!(refused_delete_changes_nothing, "A refused delete changes nothing and reaches no watcher."),
    case!(one_deleter_wins, "Exactly one of N concurrent deletes at a version wins."),
    case!(one_delete_finds_the_key, "Exactly one of N concurrent deletes finds the key."),
];

async fn delete_removes_the_entry(fixture: &Fixture) -> Result<()> {
    let (store, k) = (&fixture.store, key("a/b")?);
    store.put(&k, "x").await?;
    ensure_eq!(delete_if(store, &k, Precondition::Any).await?.existed, true, "whether a/b existed");
    ensure_eq!(store.get(&k).await?, None, "the deleted key");
    ensure!(!store.exists(&k).await?, "the deleted key should not exist");
    ensure_eq!(names(store, "").await?, [""; 0], "the list");
    refused!(store.replace(&k, "x").await, ErrorKind::NotFound, "a replace of the deleted key");
    ensure!(!store.delete(&k).await?, "a second delete should find nothing");
    Ok(())
}

/// Catches backends of which some report `NotFound` and others nothing.
async fn delete_of_an_absent_key_is_no_error(fixture: &Fixture) -> Result<()> {
    let store = &fixture.store;
    for text in ["never", "never/below"] {
        let deleted = store.delete_with(&key(text)?, DeleteOptions::default().with_previous()).await?;
        ensure_eq!((deleted.existed, &deleted.previous), (false, &None), "a delete of {text:?}");
    }
    ensure_eq!(names(store, "").await?, [""; 0], "the list");
    Ok(())
}

async fn delete_returns_the_previous_entry(fixture: &Fixture) -> Result<()> {
    let (store, k) = (&fixture.store, key("k")?);
    for precondition in [Precondition::Any, Precondition::Present, Precondition::Value("2".into())] {
        let created = store.put(&k, "1").await?;
        let version = store.put(&k, "2").await?;
        let options = DeleteOptions::default().with_previous().with_precondition(precondition.clone());
        let deleted = store.delete_with(&k, options).await?;
        ensure!(deleted.existed, "with {precondition:?}: the key existed");
        let previous = deleted.previous.map(|entry| (entry.key, entry.value, entry.version, entry.created));
        let expected = Some((k.clone(), Bytes::from("2"), version, created));
        ensure_eq!(previous, expected, "with {precondition:?}: the previous entry");
    }
    Ok(())
}

/// Catches a conditional delete that reports a conflict as `NotFound`.
async fn delete_at_a_version(fixture: &Fixture) -> Result<()> {
    let (store, k) = (&fixture.store, key("k")?);
    let old = store.put(&k, "1").await?;
    let version = store.put(&k, "2").await?;
    for wrong in [old, Version::new(version.get() + 1)] {
        refused!(
            delete_if(store, &k, Precondition::At(wrong)).await,
            ErrorKind::PreconditionFailed { current: Some(at) } if *at == version,
            "a delete at {wrong} of {version}"
        );
    }
    ensure!(delete_if(store, &k, Precondition::At(version)).await?.existed, "the right version existed");
    ensure_eq!(store.get(&k).await?, None, "the deleted key");
    refused!(
        delete_if(store, &k, Precondition::At(version)).await,
        ErrorKind::PreconditionFailed { current: None },
        "a delete at {version} of an absent key"
    );
    Ok(())
}

async fn delete_of_a_value(fixture: &Fixture) -> Result<()> {
    let (store, k) = (&fixture.store, key("k")?);
    let version = store.put(&k, "value").await?;
    for wrong in ["", "valu", "other"] {
        refused!(
            delete_if(store, &k, Precondition::Value(wrong.into())).await,
            ErrorKind::PreconditionFailed { current: Some(at) } if *at == version,
            "a delete of the value {wrong:?}"
        );
    }
    ensure!(delete_if(store, &k, Precondition::Value("value".into())).await?.existed, "the value existed");
    ensure_eq!(store.get(&k).await?, None, "the deleted key");
    refused!(
        delete_if(store, &k, Precondition::Value(Bytes::new())).await,
        ErrorKind::PreconditionFailed { current: None },
        "a delete of the empty value of an absent key"
    );
    Ok(())
}

async fn delete_present_needs_the_key(fixture: &Fixture) -> Result<()> {
    let (store, k) = (&fixture.store, key("k")?);
    refused!(delete_if(store, &k, Precondition::Present).await, ErrorKind::NotFound, "an absent key");
    store.put(&k, "x").await?;
    ensure!(delete_if(store, &k, Precondition::Present).await?.existed, "the key existed");
    refused!(delete_if(store, &k, Precondition::Present).await, ErrorKind::NotFound, "a second delete");
    Ok(())
}

async fn delete_absent_needs_no_key(fixture: &Fixture) -> Result<()> {
    let (store, k) = (&fixture.store, key("k")?);
    ensure!(!delete_if(store, &k, Precondition::Absent).await?.existed, "the key did not exist");
    let version = store.put(&k, "x").await?;
    refused!(
        delete_if(store, &k, Precondition::Absent).await,
        ErrorKind::AlreadyExists { current: Some(at) } if *at == version,
        "a delete that wants the key absent"
    );
    ensure_eq!(entry(store, &k).await?.version, version, "the version afterwards");
    Ok(())
}

async fn refused_delete_changes_nothing(fixture: &Fixture) -> Result<()> {
    let (store, k, last) = (&fixture.store, key("dir/k")?, key("dir/last")?);
    store.put(&k, "before").await?;
    let before = entry(store, &k).await?;
    let mut follower = Follower::now(store, k.parent()).await?;
    for precondition in [
        Precondition::Absent,
        Precondition::At(Version::new(before.version.get() + 1)),
        Precondition::Value("other".into()),
    ] {
        let answer = delete_if(store, &k, precondition.clone()).await;
        ensure!(answer.is_err_and(|error| error.is_conflict()), "a delete with {precondition:?}");
    }
    ensure_eq!(entry(store, &k).await?, before, "the entry");
    let version = store.put(&last, "x").await?;
    follower.until_version(&last, version).await?;
    ensure_eq!(follower.named(), ["dir/last"], "what a watch told");
    Ok(())
}

async fn one_deleter_wins(fixture: &Fixture) -> Result<()> {
    let stores = [&fixture.store, &fixture.another().await?];
    for round in 0..10 {
        let k = key(&format!("dir/{round}"))?;
        let version = put_if(stores[0], &k, "x", Precondition::Absent).await?.version;
        let deletes = (0..12).map(|at| {
            let (store, k) = (Arc::clone(stores[at % 2]), k.clone());
            at_once(async move { delete_if(&store, &k, Precondition::At(version)).await })
        });
        let deletes: Vec<_> = deletes.collect();
        let mut won = 0;
        for answer in join_all(deletes).await {
            match answer {
                Ok(_) => won += 1,
                Err(error) if matches!(error.kind(), ErrorKind::PreconditionFailed { .. }) => {}
                Err(error) => return Err(anyhow::Error::new(error).context("a delete that lost")),
            }
        }
        ensure_eq!(won, 1, "round {round}: how many deletes at {version} won");
    }
    Ok(())
}

async fn one_delete_finds_the_key(fixture: &Fixture) -> Result<()> {
    let stores = [&fixture.store, &fixture.another().await?];
    for round in 0..10 {
        let k = key(&format!("dir/{round}"))?;
        stores[0].put(&k, "x").await?;
        let deletes = (0..12).map(|at| {
            let (store, k) = (Arc::clone(stores[at % 2]), k.clone());
            at_once(async move { store.delete(&k).await })
        });
        let deletes: Vec<_> = deletes.collect();
        let mut found = 0;
        for answer in join_all(deletes).await {
            found += usize::from(answer?);
        }
        ensure_eq!(found, 1, "round {round}: how many deletes found the key");
    }
    Ok(())
}
