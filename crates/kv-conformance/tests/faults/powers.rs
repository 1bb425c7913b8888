//! Powers that are not what they are declared to be.

use std::sync::Arc;

use kv_core::{
    Consistency, EntryExpiry, Error, Expiry, GetOptions, Key, Power, Result, Store, StoreExt, Watch,
    WatchStart, WatchTarget,
};

use super::Fault;
use super::tools::has_children;

/// Declared absent, and it works all the same.
fn works(name: &'static str, caught_by: &'static [&'static str], power: Power) -> Fault {
    Fault::new(name, caught_by).dishonest().capabilities(move |declared| declared.without_power(power))
}

pub(super) fn faults() -> Vec<Fault> {
    vec![
        works(
            "transactions_are_not_declared",
            &["txn_runs_then", "transact_power_is_declared"],
            Power::Transactions,
        ),
        works("ttl_is_not_declared", &["ttl_is_not_early", "put_makes_permanent"], Power::Ttl),
        works("session_keys_are_not_declared", &["session_key_goes_at_close"], Power::SessionKeys),
        works("expiry_change_is_not_declared", &["put_makes_permanent"], Power::ExpiryChange),
        works("keep_expiry_is_not_declared", &["keeping_none_makes_permanent"], Power::KeepExpiry),
        works(
            "expiry_with_children_is_not_declared",
            &["expiring_key_can_have_children"],
            Power::ExpiryWithChildren,
        ),
        works("fenced_writes_are_not_declared", &["fenced_writes_apply_while_held"], Power::FencedWrites),
        works("watch_history_is_not_declared", &["watch_from_a_version"], Power::WatchHistory),
        works("stale_reads_are_not_declared", &["stale_reads_answer"], Power::StaleReads),
        works("list_expiry_is_not_declared", &["list_tells_expiries"], Power::ListExpiry),
        works("an_option_that_came_later_is_ignored", &["list_tells_expiries"], Power::ListExpiry).list(
            |store, prefix, mut options| async move {
                options.expiry = false;
                store.list_with(&prefix, options).await
            },
        ),
        works("lock_view_is_not_declared", &["held_locks_are_listed"], Power::LockView),
        works("history_is_not_declared", &["history_reads_a_key_as_it_was"], Power::History),
        works("ttl_is_refused_after_the_put", &["ttl_is_not_late"], Power::Ttl).put(
            |store, key, value, mut options| async move {
                if matches!(options.expiry, Expiry::Ttl(_)) {
                    options.expiry = Expiry::Never;
                    store.put_with(&key, value, options).await?;
                    return Err(Error::lacks(Power::Ttl));
                }
                store.put_with(&key, value, options).await
            },
        ),
        works("ttl_is_refused_by_another_error", &["ttl_is_not_late"], Power::Ttl).put(
            |store, key, value, options| async move {
                if matches!(options.expiry, Expiry::Ttl(_)) {
                    return Err(Error::invalid_argument("no time to live"));
                }
                store.put_with(&key, value, options).await
            },
        ),
        Fault::new("session_keys_are_declared_and_missing", &["session_key_goes_at_close"]).dishonest().put(
            |store, key, value, options| async move {
                if options.expiry == Expiry::Session {
                    return Err(Error::lacks(Power::SessionKeys));
                }
                store.put_with(&key, value, options).await
            },
        ),
    ]
}

fn refused<T>(power: Power) -> Result<T> {
    Err(Error::lacks(power))
}

/// Whether the entry under `key` is expiring; `None` if there is none.
async fn expiring(store: &Arc<dyn Store>, key: &Key) -> Result<Option<bool>> {
    let found = store.get_with(key, GetOptions::default().with_expiry()).await?;
    Ok(found.map(|entry| entry.expiry != Some(EntryExpiry::Never)))
}

/// No fault: a store that has none of these powers, says so, and refuses them.
pub(crate) fn honest_refusals(name: &'static str, powers: &'static [Power]) -> Fault {
    let lacks = move |power: Power| powers.contains(&power);
    let mut honest = Fault::new(name, &[])
        .capabilities(move |declared| {
            powers.iter().fold(declared, |declared, power| declared.without_power(*power))
        })
        .put(move |store, key, value, options| async move {
            match options.expiry {
                Expiry::Ttl(_) if lacks(Power::Ttl) => return refused(Power::Ttl),
                Expiry::Session if lacks(Power::SessionKeys) => return refused(Power::SessionKeys),
                Expiry::Keep if lacks(Power::KeepExpiry) => return refused(Power::KeepExpiry),
                _ => {}
            }
            if options.fence.is_some() && lacks(Power::FencedWrites) {
                return refused(Power::FencedWrites);
            }
            let keeps = options.expiry == Expiry::Keep;
            if lacks(Power::ExpiryChange)
                && !keeps
                && expiring(&store, &key).await?.is_some_and(|now| now != (options.expiry != Expiry::Never))
            {
                return refused(Power::ExpiryChange);
            }
            if lacks(Power::ExpiryWithChildren) {
                if !keeps && options.expiry != Expiry::Never && has_children(&store, &key).await? {
                    return refused(Power::ExpiryWithChildren);
                }
                if let Some(parent) = key.parent().to_key()
                    && expiring(&store, &parent).await? == Some(true)
                {
                    return refused(Power::ExpiryWithChildren);
                }
            }
            store.put_with(&key, value, options).await
        })
        .delete(move |store, key, options| async move {
            if options.fence.is_some() && lacks(Power::FencedWrites) {
                return refused(Power::FencedWrites);
            }
            store.delete_with(&key, options).await
        })
        .transact(move |store, txn| async move {
            if txn.fence.is_some() && lacks(Power::FencedWrites) {
                return refused(Power::FencedWrites);
            }
            store.transact(txn).await
        })
        .get(move |store, key, options| async move {
            if options.consistency == Consistency::Stale && lacks(Power::StaleReads) {
                return refused(Power::StaleReads);
            }
            store.get_with(&key, options).await
        })
        .list(move |store, prefix, options| async move {
            if options.consistency == Consistency::Stale && lacks(Power::StaleReads) {
                return refused(Power::StaleReads);
            }
            if options.expiry && lacks(Power::ListExpiry) {
                return refused(Power::ListExpiry);
            }
            store.list_with(&prefix, options).await
        })
        .watch(move |store, target, options| async move {
            if matches!(options.start, WatchStart::After(_)) && lacks(Power::WatchHistory) {
                return resync(&store, target).await;
            }
            store.watch_with(target, options).await
        });
    if lacks(Power::Transactions) {
        honest = honest.no_transact();
    }
    if lacks(Power::LockView) {
        honest = honest.no_lock_view();
    }
    if lacks(Power::History) {
        honest = honest.no_history();
    }
    honest
}

/// `Resync`, then what a watch with the entries there are tells.
async fn resync(store: &Arc<dyn Store>, target: WatchTarget) -> Result<Watch> {
    use futures_util::{StreamExt, stream};
    let initial = kv_core::WatchOptions::default().with_initial();
    let watch = store.watch_with(target, initial).await?;
    Ok(Watch::new(stream::iter([Ok(kv_core::WatchEvent::Resync)]).chain(watch)))
}
