//! What somebody meant who named a key where its folder is, or a folder where its key is.

use futures_util::TryStreamExt;
use kv_core::{GetOptions, Key, ListOptions, Operation, Prefix, StoreExt};

use super::word;
use crate::exit::Failure;
use crate::output::say;
use crate::session::Session;

/// More keys than this below one that is not there are not counted.
const COUNTED: usize = 10_000;
/// Of so many keys that are not there it is told what is below them: each costs a list.
pub(super) const TOLD: usize = 8;

/// What is below a key that is not there, where something is: `3 keys below it: kv ls deep`.
pub(super) async fn below(session: &Session, key: &Key) -> Option<String> {
    let keys = match count(session, &key.as_prefix()).await {
        Ok(0) => return None,
        Ok(1) => "1 key".to_owned(),
        Ok(COUNTED) => format!("more than {COUNTED} keys"),
        Ok(count) => format!("{count} keys"),
        // That the key is not there is certain.
        Err(error) => {
            tracing::debug!(%error, "what is below the key cannot be counted");
            return None;
        }
    };
    Some(format!("{keys} below it: kv ls {}", word(key.as_str())))
}

/// Keys that are not there, in words, with what is below the first of them.
pub(super) async fn missing(session: &Session, keys: &[&Key]) -> String {
    let mut words = Vec::new();
    for (at, key) in keys.iter().enumerate() {
        let below = if at < TOLD { below(session, key).await } else { None };
        words.push(match below {
            Some(below) => format!("{key:?} ({below})"),
            None => format!("{key:?}"),
        });
    }
    words.join(", ")
}

/// Says so where a prefix with nothing below it is a key.
pub(super) async fn tell_entry(session: &Session, prefix: &Prefix) {
    let Ok(key) = Key::new(prefix.as_str()) else { return };
    let mut options = GetOptions::default();
    options.timeout = session.timeout();
    let found = match session.store().await {
        Ok(store) => session.request(Operation::Get, key.as_str(), store.get_with(&key, options)).await,
        Err(_) => return,
    };
    match found {
        Ok(Some(_)) => {
            say(&format!("kv: nothing is below {key:?}; it is an entry: kv get {}", word(key.as_str())));
        }
        Ok(None) => {}
        // That nothing is below it is certain.
        Err(error) => tracing::debug!(%error, "whether the prefix is an entry cannot be read"),
    }
}

async fn count(session: &Session, prefix: &Prefix) -> Result<usize, Failure> {
    let mut options = ListOptions::default().with_keys_only().with_limit(COUNTED);
    options.timeout = session.timeout();
    let listing = session.store().await?.list_with(prefix, options);
    let listing = session.request(Operation::List, prefix.as_str(), listing).await?;
    Ok(listing.try_fold(0, |count, _| std::future::ready(Ok(count + 1))).await?)
}
