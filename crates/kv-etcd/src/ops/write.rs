//! Puts and deletes of one key: one write under its checks, and why it was refused.

use std::sync::Arc;

use bytes::Bytes;
use kv_backend::Deadline;
use kv_core::{DeleteOptions, DeleteResult, Error, Expiry, Key, PutOptions, PutResult, Result};

use super::guards::{self, Guards};
use super::put_lease::PutLease;
use crate::client::error;
use crate::client::{Check, Done, Range, Read, Record, Step, Tree};
use crate::handle::Handle;
use crate::record;

/// The most a value and the one it is compared with may take.
const MAX_VALUES: usize = (3 << 19) - (6 << 10);
/// Up to this size a value is sent for a key that exists and for one that does not, in one request.
const SENT_TWICE: usize = 32 << 10;
/// How often a put whose lease ended before it was used takes another.
const LEASE_ATTEMPTS: usize = 3;

/// See [`kv_core::Store::put_opts`].
pub(crate) async fn put(
    handle: &Arc<Handle>,
    key: &Key,
    value: Bytes,
    options: PutOptions,
) -> Result<PutResult> {
    handle.env.capabilities.admit_put(key, &value, &options)?;
    handle.env.check_open()?;
    guards::check_size(key, &value, &options.precondition, MAX_VALUES)?;
    let deadline = handle.env.deadline(options.timeout);
    let name = handle.env.namespace.native(key);
    let guards = Guards::new([name.as_str()], options.fence.as_ref())?;
    let mut when = guards.checks();
    when.extend(guards::precondition(&name, &options.precondition)?);
    let mut exists = guards::presence(&options.precondition);
    // A large value is not sent for both cases. It is sent as if the key existed, and that is checked.
    let guesses = options.expiry == Expiry::Keep && exists.is_none() && value.len() > SENT_TWICE;
    if guesses {
        exists = Some(true);
    }
    let mut attempt = 0;
    loop {
        attempt += 1;
        let mut lease = PutLease::new(handle, deadline, options.expiry, exists).await?;
        lease.in_flight();
        let mut when = when.clone();
        if guesses {
            when.push(if exists == Some(true) { Check::exists(&*name) } else { Check::absent(&*name) });
        }
        let step = lease.step(&*name, value.clone());
        match write(handle, deadline, &name, &guards, when, step).await {
            Ok(Written::Done(done, revision)) => {
                let granted = lease.used(handle, &name, revision, &done);
                let result = PutResult::new(record::version(revision));
                return Ok(granted.map_or(result, |ttl| result.with_granted_ttl(ttl)));
            }
            Ok(Written::Refused(found)) => {
                lease.unused();
                if !guesses {
                    return Err(guards::refusal(&options.precondition, found.as_ref()));
                }
                // Others may create and delete it all the time.
                deadline.remaining().map_err(Error::not_applied)?;
                exists = Some(found.is_some());
            }
            Err(error) => {
                let again = error::lease_gone(&error) && attempt < LEASE_ATTEMPTS;
                lease.failed(handle, &error);
                if !again {
                    return Err(error);
                }
            }
        }
    }
}

/// See [`kv_core::Store::delete_opts`].
pub(crate) async fn delete(handle: &Handle, key: &Key, options: DeleteOptions) -> Result<DeleteResult> {
    handle.env.capabilities.admit_delete(key, &options)?;
    handle.env.check_open()?;
    let name = handle.env.namespace.native(key);
    let guards = Guards::new([name.as_str()], options.fence.as_ref())?;
    let mut when = guards.checks();
    when.extend(guards::precondition(&name, &options.precondition)?);
    let delete = Step::Delete { range: Range::one(name.clone()), previous: options.previous };
    match write(handle, handle.env.deadline(options.timeout), &name, &guards, when, delete).await? {
        Written::Done(Done::Delete { deleted, previous }, revision) => {
            if deleted == 0 {
                return Ok(DeleteResult::absent());
            }
            handle.leases.detached(name.as_bytes(), revision);
            let previous = previous.into_iter().next();
            Ok(DeleteResult::deleted(
                previous.and_then(|record| record::entry(&handle.env.namespace, record)),
            ))
        }
        Written::Done(..) => Err(error::nonsense("another answer than that of a delete")),
        Written::Refused(found) => Err(guards::refusal(&options.precondition, found.as_ref())),
    }
}

/// Makes one write under its checks.
async fn write(
    handle: &Handle,
    deadline: Deadline,
    name: &str,
    guards: &Guards,
    when: Vec<Check>,
    step: Step,
) -> Result<Written> {
    let or_else = if when.is_empty() {
        Vec::new()
    } else {
        let mut reads = vec![Step::Read(Read::new(Range::one(name)).keys_only())];
        reads.extend(guards.reads());
        reads
    };
    let client = &handle.env.client;
    let mut done = match when.is_empty() {
        true => client.alone(deadline, step).await?,
        false => client.commit(deadline, Tree { when, then: vec![step], or_else }).await?,
    };
    if done.steps.is_empty() {
        return Err(error::nonsense("a transaction without its answers"));
    }
    if done.succeeded {
        return Ok(Written::Done(done.steps.remove(0), done.revision));
    }
    guards.refusal(&done.steps[1..])?;
    let found = guards::first_page(done.steps)?.records.into_iter().next();
    Ok(Written::Refused(found))
}

/// What came of a write.
enum Written {
    Done(Done, i64),
    /// The caller's own condition does not hold: what was found.
    Refused(Option<Record>),
}
