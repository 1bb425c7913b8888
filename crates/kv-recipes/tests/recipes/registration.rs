//! Registrations.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use kv_recipes::kv_core::{EntryExpiry, ErrorKind, GetOptions, Operation, Power, Store, StoreExt};
use kv_recipes::{Lifetime, OnLoss, Registration, RegistrationOptions, RegistrationState};

use crate::common::{Cut, faulty, handles, soon, until, without};

const KEY: &str = "dir/a";

/// Long for a machine that is busy, and short to wait for.
const TTL: Duration = Duration::from_millis(900);

fn stop() -> RegistrationOptions {
    RegistrationOptions::default().with_on_loss(OnLoss::Stop)
}

fn by_ttl() -> RegistrationOptions {
    RegistrationOptions::default().with_lifetime(Lifetime::Ttl(TTL))
}

async fn start(store: &Arc<dyn Store>, value: &'static str, options: RegistrationOptions) -> Registration {
    Registration::start(Arc::clone(store), KEY, value, options).await.unwrap()
}

async fn stored(store: &Arc<dyn Store>) -> Option<(String, EntryExpiry)> {
    let entry = store.get_with(KEY, GetOptions::default().with_expiry()).await.unwrap()?;
    Some((entry.text().unwrap().to_owned(), entry.expiry.unwrap()))
}

fn value_and_session(value: &str) -> Option<(String, EntryExpiry)> {
    Some((value.to_owned(), EntryExpiry::Session))
}

async fn changed(registration: &mut Registration) -> String {
    let state = soon("another state", registration.changed()).await;
    format!("{:?}", state.expect("it has not ended"))
}

#[tokio::test]
async fn it_is_there_until_it_leaves() {
    let [store, other] = handles::<2>();
    store.put(KEY, "left by an earlier run").await.unwrap();
    let registration = start(&store, "1", RegistrationOptions::default()).await;
    assert_eq!(stored(&other).await, value_and_session("1"));
    assert!(registration.is_registered());
    registration.update("2").await.unwrap();
    assert_eq!(stored(&other).await, value_and_session("2"));
    registration.leave().await.unwrap();
    assert_eq!(stored(&other).await, None);
    // Dropped.
    let registration = start(&store, "1", RegistrationOptions::default()).await;
    drop(registration);
    until("the entry is deleted", || async { stored(&other).await.is_none() }).await;
    // Its handle closed.
    let mut registration = start(&store, "1", RegistrationOptions::default()).await;
    store.close().await.unwrap();
    assert_eq!(stored(&other).await, None);
    assert_eq!(changed(&mut registration).await, "Ended(Closed)");
    assert!(!registration.is_registered());
}

#[tokio::test]
async fn an_entry_that_is_deleted_is_put_again() {
    let [store, other] = handles::<2>();
    let mut registration = start(&store, "1", RegistrationOptions::default()).await;
    for value in ["1", "2"] {
        registration.update(value).await.unwrap();
        other.delete(KEY).await.unwrap();
        until("the entry is back", || async { stored(&other).await == value_and_session(value) }).await;
        while changed(&mut registration).await != "Registered" {}
        assert!(registration.is_registered());
    }
    registration.leave().await.unwrap();
    assert_eq!(stored(&other).await, None);
}

#[tokio::test]
async fn an_entry_that_is_deleted_ends_it_where_that_was_asked_for() {
    let [store, other] = handles::<2>();
    let mut registration = start(&store, "1", stop()).await;
    other.delete(KEY).await.unwrap();
    assert_eq!(changed(&mut registration).await, "Ended(Removed)");
    assert!(registration.changed().await.is_none());
    let refused = registration.update("2").await.unwrap_err();
    assert!(matches!(refused.kind(), ErrorKind::NotHeld { .. }));
    assert!(refused.to_string().contains("somebody deleted it"), "{refused}");
    other.put(KEY, "theirs").await.unwrap();
    let refused = registration.leave().await.unwrap_err();
    assert_eq!(
        (refused.kind(), refused.operation()),
        (&ErrorKind::NotHeld { loss: None }, Some(Operation::Delete))
    );
    assert_eq!(stored(&other).await, Some(("theirs".to_owned(), EntryExpiry::Never)));
}

#[tokio::test]
async fn two_of_one_name_do_not_fight() {
    for options in [RegistrationOptions::default(), by_ttl()] {
        let [first, second] = handles::<2>();
        let mut old = start(&first, "old", options).await;
        let new = start(&second, "new", options).await;
        assert_eq!(changed(&mut old).await, "Ended(Replaced)");
        drop(old);
        // Neither the end nor the drop of the old one touches the new one's entry.
        first.close().await.unwrap();
        assert!(new.is_registered());
        assert_eq!(stored(&second).await.unwrap().0, "new");
        new.leave().await.unwrap();
    }
}

#[tokio::test]
async fn a_replacement_while_it_is_lost_is_respected() {
    let [store, other] = handles::<2>();
    let (cut, behind) = Cut::layer(Arc::clone(&store));
    let mut registration = start(&behind, "1", RegistrationOptions::default()).await;
    cut.cut(ErrorKind::Unavailable);
    other.delete(KEY).await.unwrap();
    other.put(KEY, "theirs").await.unwrap();
    cut.mend();
    assert_eq!(changed(&mut registration).await, "Ended(Replaced)");
    assert_eq!(stored(&other).await.unwrap().0, "theirs");
}

#[tokio::test]
async fn a_time_to_live_is_renewed_and_ends_in_an_outage() {
    let [store, other] = handles::<2>();
    let (cut, behind) = Cut::layer(Arc::clone(&store));
    let mut registration = start(&behind, "1", by_ttl()).await;
    let begin = Instant::now();
    let version = || async { other.get(KEY).await.unwrap().expect("it is renewed").version };
    let first = version().await;
    until("three times to live", || async {
        version().await;
        begin.elapsed() > 3 * TTL
    })
    .await;
    assert!(version().await > first && registration.is_registered());
    assert!(registration.changed().now_or_never().is_none());
    registration.update("2").await.unwrap();
    cut.cut(ErrorKind::Unavailable);
    assert_eq!(changed(&mut registration).await, "Rejoining(Expired)");
    assert!(!registration.is_registered());
    until("the entry expires", || async { stored(&other).await.is_none() }).await;
    // An update waits for the entry.
    let mut updating = Box::pin(registration.update("3"));
    assert!(updating.as_mut().now_or_never().is_none());
    cut.mend();
    soon("the update", updating).await.unwrap();
    let (value, expiry) = stored(&other).await.unwrap();
    assert_eq!(value, "3");
    assert!(matches!(expiry, EntryExpiry::Ttl { granted, .. } if granted == TTL), "{expiry:?}");
    assert!(registration.is_registered());
    registration.leave().await.unwrap();
}

#[tokio::test]
async fn lost_answers_neither_end_nor_double_it() {
    for options in
        [RegistrationOptions::default().with_on_loss(OnLoss::Stop), by_ttl().with_on_loss(OnLoss::Stop)]
    {
        let [store, other] = handles::<2>();
        let flaky = faulty(store, |faults| {
            let faults = faults.lose_answer(Operation::Put, 0.4).refuse(Operation::Put, 0.2);
            faults.lose_answer(Operation::Delete, 0.4).refuse(Operation::Get, 0.2)
        });
        let registration = soon("the start", async {
            loop {
                match Registration::start(Arc::clone(&flaky), KEY, "0", options).await {
                    Ok(registration) => return registration,
                    Err(error) => assert!(error.is_transient(), "{error}"),
                }
            }
        })
        .await;
        for value in ["1", "2", "3", "4", "5"] {
            soon("the update", async {
                while let Err(error) = registration.update(value).await {
                    assert!(error.is_transient(), "{error}");
                }
            })
            .await;
            assert_eq!(stored(&other).await.unwrap().0, value);
        }
        assert!(matches!(registration.state(), RegistrationState::Registered), "{:?}", registration.state());
        if registration.leave().await.is_err() {
            until("it goes in the background", || async { stored(&other).await.is_none() }).await;
        }
        assert_eq!(stored(&other).await, None);
    }
}

#[tokio::test]
async fn a_start_that_is_given_up_leaves_nothing() {
    let [store, other] = handles::<2>();
    for _ in 0..20 {
        let starting = Registration::start(Arc::clone(&store), KEY, "1", RegistrationOptions::default());
        assert!(starting.now_or_never().is_none());
        until("the end of its task", || async { Arc::strong_count(&store) == 1 }).await;
        assert_eq!(stored(&other).await, None);
    }
}

#[tokio::test]
async fn what_a_store_cannot_keep_is_refused_before_anything() {
    let [store] = handles::<1>();
    let cases = [
        (Power::SessionKeys, Lifetime::Session),
        (Power::Ttl, Lifetime::Ttl(TTL)),
        (Power::ExpiryChange, Lifetime::Ttl(TTL)),
    ];
    for (power, lifetime) in cases {
        let options = RegistrationOptions::default().with_lifetime(lifetime);
        let refused = Registration::start(without(Arc::clone(&store), power), KEY, "1", options).await;
        let refused = refused.unwrap_err();
        assert!(matches!(refused.kind(), ErrorKind::Unsupported { .. }), "{refused}");
        assert!(refused.to_string().contains(power.name()), "{refused}");
    }
    let options = RegistrationOptions::default().with_lifetime(Lifetime::Ttl(Duration::ZERO));
    let refused = Registration::start(Arc::clone(&store), KEY, "1", options).await.unwrap_err();
    assert!(matches!(refused.kind(), ErrorKind::TtlOutOfRange { .. }), "{refused}");
    assert_eq!(stored(&store).await, None);
}

#[tokio::test]
async fn a_store_that_cannot_change_expiries_is_cleared_first() {
    let [store, other] = handles::<2>();
    store.put(KEY, "left").await.unwrap();
    let store = without(store, Power::ExpiryChange);
    let registration = start(&store, "1", RegistrationOptions::default()).await;
    assert_eq!(stored(&other).await, value_and_session("1"));
    other.delete(KEY).await.unwrap();
    until("the entry is back", || async { stored(&other).await == value_and_session("1") }).await;
    registration.update("2").await.unwrap();
    assert!(matches!(registration.state(), RegistrationState::Registered));
}
