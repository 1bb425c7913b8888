//! Calls of every kind on one store.

use kv_consul::ConsulStore;
use kv_consul::kv_core::{Key, LockOptions, LockWait, StoreExt, WatchEvent, WatchOptions};

/// The errors of all calls on a store whose server answers nothing right.
pub(crate) async fn errors_of(store: &ConsulStore) -> Vec<kv_consul::kv_core::Error> {
    let key = Key::new("k").unwrap();
    let no_wait = LockOptions::default().with_wait(LockWait::Try);
    let initial = WatchOptions::default().with_initial();
    let mut errors = vec![
        store.get("k").await.unwrap_err(),
        store.put("k", "v").await.unwrap_err(),
        store.delete("k").await.unwrap_err(),
        store.entries("p").await.unwrap_err(),
        store.keys("p").await.unwrap_err(),
        store.delete_tree("p").await.unwrap_err(),
        store.lock_with(&key, no_wait).await.unwrap_err(),
        store.watch("p").await.unwrap_err(),
    ];
    match store.watch_with(key, initial).await {
        // A state that breaks off is begun anew, for as long as it takes.
        Ok(mut watch) => match watch.next().await.unwrap() {
            Ok(event) => assert_eq!(event, WatchEvent::Resync),
            Err(error) => errors.push(error),
        },
        Err(error) => errors.push(error),
    }
    errors
}
