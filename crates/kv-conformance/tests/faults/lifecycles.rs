//! Handles that do not close, calls that do not end, errors that say nothing or too much.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use kv_core::{
    Bytes, Capabilities, Error, ErrorKind, ExpiryBound, Key, LockWait, Operation, Power, PutOptions,
    ServerInfo, Store, StoreExt, Watch,
};

use super::Fault;
use super::tools::{BTreeSet, Shared, id, shared, with};

/// A put and a delete whose errors are changed; the value is what one should not repeat.
fn failing(
    name: &'static str,
    caught_by: &'static [&'static str],
    change: fn(Error, &Bytes) -> Error,
) -> Fault {
    Fault::new(name, caught_by).put(move |store, key, value, options| async move {
        store.put_with(&key, value.clone(), options).await.map_err(|error| change(error, &value))
    })
}

/// Breaks the store if it is dropped before it is defused.
struct Breaks(Shared<bool>, bool);

impl Drop for Breaks {
    fn drop(&mut self) {
        if self.1 {
            with(&self.0, |broken| *broken = true);
        }
    }
}

pub(super) fn faults() -> Vec<Fault> {
    let closed: Shared<BTreeSet<usize>> = shared();
    let handles: Shared<Vec<Arc<dyn Store>>> = shared();
    let (used, locked, closing) = (Arc::clone(&handles), Arc::clone(&handles), handles);
    let broken: Shared<bool> = shared();
    let mut faults = vec![
        Fault::new("a_second_close_is_an_error", &["close_is_idempotent"]).close(move |store| {
            let closed = Arc::clone(&closed);
            async move {
                store.close().await?;
                if with(&closed, |closed| closed.insert(id(&store))) {
                    Ok(())
                } else {
                    Err(ErrorKind::Closed.into())
                }
            }
        }),
        Fault::new(
            "close_does_nothing",
            &[
                "closed_handle_answers_closed",
                "close_ends_watches",
                "session_key_goes_at_close",
                "session_states_end_with_the_handle",
                "closing_releases_locks",
                "wait_ends_when_the_handle_closes",
                "fence_refuses_with_close",
            ],
        )
        .close(|_| async { Ok(()) }),
        Fault::new("watches_end_without_a_word", &["close_ends_watches", "dropped_last_clone_ends_watches"])
            .watch(|store, target, options| async move {
                let watch = store.watch_with(target, options).await?;
                Ok(Watch::new(watch.take_while(|event| std::future::ready(event.is_ok()))))
            }),
        Fault::new(
            "close_closes_every_handle",
            &["close_leaves_other_handles", "closing_spares_other_sessions"],
        )
        .put(move |store, key, value, options| {
            with(&used, |used| used.push(Arc::clone(&store)));
            async move { store.put_with(&key, value, options).await }
        })
        .lock(move |store, key, options| {
            with(&locked, |locked| locked.push(Arc::clone(&store)));
            async move { store.lock_with(&key, options).await }
        })
        .close(move |store| {
            let others = with(&closing, std::mem::take);
            async move {
                for other in others {
                    other.close().await?;
                }
                store.close().await
            }
        }),
        Fault::new("dropping_needs_a_runtime", &["dropping_outside_a_runtime"]).on_drop(|_| {
            // Panics where there is none; a panic while one is on its way would end the process.
            if !std::thread::panicking() {
                let _ = tokio::runtime::Handle::current();
            }
        }),
        Fault::new("server_tells_nothing", &["server_tells_product_and_version"])
            .server(|_| async { Ok(ServerInfo::new("", "")) }),
        Fault::new("deadlines_are_ignored", &["calls_end_by_their_deadline"]).put(
            |store, key, value, options: PutOptions| async move {
                if options.timeout.is_some() {
                    tokio::time::sleep(Duration::from_secs(10)).await;
                }
                store.put_with(&key, value, options).await
            },
        ),
        Fault::new("a_long_deadline_overflows", &["times_without_end_are_taken"]).get(
            |store, key, options| async move {
                // Panics.
                let _deadline = options.timeout.map(|timeout| std::time::Instant::now() + timeout);
                store.get_with(&key, options).await
            },
        ),
        Fault::new("a_long_wait_is_none", &["times_without_end_are_taken"]).lock(
            |store, key, mut options| async move {
                if let LockWait::UpTo(wait) = options.wait
                    && std::time::Instant::now().checked_add(wait).is_none()
                {
                    options.wait = LockWait::Try;
                }
                store.lock_with(&key, options).await
            },
        ),
        Fault::new("a_dropped_get_breaks_the_handle", &["dropped_futures_harm_nothing"])
            .get(move |store, key, options| {
                let broken = Arc::clone(&broken);
                async move {
                    if with(&broken, |broken| *broken) {
                        return Err(ErrorKind::Unavailable.into());
                    }
                    let mut breaks = Breaks(broken, true);
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    let found = store.get_with(&key, options).await;
                    breaks.1 = false;
                    found
                }
            })
            .delete(|store, key, options| async move { store.delete_with(&key, options).await }),
        Fault::new("a_dropped_list_breaks_the_watches", &["dropped_futures_harm_nothing"]).list({
            let broken: Shared<bool> = shared();
            move |store, prefix, options| {
                let broken = Arc::clone(&broken);
                async move {
                    if with(&broken, |broken| *broken) {
                        return Err(ErrorKind::Unavailable.into());
                    }
                    let mut breaks = Breaks(broken, true);
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    let listing = store.list_with(&prefix, options).await;
                    breaks.1 = false;
                    listing
                }
            }
        }),
    ];
    faults.extend(words());
    faults.extend(declarations());
    faults
}

fn words() -> Vec<Fault> {
    vec![
        failing("errors_name_nothing", &["errors_name_what_failed"], |error, _| {
            Error::new(error.kind().clone())
        }),
        failing(
            "a_refusal_may_have_been_applied",
            &["refusals_are_definite", "larger_value_is_refused"],
            |error, _| error.maybe_applied(),
        ),
        failing("errors_repeat_values", &["errors_do_not_repeat_values"], |error, value| {
            let value = String::from_utf8_lossy(&value[..value.len().min(100)]).into_owned();
            error.with_detail(format!("the value {value:?} was refused"))
        }),
        Fault::new("transaction_errors_name_nothing", &["transaction_errors_name_what_failed"]).transact(
            |store, txn| async move {
                let transact = store.as_transact().expect("the memory store has transactions");
                transact.transact_with(txn).await.map_err(|error| Error::new(error.kind().clone()))
            },
        ),
        Fault::new("refusals_name_the_wrong_key", &["errors_name_what_failed"]).put(
            |store, key, value, options| async move {
                let answer = store.put_with(&key, value, options).await;
                answer.map_err(|error| {
                    Error::new(error.kind().clone())
                        .with_operation(Operation::Put)
                        .with_backend("mem")
                        .with_key(Key::new("other").unwrap().as_str())
                })
            },
        ),
    ]
}

fn declares(
    name: &'static str,
    caught_by: &'static [&'static str],
    change: fn(Capabilities) -> Capabilities,
) -> Fault {
    Fault::new(name, caught_by).capabilities(change)
}

fn declarations() -> Vec<Fault> {
    let opened: Shared<usize> = shared();
    vec![
        declares(
            "the_backend_has_no_name",
            &["backend_name_is_told", "errors_name_what_failed"],
            |mut declared| {
                declared.backend = "";
                declared
            },
        ),
        declares("the_bound_ends_before_the_ttl", &["limits_make_sense"], |mut declared| {
            declared.limits.ttl_bound = ExpiryBound::new(0, Duration::from_millis(1));
            declared
        }),
        declares("expiry_is_changed_where_nothing_expires", &["powers_make_sense"], |declared| {
            declared.without_power(Power::Ttl).without_power(Power::SessionKeys)
        }),
        Fault::new("each_handle_declares_something_else", &["capabilities_are_constant"]).capabilities(
            move |mut declared| {
                declared.limits.max_value += with(&opened, |opened| std::mem::replace(opened, *opened + 1));
                declared
            },
        ),
    ]
}
