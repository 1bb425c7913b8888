//! Reads of one key.

use kv_core::{Consistency, Entry, GetOptions, Key, Result};

use super::ttl;
use crate::client::{Range, Read};
use crate::env::Env;
use crate::record;

/// See [`kv_core::Store::get_opts`].
pub(crate) async fn get(env: &Env, key: &Key, options: GetOptions) -> Result<Option<Entry>> {
    env.capabilities.admit_get(key, &options)?;
    env.check_open()?;
    let deadline = env.deadline(options.timeout);
    let mut read = Read::new(Range::one(env.namespace.native(key)));
    read.stale = options.consistency == Consistency::Stale;
    loop {
        let page = env.client.read(deadline, &read).await?;
        let Some(record) = page.records.into_iter().next() else { return Ok(None) };
        let lease = record.lease;
        let Some(entry) = record::entry(&env.namespace, record) else { return Ok(None) };
        if !options.expiry {
            return Ok(Some(entry));
        }
        match ttl::of_lease(&env.client, deadline, lease).await? {
            Some(expiry) => return Ok(Some(entry.with_expiry(expiry))),
            None => ttl::expiring(deadline).await?,
        }
    }
}
