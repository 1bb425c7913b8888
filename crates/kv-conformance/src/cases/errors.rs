//! Errors and declarations: what they say, and what they must not.

use std::error::Error as _;
use std::time::Duration;

use anyhow::{Result, ensure};
use bytes::Bytes;
use kv_core::{
    Applied, Capabilities, Error, ErrorKind, Operation, Power, Precondition, StoreExt, Txn, TxnOp, Version,
};

use crate::case::needs::TRANSACTIONS;
use crate::case::{Case, case};
use crate::fixture::Fixture;
use crate::steps::{delete_if, ensure_eq, key, lock, put_if, refused, try_lock};

pub(super) const CASES: &[Case] = &[
    case!(errors_name_what_failed, "An error names operation, backend and key."),
    case!(transaction_errors_name_what_failed, "So does an error of a transaction.", TRANSACTIONS),
    case!(refusals_are_definite, "A refusal is sure that nothing was applied."),
    case!(errors_do_not_repeat_values, "No error repeats a value."),
    case!(backend_name_is_told, "Capabilities name the backend."),
    case!(limits_make_sense, "The declared limits make sense."),
    case!(powers_make_sense, "The declared powers make sense together."),
    case!(capabilities_are_constant, "Capabilities are the same for every handle, all its life."),
];

async fn refusals(fixture: &Fixture, value: &str) -> Result<Vec<(Error, Operation, &'static str)>> {
    let store = &fixture.store;
    let (existing, absent) = (key("dir/existing")?, key("dir/absent")?);
    store.put(&existing, value.to_owned()).await?;
    let value = || Bytes::from(value.to_owned());
    let guard = lock(store, &key("dir/lock")?).await?;
    let wrong = Precondition::Value([value(), Bytes::from("-other")].concat().into());
    let mut refusals = vec![
        (
            refused!(
                put_if(store, &existing, value(), Precondition::Absent).await,
                ErrorKind::AlreadyExists { .. },
                "create"
            ),
            Operation::Put,
            "dir/existing",
        ),
        (
            refused!(
                put_if(store, &absent, value(), Precondition::Present).await,
                ErrorKind::NotFound,
                "update"
            ),
            Operation::Put,
            "dir/absent",
        ),
        (
            refused!(
                put_if(store, &existing, value(), Precondition::At(Version::ZERO)).await,
                ErrorKind::PreconditionFailed { .. },
                "compare-and-set"
            ),
            Operation::Put,
            "dir/existing",
        ),
        (
            refused!(
                put_if(store, &existing, value(), wrong.clone()).await,
                ErrorKind::PreconditionFailed { .. },
                "compare-and-set of a value"
            ),
            Operation::Put,
            "dir/existing",
        ),
        (
            refused!(
                delete_if(store, &existing, wrong).await,
                ErrorKind::PreconditionFailed { .. },
                "compare-and-delete"
            ),
            Operation::Delete,
            "dir/existing",
        ),
        (
            refused!(delete_if(store, &absent, Precondition::Present).await, ErrorKind::NotFound, "delete"),
            Operation::Delete,
            "dir/absent",
        ),
        (
            refused!(try_lock(store, guard.key()).await, ErrorKind::Locked, "a try of a held lock"),
            Operation::Lock,
            "dir/lock",
        ),
    ];
    let max = fixture.limits().max_value;
    if max < 64 << 20 {
        let mut large = value().to_vec();
        large.resize(max + 1, b'x');
        let error = refused!(store.put(&absent, large).await, ErrorKind::TooLarge { .. }, "a large value");
        refusals.push((error, Operation::Put, "dir/absent"));
    }
    guard.unlock().await?;
    Ok(refusals)
}

/// Catches errors that tell nothing but their kind.
async fn errors_name_what_failed(fixture: &Fixture) -> Result<()> {
    let backend = fixture.capabilities().backend;
    for (error, operation, key) in refusals(fixture, "value").await? {
        ensure_eq!(error.operation(), Some(operation), "the operation of {error}");
        ensure_eq!(error.backend(), Some(backend), "the backend of {error}");
        ensure_eq!(error.key(), Some(key), "the key of {error}");
        let text = error.to_string();
        ensure!(
            text.contains(key) && text.contains(backend),
            "the words do not name key and backend: {text}"
        );
    }
    Ok(())
}

async fn transaction_errors_name_what_failed(fixture: &Fixture) -> Result<()> {
    let k = key("dir/k")?;
    let twice = Txn::always().then([TxnOp::put(&k, "1"), TxnOp::put(&k, "2")]);
    let error = refused!(
        fixture.store.transact(twice).await,
        ErrorKind::InvalidArgument { .. },
        "a key written twice"
    );
    ensure_eq!(error.operation(), Some(Operation::Transact), "the operation of {error}");
    ensure_eq!(error.backend(), Some(fixture.capabilities().backend), "the backend of {error}");
    ensure_eq!(error.key(), Some("dir/k"), "the key of {error}");
    Ok(())
}

/// Catches a network error that becomes `AlreadyExists`, and a conflict that becomes `NotFound`.
async fn refusals_are_definite(fixture: &Fixture) -> Result<()> {
    for (error, ..) in refusals(fixture, "value").await? {
        ensure_eq!(error.applied(), Applied::No, "whether it was applied: {error}");
        ensure!(!error.is_transient(), "a refusal is told as transient: {error}");
    }
    Ok(())
}

async fn errors_do_not_repeat_values(fixture: &Fixture) -> Result<()> {
    const CANARY: &str = "canary-5ca1ab1e";
    for (error, ..) in refusals(fixture, CANARY).await? {
        let mut texts = vec![error.to_string(), format!("{error:?}")];
        let mut source = error.source();
        while let Some(cause) = source {
            texts.push(format!("{cause} {cause:?}"));
            source = cause.source();
        }
        let base64 = "Y2FuYXJ5LTVjYTFhYjFl";
        let told = texts.iter().find(|text| text.contains(CANARY) || text.contains(base64));
        ensure!(told.is_none(), "an error repeats the value: {told:?}");
    }
    Ok(())
}

async fn backend_name_is_told(fixture: &Fixture) -> Result<()> {
    let name = fixture.capabilities().backend;
    ensure!(!name.is_empty() && !name.contains(char::is_whitespace), "the backend's name is {name:?}");
    Ok(())
}

async fn limits_make_sense(fixture: &Fixture) -> Result<()> {
    let limits = fixture.limits();
    ensure!(limits.max_value >= 1024, "max_value is {}", limits.max_value);
    let mut ranges = vec![("lock_ttl", limits.lock_ttl)];
    if fixture.capabilities().has(Power::Ttl) {
        ranges.push(("ttl", limits.ttl));
        ensure!(
            limits.ttl_bound.factor >= 1,
            "ttl_bound ends before the time to live: {:?}",
            limits.ttl_bound
        );
    }
    for (name, range) in ranges {
        ensure!(
            range.min > Duration::ZERO && range.min <= range.max && range.granularity > Duration::ZERO,
            "{name} is {range:?}"
        );
    }
    if fixture.capabilities().has(Power::Transactions) {
        ensure!(limits.max_txn_ops >= 2, "max_txn_ops is {}", limits.max_txn_ops);
        ensure!(limits.max_txn_bytes >= 1024, "max_txn_bytes is {}", limits.max_txn_bytes);
    }
    Ok(())
}

async fn powers_make_sense(fixture: &Fixture) -> Result<()> {
    let has = |power| fixture.capabilities().has(power);
    let expires = has(Power::Ttl) || has(Power::SessionKeys);
    for power in [Power::ExpiryChange, Power::ExpiryWithChildren] {
        ensure!(expires || !has(power), "{} is declared, but no key can expire", power.name());
    }
    Ok(())
}

async fn capabilities_are_constant(fixture: &Fixture) -> Result<()> {
    let other = fixture.another().await?;
    let before: Capabilities = fixture.capabilities().clone();
    ensure_eq!(other.capabilities(), &before, "the capabilities of another handle");
    other.put("k", "x").await?;
    other.close().await?;
    ensure_eq!(other.capabilities(), &before, "the capabilities of a closed handle");
    ensure_eq!(fixture.capabilities(), &before, "the capabilities later");
    Ok(())
}
