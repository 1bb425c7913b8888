//! Typed values: JSON, and codecs of one's own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests say what they mean")]

mod common;

use common::fresh;
use kv_mem::kv_core::{Bytes, CodecError, Decode, Encode, ErrorKind, StoreExt, TypedExt};
use serde::{Deserialize, Serialize};

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Job {
    name: String,
    tries: u32,
}

/// What is only written and borrows what it is written from.
#[derive(Serialize)]
struct Written<'a> {
    name: &'a str,
    tries: u32,
}

#[tokio::test]
async fn json_round_trips_with_its_version() {
    let store = fresh();
    assert_eq!(store.get_json::<_, Job>("job").await.unwrap(), None);
    let job = Job { name: "nightly".to_owned(), tries: 3 };
    let version = store.put_json("job", &job).await.unwrap();
    let read = store.get_json::<_, Job>("job").await.unwrap().unwrap();
    assert_eq!((read.value, read.version), (job, version));
    store.put_json("job", &Written { name: "hourly", tries: 1 }).await.unwrap();
    assert_eq!(store.get("job").await.unwrap().unwrap().value, r#"{"name":"hourly","tries":1}"#);
    assert_eq!(store.get_json::<_, Job>("job").await.unwrap().unwrap().value.name, "hourly");
    // Types without a size of their own too.
    store.put_json("text", "plain").await.unwrap();
    store.put_json("numbers", [1, 2, 3].as_slice()).await.unwrap();
    assert_eq!(store.get_json::<_, Vec<u8>>("numbers").await.unwrap().unwrap().value, [1, 2, 3]);
}

#[tokio::test]
async fn a_value_that_is_no_json_is_named_by_its_key_and_not_repeated() {
    let store = fresh();
    store.put("jobs/odd", "{\"name\": hunter2").await.unwrap();
    let error = store.get_json::<_, Job>("jobs/odd").await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::InvalidValue { .. }), "{error}");
    let (told, debug) = (error.to_string(), format!("{error:?}"));
    assert!(told.contains("jobs/odd"), "{told}");
    assert!(!told.contains("hunter2") && !debug.contains("hunter2"), "{told} {debug}");
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
    store.put_as("load", &42, Percent).await.unwrap();
    assert_eq!(store.get_as("load", Percent).await.unwrap().unwrap().value, 42);
    let error = store.put_as("load", &101, Percent).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::InvalidValue { .. }), "{error}");
    assert_eq!(store.get("load").await.unwrap().unwrap().value, "42", "a refused put changes nothing");
    store.put("load", "much").await.unwrap();
    let error = store.get_as::<_, u8, _>("load", Percent).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::InvalidValue { .. }), "{error}");
    assert_eq!(store.get_as::<_, u8, _>("none", Percent).await.unwrap(), None);
}
