//! Preconditions that are ignored, always refused, or checked too early.

use std::sync::Arc;

use kv_core::{DeleteResult, Error, ErrorKind, Key, Precondition, PutResult, Store, StoreExt, Version};

use super::Fault;
use super::tools::{BTreeSet, Shared, pause, put_any, shared, with};

type Judge = fn(&Precondition) -> bool;

const ABSENT: Judge = |precondition| *precondition == Precondition::Absent;
const PRESENT: Judge = |precondition| *precondition == Precondition::Present;
const AT: Judge = |precondition| matches!(precondition, Precondition::At(_));
const VALUE: Judge = |precondition| matches!(precondition, Precondition::Value(_));

/// A put and a delete that ignore some preconditions.
fn ignores(name: &'static str, caught_by: &'static [&'static str], ignored: Judge) -> Fault {
    Fault::new(name, caught_by)
        .put(move |store, key, value, mut options| async move {
            if ignored(&options.precondition) {
                options.precondition = Precondition::Any;
            }
            store.put_with(&key, value, options).await
        })
        .delete(move |store, key, mut options| async move {
            if ignored(&options.precondition) {
                options.precondition = Precondition::Any;
            }
            store.delete_with(&key, options).await
        })
}

/// A put and a delete that refuse some preconditions whatever is there.
fn refuses(
    name: &'static str,
    caught_by: &'static [&'static str],
    refused: Judge,
    error: fn() -> ErrorKind,
) -> Fault {
    Fault::new(name, caught_by)
        .put(move |store, key, value, options| async move {
            if refused(&options.precondition) {
                return Err(error().into());
            }
            store.put_with(&key, value, options).await
        })
        .delete(move |store, key, options| async move {
            if refused(&options.precondition) {
                return Err(error().into());
            }
            store.delete_with(&key, options).await
        })
}

/// A put and a delete that check a precondition first and write later.
fn checks_first(name: &'static str, caught_by: &'static [&'static str], checked: Judge) -> Fault {
    async fn holds(store: &Arc<dyn Store>, key: &Key, precondition: &Precondition) -> kv_core::Result<bool> {
        let found = store.get(key).await?;
        Ok(match precondition {
            Precondition::Absent => found.is_none(),
            Precondition::At(version) => found.is_some_and(|entry| entry.version == *version),
            Precondition::Value(value) => found.is_some_and(|entry| entry.value == *value),
            _ => true,
        })
    }
    Fault::new(name, caught_by)
        .put(move |store, key, value, mut options| async move {
            if checked(&options.precondition) && holds(&store, &key, &options.precondition).await? {
                pause(1).await;
                options.precondition = Precondition::Any;
            }
            store.put_with(&key, value, options).await
        })
        .delete(move |store, key, mut options| async move {
            if checked(&options.precondition) && holds(&store, &key, &options.precondition).await? {
                pause(1).await;
                options.precondition = Precondition::Any;
            }
            store.delete_with(&key, options).await
        })
}

pub(super) fn faults() -> Vec<Fault> {
    let failed = || ErrorKind::PreconditionFailed { current: None };
    let mut faults = vec![
        ignores(
            "absent_is_ignored",
            &["absent_refuses_an_existing_key", "delete_absent_needs_no_key", "one_creator_wins"],
            ABSENT,
        ),
        ignores(
            "present_is_ignored",
            &["present_refuses_an_absent_key", "delete_present_needs_the_key"],
            PRESENT,
        ),
        ignores(
            "at_is_ignored",
            &["at_refuses_another_version", "delete_at_a_version", "one_deleter_wins"],
            AT,
        ),
        ignores("value_is_ignored", &["value_refuses_another_value", "delete_of_a_value"], VALUE),
        refuses("present_always_fails", &["present_replaces"], PRESENT, || ErrorKind::NotFound),
        refuses("at_always_fails", &["at_replaces_that_version"], AT, failed),
        refuses("value_always_fails", &["value_replaces_that_value"], VALUE, failed),
        checks_first("absent_is_checked_first", &["one_creator_wins"], ABSENT),
        checks_first("at_is_checked_first", &["version_counter_loses_no_increment", "one_deleter_wins"], AT),
        checks_first("value_is_checked_first", &["value_counter_loses_no_increment"], VALUE),
    ];
    faults.extend(on_absent_keys());
    faults.extend(refusals_that_write());
    faults.extend(plain_writes());
    faults
}

fn on_absent_keys() -> [Fault; 3] {
    let gone: Shared<BTreeSet<Key>> = shared();
    let buried = Arc::clone(&gone);
    [
        Fault::new("at_creates", &["at_refuses_an_absent_key"]).put(
            |store, key, value, mut options| async move {
                if AT(&options.precondition) && !store.exists(&key).await? {
                    options.precondition = Precondition::Any;
                }
                store.put_with(&key, value, options).await
            },
        ),
        Fault::new(
            "an_absent_key_has_the_empty_value",
            &["value_refuses_an_absent_key", "empty_value_is_not_absent"],
        )
        .put(|store, key, value, mut options| async move {
            if options.precondition == Precondition::Value("".into()) && !store.exists(&key).await? {
                options.precondition = Precondition::Absent;
            }
            store.put_with(&key, value, options).await
        }),
        Fault::new("a_deleted_key_still_exists_for_absent", &["absent_creates"])
            .delete(move |store, key, options| {
                let buried = Arc::clone(&buried);
                async move {
                    with(&buried, |gone| gone.insert(key.clone()));
                    store.delete_with(&key, options).await
                }
            })
            .put(move |store, key, value, options| {
                let gone = Arc::clone(&gone);
                async move {
                    if ABSENT(&options.precondition) && with(&gone, |gone| gone.contains(&key)) {
                        return Err(ErrorKind::AlreadyExists { current: None }.into());
                    }
                    store.put_with(&key, value, options).await
                }
            }),
    ]
}

/// Writes the entry again after a refusal.
async fn touch<T>(store: &Arc<dyn Store>, key: &Key, answer: kv_core::Result<T>) -> kv_core::Result<T> {
    if answer.as_ref().is_err_and(Error::is_conflict)
        && let Some(entry) = store.get(key).await?
    {
        put_any(store, key, &entry).await?;
    }
    answer
}

fn refusals_that_write() -> [Fault; 2] {
    [
        Fault::new("a_refused_put_touches", &["refused_put_changes_nothing", "refused_put_keeps_the_ttl"])
            .put(|store, key, value, options| async move {
                let answer = store.put_with(&key, value, options).await;
                touch(&store, &key, answer).await
            }),
        Fault::new("a_refused_delete_touches", &["refused_delete_changes_nothing"]).delete(
            |store, key, options| async move {
                let answer = store.delete_with(&key, options).await;
                touch(&store, &key, answer).await
            },
        ),
    ]
}

fn plain_writes() -> Vec<Fault> {
    let making: Shared<BTreeSet<String>> = shared();
    vec![
        Fault::new("put_keeps_the_old_value", &["put_creates_and_replaces"]).put(
            |store, key, value, options| async move {
                match store.get(&key).await? {
                    Some(entry) => store.put_with(&key, entry.value, options).await,
                    None => store.put_with(&key, value, options).await,
                }
            },
        ),
        Fault::new("creates_collide_at_a_new_parent", &["concurrent_creates_below_a_new_parent"]).put(
            move |store, key, value, options| {
                let making = Arc::clone(&making);
                async move {
                    let parent = key.segments().next().unwrap().to_owned();
                    if !with(&making, |making| making.insert(parent.clone())) {
                        return Err(ErrorKind::NotFound.into());
                    }
                    pause(1).await;
                    let put = store.put_with(&key, value, options).await;
                    with(&making, |making| making.remove(&parent));
                    put
                }
            },
        ),
        Fault::new("delete_deletes_nothing", &["delete_removes_the_entry"]).delete(
            |store, key, options| async move {
                let found = store.get(&key).await?;
                let existed = found.is_some();
                let mut deleted = DeleteResult::deleted(found.filter(|_| options.previous));
                deleted.existed = existed;
                Ok(deleted)
            },
        ),
        Fault::new("delete_needs_the_key", &["delete_of_an_absent_key_is_no_error"]).delete(
            |store, key, options| async move {
                let deleted = store.delete_with(&key, options).await?;
                if deleted.existed { Ok(deleted) } else { Err(ErrorKind::NotFound.into()) }
            },
        ),
        Fault::new("delete_tells_no_previous", &["delete_returns_the_previous_entry"]).delete(
            |store, key, options| async move {
                let mut deleted = store.delete_with(&key, options).await?;
                deleted.previous = None;
                Ok(deleted)
            },
        ),
        Fault::new("delete_looks_first", &["one_delete_finds_the_key"]).delete(
            |store, key, options| async move {
                let existed = store.exists(&key).await?;
                pause(1).await;
                let mut deleted = store.delete_with(&key, options).await?;
                deleted.existed = existed;
                Ok(deleted)
            },
        ),
        Fault::new("put_answers_and_writes_later", &["reads_see_acknowledged_writes"]).put(
            |store, key, value, options| async move {
                tokio::spawn(async move {
                    pause(5).await;
                    let _ = store.put_with(&key, value, options).await;
                });
                Ok(PutResult::new(Version::new(1)))
            },
        ),
    ]
}
