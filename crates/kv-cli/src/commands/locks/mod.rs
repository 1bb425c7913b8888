//! Locks as they look from outside: who holds which, how that changes, and the end of a hold.

mod end;
pub(super) mod holder;
mod list;
mod view;
mod watch;

use kv_core::Operation;

use crate::cli::{Lock, Locks};
use crate::exit::Failure;
use crate::session::Session;

/// `kv locks`.
pub(crate) async fn run(session: &Session, args: Locks) -> Result<(), Failure> {
    match args.watch {
        Some(key) => watch::run(session, &key, args.count).await,
        None => list::run(session, &args.prefix).await,
    }
}

/// `kv lock` where it runs no command.
pub(crate) async fn one(session: &Session, args: Lock) -> Result<(), Failure> {
    let key = super::key(&args.key, if args.ends { Operation::BreakLock } else { Operation::LockHolder })?;
    if args.ends {
        return end::run(session, &key, args.token, args.yes).await;
    }
    holder::run(session, &key).await
}
