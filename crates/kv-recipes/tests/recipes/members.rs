//! The members of a service.

use std::sync::Arc;

use futures_util::FutureExt;
use kv_recipes::kv_core::{DeleteCause, ErrorKind, StoreExt};
use kv_recipes::{MemberChange, MemberChanges, Members, Registration, RegistrationOptions};

use crate::common::{Cut, handles, soon, until};

async fn next(changes: &mut MemberChanges) -> String {
    let change = soon("the next change", changes.next()).await.unwrap().unwrap();
    let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
    match change {
        MemberChange::Joined { name, value, .. } => format!("+{name} {}", text(&value)),
        MemberChange::Updated { name, old, new, .. } => format!("{name} {}>{}", text(&old), text(&new)),
        MemberChange::Left { name, value, cause, .. } => format!("-{name} {} {cause:?}", text(&value)),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn they_come_change_and_go() {
    let [store, other] = handles::<2>();
    let members = Members::watch(Arc::clone(&store), "services/web").await.unwrap();
    soon("the first state", members.ready()).await.unwrap();
    assert!(members.is_empty());
    let mut changes = members.changes();
    let options = RegistrationOptions::default();
    let first = Registration::start(Arc::clone(&other), "services/web/eu/1", "a", options).await.unwrap();
    assert_eq!(next(&mut changes).await, "+eu/1 a");
    store.put("services/web/2", "b").await.unwrap();
    assert_eq!(next(&mut changes).await, "+2 b");
    assert_eq!(members.all(), [("2".to_owned(), "b".into()), ("eu/1".to_owned(), "a".into())]);
    first.update("c").await.unwrap();
    assert_eq!(next(&mut changes).await, "eu/1 a>c");
    // A renewal is no change.
    store.put("services/web/2", "b").await.unwrap();
    store.put("services/web/2", "d").await.unwrap();
    assert_eq!(next(&mut changes).await, "2 b>d");
    assert_eq!((members.get("eu/1"), members.get("3"), members.get("..")), (Some("c".into()), None, None));
    other.close().await.unwrap();
    let expired = format!("-eu/1 c {:?}", Some(DeleteCause::Expired));
    assert_eq!(next(&mut changes).await, expired);
    assert_eq!(members.len(), 1);
    assert!(changes.next().now_or_never().is_none());
}

#[tokio::test]
async fn who_went_in_a_gap_is_marked() {
    let [store] = handles::<1>();
    let (cut, behind) = Cut::layer(Arc::clone(&store));
    store.put("web/1", "a").await.unwrap();
    let members = Members::watch(behind, "web").await.unwrap();
    let mut changes = members.changes();
    assert_eq!(next(&mut changes).await, "+1 a");
    cut.cut(ErrorKind::Unavailable);
    until("the problem", || async { members.problem().is_some() }).await;
    store.delete("web/1").await.unwrap();
    cut.mend();
    assert_eq!(next(&mut changes).await, "-1 a None");
}
