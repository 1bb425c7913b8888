//! Writers of one key that lose to each other, and deletes that tell what others deleted.

use std::sync::Arc;

use kv_core::{
    Bytes, DeleteOptions, DeleteResult, Error, ErrorKind, Key, Precondition, PutOptions, PutResult, Store,
    StoreExt,
};

use super::Fault;
use super::tools::{Shared, id, pause, shared, with};

/// A put without a condition as a compare-and-set that is tried so many times.
async fn compare_and_set(
    store: &Arc<dyn Store>,
    key: &Key,
    value: Bytes,
    options: PutOptions,
    attempts: usize,
) -> kv_core::Result<PutResult> {
    for _ in 0..attempts {
        let found = store.get(key).await?;
        pause(2).await;
        let precondition = found.map_or(Precondition::Absent, |entry| Precondition::At(entry.version));
        let options = options.clone().with_precondition(precondition);
        match store.put_with(key, value.clone(), options).await {
            Err(error) if error.is_conflict() => {}
            answer => return answer,
        }
    }
    Err(Error::new(ErrorKind::Timeout))
}

pub(super) fn faults() -> [Fault; 3] {
    let last: Shared<Option<usize>> = shared();
    [
        Fault::new("a_put_gives_up_when_others_are_faster", &["puts_of_one_key_at_once_all_succeed"]).put(
            |store, key, value, options| async move {
                if options.precondition != Precondition::Any {
                    return store.put_with(&key, value, options).await;
                }
                compare_and_set(&store, &key, value, options, 20).await
            },
        ),
        Fault::new("who_wrote_last_writes_again", &["a_busy_handle_starves_no_other"]).put(
            move |store, key, value, options| {
                let last = Arc::clone(&last);
                async move {
                    let own = with(&last, |last| *last.get_or_insert(id(&store))) == id(&store);
                    let put = match own {
                        true => {
                            pause(1).await;
                            store.put_with(&key, value, options).await?
                        }
                        false => compare_and_set(&store, &key, value, options, 5).await?,
                    };
                    with(&last, |last| *last = Some(id(&store)));
                    Ok(put)
                }
            },
        ),
        Fault::new("a_delete_tells_what_it_had_read", &["each_delete_tells_what_it_deleted"]).delete(
            |store, key, options| async move {
                if !options.previous || options.precondition != Precondition::Any {
                    return store.delete_with(&key, options).await;
                }
                let found = store.get(&key).await?;
                pause(2).await;
                let deleted = store.delete_with(&key, DeleteOptions::default()).await?;
                Ok(match deleted.existed {
                    true => DeleteResult::deleted(found),
                    false => DeleteResult::absent(),
                })
            },
        ),
    ]
}
