//! A store over a `consulrs` client a program holds already.

use std::sync::Arc;

use ::consulrs::client::{ConsulClient, ConsulClientSettingsBuilder};
use kv_consul::kv_core::{Applied, ErrorKind, Expiry, Key, Prefix, PutOptions, Secret, StoreExt, WatchEvent};
use kv_consul::{ConsulConfig, ConsulStore};

use crate::common::script::{Scripted, answer, applied, json};
use crate::common::{SECOND, namespace, next, server};

/// A client as consulrs itself makes one.
fn client(address: &str, token: Option<&str>) -> Arc<ConsulClient> {
    let mut settings = ConsulClientSettingsBuilder::default();
    settings.address(format!("http://{address}"));
    if let Some(token) = token {
        settings.token(token);
    }
    Arc::new(ConsulClient::new(settings.build().unwrap()).unwrap())
}

#[tokio::test]
async fn a_store_over_a_held_client_does_what_every_store_does() {
    let Some(server) = server().await else { return };
    let config = ConsulConfig::default().with_namespace(Prefix::new(&namespace()).unwrap());
    let client = client(&server.endpoint(), None);
    let store = ConsulStore::over_consulrs(Arc::clone(&client), config.clone()).await.unwrap();
    let same = ConsulStore::over_consulrs(client, config).await.unwrap();
    let mut watch = store.watch("").await.unwrap();
    // consulrs itself would store it under another name.
    for text in ["a b", "a%20b", "a?b#c", "\u{fc}/x"] {
        let version = store.put(text, text).await.unwrap();
        assert!(matches!(next(&mut watch).await, WatchEvent::Put(entry) if entry.version == version));
        assert_eq!(same.get(text).await.unwrap().unwrap().value, text);
    }
    assert_eq!(store.keys("").await.unwrap().len(), 4);
    let session = PutOptions::default().with_expiry(Expiry::Session);
    store.put_with(&Key::new("s").unwrap(), "1", session).await.unwrap();
    let guard = store.lock("l").await.unwrap();
    assert!(same.try_lock("l").await.unwrap().is_none());
    guard.unlock().await.unwrap();
    store.close().await.unwrap();
    assert!(!same.exists("s").await.unwrap());
}

#[tokio::test]
async fn the_client_brings_its_token_and_address_and_the_configuration_neither() {
    let server = Scripted::start(|request| applied(request, 7, "")).await;
    let held = client(&server.address, Some("canary"));
    for config in [
        ConsulConfig::new(["h"]),
        ConsulConfig::default().with_token(Secret::new("other")),
        ConsulConfig::default().with_tls(),
    ] {
        let error = ConsulStore::over_consulrs(Arc::clone(&held), config).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::InvalidConfig { .. }), "{error}");
    }
    assert!(server.requests().is_empty());
    let store = ConsulStore::over_consulrs(held, ConsulConfig::default()).await.unwrap();
    store.put("k", "v").await.unwrap();
    assert!(!format!("{store:?}").contains("canary"));
    assert!(server.requests().iter().all(|request| request.contains("x-consul-token: canary")));
}

#[tokio::test]
async fn an_answer_that_came_by_a_redirect_is_refused() {
    let other = Scripted::start(|_| json(200, "[]")).await;
    let location = format!("Location: http://{}/v1/kv/x\r\n", other.address);
    let server = Scripted::start(move |_| answer(307, &location, "")).await;
    // The HTTP client consulrs makes follows redirects.
    let config = ConsulConfig::default().with_timeout(SECOND * 3);
    let store = ConsulStore::over_consulrs(client(&server.address, None), config).await.unwrap();
    let error = store.entries("p").await.unwrap_err();
    assert_eq!((error.kind(), error.applied()), (&ErrorKind::Protocol, Applied::No), "{error}");
}
