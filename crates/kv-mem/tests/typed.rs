//! Typed values: JSON, and codecs of one's own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests say what they mean")]

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::fresh;
use kv_mem::kv_core::{
    Bytes, CodecError, Decode, Encode, EntryExpiry, ErrorKind, GetOptions, Json, Store, StoreExt, TypedEvent,
    TypedExt, TypedStore, WatchOptions,
};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Job {
    name: String,
    tries: u32,
}

fn job(tries: u32) -> Job {
    Job { name: "nightly".to_owned(), tries }
}

#[tokio::test]
async fn values_round_trip_with_their_keys_and_versions() {
    let store = fresh();
    let jobs = store.typed::<Job>("jobs").unwrap();
    assert_eq!(jobs.get("a").await.unwrap(), None);
    let version = jobs.create("a", &job(1)).await.unwrap();
    assert!(jobs.create("a", &job(2)).await.unwrap_err().is_conflict());
    let read = jobs.get("a").await.unwrap().unwrap();
    assert_eq!((read.key.as_str(), read.value, read.version), ("a", job(1), version));
    assert_eq!(store.get("jobs/a").await.unwrap().unwrap().value, r#"{"name":"nightly","tries":1}"#);

    let second = jobs.compare_and_set("a", version, &job(2)).await.unwrap();
    let late = jobs.compare_and_set("a", version, &job(3)).await.unwrap_err();
    assert_eq!(late.kind(), &ErrorKind::PreconditionFailed { current: Some(second) });
    jobs.put("b/c", &job(7)).await.unwrap();
    store.put("other", "no json").await.unwrap();
    let all: Vec<_> =
        jobs.entries().await.unwrap().into_iter().map(|job| (job.key.to_string(), job.value.tries)).collect();
    assert_eq!(all, [("a".to_owned(), 2), ("b/c".to_owned(), 7)]);
    assert!(jobs.delete("a").await.unwrap() && !jobs.delete("a").await.unwrap());
    for outside in ["", "/", "../other"] {
        let error = jobs.get(outside).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::InvalidKey { .. }), "{error}");
    }
}

#[tokio::test]
async fn an_update_keeps_the_expiry_and_does_not_run_on_what_cannot_be_read() {
    let store = fresh();
    let jobs = store.typed::<Job>("jobs").unwrap();
    let hour = Duration::from_secs(3600);
    assert_eq!(jobs.put_ttl("a", &job(1), hour).await.unwrap().granted_ttl, Some(hour));
    let more = |old: Option<Job>| old.map(|old| job(old.tries + 1));
    jobs.update("a", more).await.unwrap().unwrap();
    let entry = store.get_with("jobs/a", GetOptions::default().with_expiry()).await.unwrap().unwrap();
    assert!(matches!(entry.expiry, Some(EntryExpiry::Ttl { granted, .. }) if granted == hour));
    assert_eq!(jobs.get("a").await.unwrap().unwrap().value, job(2));
    assert_eq!(jobs.update("none", more).await.unwrap(), None);

    let broken = store.put("jobs/a", "{").await.unwrap();
    let mut asked = 0;
    let error = jobs
        .update("a", |old| {
            asked += 1;
            old
        })
        .await
        .unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::InvalidValue { .. }), "{error}");
    assert_eq!((asked, store.get("jobs/a").await.unwrap().unwrap().version), (0, broken));
}

#[tokio::test]
async fn lists_and_watches_go_on_behind_a_value_that_cannot_be_read() {
    let store: Arc<dyn Store> = Arc::new(fresh());
    // Held by an `Arc`, so that it could move to another task.
    let jobs = TypedStore::<_, Job>::new(Arc::clone(&store), "jobs", Json).unwrap();
    jobs.put("a", &job(1)).await.unwrap();
    store.put("jobs/b", "{").await.unwrap();
    jobs.put("c", &job(3)).await.unwrap();
    let mut listing = jobs.list().await.unwrap();
    let mut read = Vec::new();
    while let Some(item) = listing.next().await {
        read.push(item.map(|job| job.value.tries).map_err(|error| error.key().unwrap().to_owned()));
    }
    assert_eq!(read, [Ok(1), Err("jobs/b".to_owned()), Ok(3)]);
    assert_eq!(jobs.entries().await.unwrap_err().key(), Some("jobs/b"));

    let mut watch = jobs.watch(WatchOptions::default().with_initial()).await.unwrap();
    let mut told = Vec::new();
    store.delete("jobs/b").await.unwrap();
    while told.len() < 5 {
        told.push(match watch.next().await.unwrap() {
            Ok(TypedEvent::Put(job)) => format!("{}={}", job.key, job.value.tries),
            Ok(TypedEvent::Delete { key, version, .. }) => format!("{key} gone {}", version.is_some()),
            Ok(other) => format!("{other:?}"),
            Err(error) => format!("{} cannot be read", error.key().unwrap()),
        });
    }
    assert_eq!(told, ["a=1", "jobs/b cannot be read", "c=3", "Synced", "b gone true"]);
}

#[tokio::test]
async fn a_value_that_cannot_be_read_is_named_by_its_key_and_not_repeated() {
    let store = fresh();
    for value in [r#"{"name": hunter2"#, r#"{"name": "a", "tries": "hunter2"}"#] {
        store.put("jobs/odd", value).await.unwrap();
        let error = store.typed::<Job>("jobs").unwrap().get("odd").await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::InvalidValue { .. }), "{error}");
        assert_eq!((error.key(), error.backend()), (Some("jobs/odd"), Some("mem")));
        let (told, debug) = (error.to_string(), format!("{error:#?}"));
        assert!(told.contains("jobs/odd") && told.contains("at line 1 column"), "{told}");
        assert!(!told.contains("hunter2") && !debug.contains("hunter2"), "{told} {debug}");
    }
}

/// Numbers as text; none above 100.
struct Percent;

impl Encode<u8> for Percent {
    fn encode(&self, value: &u8) -> Result<Bytes, CodecError> {
        if *value > 100 {
            return Err("more than 100".into());
        }
        Ok(value.to_string().into())
    }
}

impl Decode<u8> for Percent {
    fn decode(&self, bytes: &[u8]) -> Result<u8, CodecError> {
        Ok(std::str::from_utf8(bytes)?.parse()?)
    }
}

#[tokio::test]
async fn a_codec_of_one_s_own_can_refuse() {
    let store = fresh();
    let loads = store.typed_with::<u8, _>("loads", Percent).unwrap();
    loads.put("web", &42).await.unwrap();
    assert_eq!(loads.get("web").await.unwrap().unwrap().value, 42);
    let error = loads.put("web", &101).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::InvalidValue { .. }), "{error}");
    assert_eq!(store.get("loads/web").await.unwrap().unwrap().value, "42", "a refused put changes nothing");
    store.put("loads/web", "much").await.unwrap();
    let error = loads.get("web").await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::InvalidValue { .. }), "{error}");
}
