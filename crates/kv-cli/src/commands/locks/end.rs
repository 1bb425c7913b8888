//! `kv lock --break`: one hold is ended from outside, by its token.

use kv_core::{BreakLockOptions, FencingToken, Key, LockHolder, Operation};
use serde::Serialize;

use super::holder;
use super::view::view;
use crate::ask;
use crate::exit::{self, Failure};
use crate::output::{Format, Output};
use crate::session::Session;

#[derive(Serialize)]
struct Broken<'b> {
    key: &'b str,
    token: u64,
    broken: bool,
}

pub(super) async fn run(
    session: &Session,
    key: &Key,
    token: Option<FencingToken>,
    yes: bool,
) -> Result<(), Failure> {
    let store = session.store().await?;
    let view = view(&**store, Operation::BreakLock)?;
    let Some(present) = holder::present(session, key).await? else { return Err(holder::nobody(key)) };
    let token = token.unwrap_or(present.token);
    if token != present.token {
        return Err(other_holder(key, token, Some(&present)));
    }
    if !yes {
        let who = holder::words(&present);
        if !ask::can() {
            return Err(Failure::Usage(format!(
                "the lock {key:?} is held by {who}, which may still be at work: --yes ends its hold"
            )));
        }
        let question = format!("End the hold of {key:?} by {who}? It may still be at work.");
        if !ask::yes(question).await? {
            return Err(Failure::Incomplete {
                message: "the lock was left as it is".to_owned(),
                code: exit::OTHER,
            });
        }
    }
    let mut options = BreakLockOptions::default();
    options.timeout = session.timeout();
    let broken = view.break_lock_with(key, token, options);
    if !session.request(Operation::BreakLock, key.as_str(), broken).await? {
        return Err(other_holder(key, token, holder::present(session, key).await?.as_ref()));
    }
    let mut out = Output::stdout();
    match session.output() {
        Some(Format::Json | Format::Jsonl) => {
            out.json(&Broken { key: key.as_str(), token: token.get(), broken: true })?;
        }
        Some(Format::Table) | None => out.line(&format!("ended the hold of {}", holder::words(&present)))?,
    }
    out.flush()
}

/// The hold that was to be ended is over already, and nothing was changed.
fn other_holder(key: &Key, token: FencingToken, present: Option<&LockHolder>) -> Failure {
    let now = match present {
        Some(holder) => format!("it is held by {}", holder::words(holder)),
        None => "nobody holds it".to_owned(),
    };
    Failure::Incomplete {
        message: format!("lock {key:?}: token {token} does not hold it: {now}; nothing was changed"),
        code: exit::CONFLICT,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use kv_core::{LockLoss, LockOptions, Store, StoreExt};

    use super::*;
    use crate::session::tests::session;

    /// A session and a second handle on the same store, as only a process can have that is both.
    async fn both(name: &str) -> (Session, Arc<dyn Store>) {
        let url = format!("mem:{name}");
        (session(&url), kv_any::open(&url).await.unwrap())
    }

    #[tokio::test]
    async fn a_hold_is_ended_by_its_token_and_by_no_other() {
        let (session, store) = both("cli-break").await;
        let key = Key::new("jobs/nightly").unwrap();
        let code = |done: Result<(), Failure>| done.map_or_else(|failure| failure.code(), |()| 0);

        assert_eq!(code(run(&session, &key, None, true).await), exit::NOT_FOUND);
        let guard = store.lock_with(&key, LockOptions::default().with_owner("me")).await.unwrap();
        let other = FencingToken::new(guard.token().get() + 1);
        // Where nobody can be asked it is left alone without --yes.
        if !ask::can() {
            let refused = run(&session, &key, None, false).await.unwrap_err();
            assert_eq!(refused.code(), exit::USAGE);
            assert!(refused.to_string().contains("is held by me (token "), "{refused}");
        }
        assert_eq!(code(run(&session, &key, Some(other), true).await), exit::CONFLICT);
        assert!(guard.is_held());
        assert_eq!(code(run(&session, &key, Some(guard.token()), true).await), 0);
        assert_eq!(guard.lost().await, LockLoss::Removed);
        assert!(store.lock_holder(&key).await.unwrap().is_none());
    }
}
