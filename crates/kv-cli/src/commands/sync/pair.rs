//! The two places that are compared.

use std::sync::Arc;
use std::time::Duration;

use kv_core::{Entry, Key, Operation, Prefix, Store, StoreUrl};

use super::steps::{Place, Steps};
use crate::commands::expiry;
use crate::contexts::Named;
use crate::exit::Failure;
use crate::session::{self, Session};
use crate::{commands, server};

/// Two places and what of them is compared.
pub(super) struct Pair {
    pub(super) source: Arc<dyn Store>,
    pub(super) destination: Arc<dyn Store>,
    from: Place,
    to: Place,
    /// Whether it matters when entries of the source expire.
    keep_ttl: bool,
    pub(super) timeout: Option<Duration>,
}

impl Pair {
    /// Opens two stores, which must lie `apart` where one is to be changed. What lies below the first prefix
    /// in the one belongs below the second in the other.
    pub(super) async fn open(
        session: &Session,
        source: String,
        destination: String,
        (from, to): (Prefix, Prefix),
        apart: bool,
        keep_ttl: bool,
    ) -> Result<Self, Failure> {
        let named = |argument| session::url_of(Some(Named::new(argument)?));
        let (source, destination) = (named(source)?, named(destination)?);
        let places = [(StoreUrl::parse(&source.url)?, &from), (StoreUrl::parse(&destination.url)?, &to)];
        if apart && server::overlap(&places[0], &places[1]) {
            return Err(Failure::Usage(
                "the source and the destination lie within each other: a copy would be copied again"
                    .to_owned(),
            ));
        }
        let source = session.other(&source).await?;
        let destination = session.other(&destination).await?;
        let (from, to) = (Place::below(from), Place::below(to));
        Ok(Self { source, destination, from, to, keep_ttl, timeout: session.timeout() })
    }

    /// Two trees of one store, each with the entry of its own name.
    pub(super) async fn within(session: &Session, from: &Key, to: &Key) -> Result<Self, Failure> {
        let store = session.store().await?;
        Ok(Self {
            source: store.clone(),
            destination: store.clone(),
            from: Place::tree(from),
            to: Place::tree(to),
            keep_ttl: true,
            timeout: session.timeout(),
        })
    }

    /// Begins to compare.
    pub(super) async fn steps(&self) -> Result<Steps, Failure> {
        let source = (&*self.source, self.from.clone());
        Steps::begin(source, (&*self.destination, self.to.clone()), self.keep_ttl, self.timeout).await
    }

    /// Why the destination cannot have this entry, as far as is known before it is put.
    pub(super) fn refusal(&self, entry: &Entry) -> Option<String> {
        let declared = self.destination.capabilities();
        let (bytes, limit) = (entry.value.len(), declared.limits.max_value);
        if bytes > limit {
            return Some(format!("too large: {bytes} bytes, the limit is {limit}"));
        }
        if self.keep_ttl { expiry::of_entry(entry.expiry, declared).err() } else { None }
    }
}

/// The prefixes of `FROM=TO`.
pub(super) fn mapped(map: &str) -> Result<(Prefix, Prefix), Failure> {
    let mut parts = map.split('=');
    let (Some(from), Some(to), None) = (parts.next(), parts.next(), parts.next()) else {
        return Err(Failure::Usage(format!(
            "--prefix-map is FROM=TO, two prefixes with one = between them, and not {map:?}"
        )));
    };
    Ok((commands::prefix(from, Operation::List)?, commands::prefix(to, Operation::Put)?))
}
