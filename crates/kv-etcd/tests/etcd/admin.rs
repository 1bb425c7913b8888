//! What operators do: members come and go, users get rights, disks are tidied.

use std::time::Duration;

use crate::common::{etcdctl, key, namespace, open, start, until, url};
use kv_etcd::kv_core::{
    Access, AdminExt, Condition, Error, ErrorKind, Health, LockOptions, Member, MemberId, MemberRole,
    NewMember, PutOptions, Secret, Store, StoreExt, StoreUrl, Txn, TxnOp, Version,
};
use kv_etcd::{EtcdConfig, EtcdStore};
use kv_testkit::Cluster;

const SECOND: Duration = Duration::from_secs(1);

#[track_caller]
fn is_refused(error: &Error) {
    assert!(matches!(error.kind(), ErrorKind::Refused { .. }), "{error}");
    assert_eq!(error.applied(), kv_etcd::kv_core::Applied::No, "{error}");
    assert_eq!(error.backend(), Some("etcd"), "{error}");
}

#[track_caller]
fn is_invalid<T: std::fmt::Debug>(answer: Result<T, Error>) {
    let error = answer.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::InvalidArgument { .. }), "{error}");
}

fn named<'m>(members: &'m [Member], name: &str) -> &'m Member {
    let found = members.iter().find(|member| member.name.as_deref() == Some(name));
    found.unwrap_or_else(|| panic!("no {name} among {members:#?}"))
}

/// Starts a second server in the container of the first one.
async fn start_second(cluster: &Cluster, initial_cluster: &str) -> String {
    let ip = cluster.node(1).exec(&["hostname", "-i"]).await.unwrap();
    let client = format!("http://{ip}:12379");
    let line = format!(
        "nohup etcd --name=n2 --data-dir=/tmp/n2 --listen-client-urls=http://0.0.0.0:12379 \
         --advertise-client-urls={client} --listen-peer-urls=http://127.0.0.1:12380 \
         --initial-advertise-peer-urls=http://127.0.0.1:12380 --initial-cluster={initial_cluster} \
         --initial-cluster-state=existing > /tmp/n2.log 2>&1 &"
    );
    cluster.node(1).exec(&["sh", "-c", &line]).await.unwrap();
    format!("{ip}:12379")
}

#[tokio::test]
async fn members_come_and_go() {
    let Some(cluster) = start(1).await else { return };
    let store = open(&url(&cluster, &cluster.endpoints(), &namespace(), "?timeout=5s")).await;
    let first = cluster.node(1).endpoint();

    let members = store.members().await.unwrap();
    let [one] = &members[..] else { panic!("{members:#?}") };
    assert_eq!(
        (one.name.as_deref(), one.role, &one.health),
        (Some("n1"), MemberRole::Leader, &Health::Healthy)
    );
    assert_eq!(one.client_urls, [format!("http://{first}")]);
    assert!(one.version.as_ref().is_some_and(|version| version.starts_with("3.")), "{one:?}");
    assert!(one.size.is_some_and(|size| size > 0) && one.in_use <= one.size, "{one:?}");
    let listed = etcdctl(&cluster, "member list").await;
    assert!(listed.starts_with(one.id.as_str()), "{} is not what etcdctl says: {listed}", one.id);

    // What cannot end well is refused before it is sent, and the cluster still serves.
    let nobody = MemberId::new("12345");
    is_refused(&store.remove_member(&one.id).await.unwrap_err());
    is_refused(&store.add_member(NewMember::voter(["http://127.0.0.1:12380"])).await.unwrap_err());
    is_refused(&store.promote_member(&one.id).await.unwrap_err());
    assert!(!store.remove_member(&nobody).await.unwrap());
    assert!(!store.remove_member_named("n2").await.unwrap());
    assert_eq!(*store.promote_member(&nobody).await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(*store.transfer_leadership(&nobody).await.unwrap_err().kind(), ErrorKind::NotFound);
    is_invalid(store.remove_member(&MemberId::new("n1")).await);
    is_invalid(store.add_member(NewMember::learner::<String>([])).await);
    is_invalid(store.add_member(NewMember::learner(["127.0.0.1:12380"])).await);
    assert_eq!(store.members().await.unwrap().len(), 1);
    store.put("k", "v").await.unwrap();

    // A learner: added, seen, known already, the only one at a time, and promoted only when it is ready.
    let joining = store.add_member(NewMember::learner(["http://127.0.0.1:12380"])).await.unwrap();
    let learner = &joining.member;
    assert_eq!((learner.role, learner.name.as_deref()), (MemberRole::Learner, None));
    let initial = joining.initial_cluster("n2");
    let mut parts: Vec<_> = initial.split(',').collect();
    parts.sort_unstable();
    assert_eq!(parts, ["n1=http://127.0.0.1:2380", "n2=http://127.0.0.1:12380"]);
    let again = store.add_member(NewMember::learner(["http://127.0.0.1:12380"])).await.unwrap_err();
    assert_eq!(*again.kind(), ErrorKind::AlreadyExists { current: None }, "{again}");
    is_refused(&store.add_member(NewMember::learner(["http://127.0.0.1:12381"])).await.unwrap_err());
    is_refused(&store.promote_member(&learner.id).await.unwrap_err());
    is_refused(&store.transfer_leadership(&learner.id).await.unwrap_err());
    is_refused(&store.update_member(&learner.id, &["http://127.0.0.1:12381".to_owned()]).await.unwrap_err());

    let second = start_second(&cluster, &initial).await;
    until("the learner is started", 30 * SECOND, || async {
        store.members().await.unwrap().iter().all(|member| member.name.is_some())
    })
    .await;
    let members = store.members().await.unwrap();
    assert_eq!(
        (named(&members, "n2").role, &named(&members, "n2").health),
        (MemberRole::Learner, &Health::Unknown)
    );
    // It serves no client, and must not become an endpoint.
    let both = [first.clone(), second.clone()];
    is_refused(&store.set_endpoints(both.clone()).await.unwrap_err());
    let endpoints = || store.as_cluster().unwrap().endpoints();
    assert_eq!(endpoints(), [first.as_str()]);

    until("it has caught up", 30 * SECOND, || async {
        match store.promote_member(&learner.id).await {
            Ok(()) => true,
            Err(error) => {
                is_refused(&error);
                false
            }
        }
    })
    .await;
    is_refused(&store.promote_member(&learner.id).await.unwrap_err());
    until("it takes part", 30 * SECOND, || async { store.set_endpoints(both.clone()).await.is_ok() }).await;
    assert_eq!(endpoints(), both);
    let members = store.members().await.unwrap();
    assert!(members.iter().all(|member| member.health == Health::Healthy), "{members:#?}");

    // Leadership goes where it is told to.
    for name in ["n2", "n2", "n1"] {
        let id = named(&store.members().await.unwrap(), name).id.clone();
        store.transfer_leadership(&id).await.unwrap();
        until("it leads", 10 * SECOND, || async {
            named(&store.members().await.unwrap(), name).role == MemberRole::Leader
        })
        .await;
    }
    let urls = ["http://localhost:12380".to_owned()];
    let updated = store.update_member(&learner.id, &urls).await.unwrap();
    assert_eq!(updated.member.peer_urls, urls);

    // Removed once, and after that not there. A server counts the others only when it has known them a while.
    until("n2 may go", 30 * SECOND, || async {
        match store.remove_member_named("n2").await {
            Ok(removed) => removed,
            Err(error) => {
                is_refused(&error);
                false
            }
        }
    })
    .await;
    assert!(!store.remove_member_named("n2").await.unwrap());
    assert!(!store.remove_member(&learner.id).await.unwrap());
    store.set_endpoints([first.as_str()]).await.unwrap();
    assert_eq!(store.get("k").await.unwrap().unwrap().value, "v");
    let joining = store.add_member(NewMember::learner(["http://127.0.0.1:12382"])).await.unwrap();
    assert!(store.remove_member(&joining.member.id).await.unwrap());
    assert!(!store.remove_member(&joining.member.id).await.unwrap());
    assert_eq!(store.members().await.unwrap().len(), 1);
}

#[tokio::test]
async fn endpoints_are_changed_together_or_not_at_all() {
    let (Some(cluster), Some(foreign)) = (start(1).await, start(1).await) else { return };
    let store = open(&url(&cluster, &cluster.endpoints(), &namespace(), "?timeout=2s")).await;
    let own = cluster.node(1).endpoint();
    let other = foreign.node(1).endpoint();
    let endpoints = || store.as_cluster().unwrap().endpoints();
    is_refused(&store.set_endpoints([other.as_str()]).await.unwrap_err());
    is_refused(&store.set_endpoints([own.as_str(), &other]).await.unwrap_err());
    for bad in [&[][..], &["h:0"], &["u@h:1"], &["a,b"]] {
        let error = store.set_endpoints(bad.iter().copied()).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::InvalidConfig { .. }), "{bad:?}: {error}");
    }
    let silent = store.set_endpoints(["127.0.0.1:1"]).await.unwrap_err();
    assert!(
        *silent.kind() == ErrorKind::Unavailable && silent.to_string().contains("127.0.0.1:1"),
        "{silent}"
    );
    assert_eq!(endpoints(), [own.as_str()]);
    store.put("k", "v").await.unwrap();
    // One that does not answer now may come back.
    store.set_endpoints(["127.0.0.1:1", &own]).await.unwrap();
    assert_eq!(endpoints(), ["127.0.0.1:1", own.as_str()]);
    assert_eq!(store.get("k").await.unwrap().unwrap().value, "v");
}

#[tokio::test]
async fn a_change_that_would_lose_the_quorum_is_refused() {
    let Some(cluster) = start(3).await else { return };
    let namespace = namespace();
    let store = open(&url(&cluster, &cluster.endpoints(), &namespace, "?timeout=5s")).await;
    let members = store.members().await.unwrap();
    assert_eq!(members.iter().filter(|member| member.role == MemberRole::Leader).count(), 1, "{members:#?}");
    assert!(members.iter().all(|member| member.health == Health::Healthy), "{members:#?}");
    // Credentials go to configured endpoints only, so nobody else is asked.
    let one = open(&url(&cluster, &[cluster.node(1).endpoint()], &namespace, "?timeout=5s")).await;
    let seen = one.members().await.unwrap();
    assert_eq!(seen.iter().filter(|member| member.health == Health::Unknown).count(), 2, "{seen:#?}");

    cluster.node(3).kill().await.unwrap();
    until("the dead one is seen", 20 * SECOND, || async {
        matches!(named(&store.members().await.unwrap(), "n3").health, Health::Unreachable(_))
    })
    .await;
    until("the others lead on", 20 * SECOND, || crate::common::is_healthy(&store)).await;
    let members = store.members().await.unwrap();
    for name in ["n1", "n2"] {
        let error = store.remove_member_named(name).await.unwrap_err();
        is_refused(&error);
        assert!(error.to_string().contains("1 of 2"), "{error}");
    }
    is_refused(&store.add_member(NewMember::voter(["http://127.0.0.1:12380"])).await.unwrap_err());
    assert_eq!(store.members().await.unwrap().len(), 3);
    // The dead one goes first.
    let dead = named(&members, "n3").id.clone();
    assert!(store.remove_member(&dead).await.unwrap());
    assert!(!store.remove_member(&dead).await.unwrap());
    assert_eq!(store.members().await.unwrap().len(), 2);
    store.put("k", "v").await.unwrap();

    // Without a quorum they are told all the same, and a change fails at once and was not made.
    cluster.node(2).kill().await.unwrap();
    until("there is no quorum", 20 * SECOND, || async {
        let members = store.members().await.unwrap();
        matches!(named(&members, "n2").health, Health::Unreachable(_))
            && matches!(named(&members, "n1").health, Health::Failing(_))
    })
    .await;
    let error = store.remove_member_named("n2").await.unwrap_err();
    assert_eq!(error.applied(), kv_etcd::kv_core::Applied::No, "{error}");
}

async fn connect(cluster: &Cluster, user: &str, password: &str, namespace: &str) -> Result<EtcdStore, Error> {
    let endpoint = cluster.node(1).endpoint();
    let url = format!("etcd://{user}:{password}@{endpoint}/{namespace}?timeout=5s");
    EtcdStore::connect(EtcdConfig::from_url(&StoreUrl::parse(&url).unwrap())?).await
}

#[track_caller]
fn is_denied<T: std::fmt::Debug>(answer: Result<T, Error>) {
    let error = answer.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::PermissionDenied, "{error}");
}

#[tokio::test]
async fn rights_are_strictly_below_a_prefix_and_add_up() {
    let Some(cluster) = start(1).await else { return };
    for line in ["user add root:rootpw", "role add root", "user grant-role root root", "auth enable"] {
        etcdctl(&cluster, line).await;
    }
    let namespace = namespace();
    let admin = connect(&cluster, "root", "rootpw", &namespace).await.unwrap();
    is_invalid(admin.add_user("alice", Secret::new("")).await);
    is_invalid(admin.add_user("", Secret::new("pw")).await);
    assert_eq!(admin.users().await.unwrap(), ["root"]);
    assert_eq!(admin.user("alice").await.unwrap(), None);
    let nobody = admin.grant("alice", Access::Read, "app").await.unwrap_err();
    assert_eq!(*nobody.kind(), ErrorKind::NotFound, "{nobody}");
    admin.add_user("alice", Secret::new("first")).await.unwrap();
    let again = admin.add_user("alice", Secret::new("other")).await.unwrap_err();
    assert_eq!(*again.kind(), ErrorKind::AlreadyExists { current: None }, "{again}");
    assert_eq!(admin.users().await.unwrap(), ["alice", "root"]);
    for path in ["app", "app/x", "app/y/z", "app2", "app2/x"] {
        admin.put(path, "v").await.unwrap();
    }

    let alice = connect(&cluster, "alice", "first", &namespace).await.unwrap();
    is_denied(alice.get("app/x").await);
    // Reading: what is strictly below, and nothing beside it.
    admin.grant("alice", Access::Read, "app").await.unwrap();
    assert_eq!(alice.get("app/x").await.unwrap().unwrap().value, "v");
    assert_eq!(alice.keys("app").await.unwrap().len(), 2);
    drop(alice.watch("app").await.unwrap());
    for path in ["app", "app2", "app2/x", "other"] {
        is_denied(alice.get(path).await);
    }
    is_denied(alice.keys("app2").await);
    is_denied(alice.keys("").await);
    is_denied(alice.put("app/x", "w").await);
    // And writing: added, not put in its place.
    admin.grant("alice", Access::Write, "app").await.unwrap();
    let rights = admin.user("alice").await.unwrap().unwrap().rights;
    assert_eq!(rights.len(), 1, "{rights:?}");
    assert_eq!(
        (rights[0].access, rights[0].prefix.as_ref().map(|p| p.as_str())),
        (Access::ReadWrite, Some("app"))
    );
    assert_eq!(rights[0].native, format!("[{namespace}/app/, {namespace}/app0)"));
    assert_eq!(alice.get("app/x").await.unwrap().unwrap().value, "v");
    alice.put("app/x", "w").await.unwrap();
    alice.create("app/new", "v").await.unwrap();
    let txn = Txn::when([Condition::absent(key("app/t"))]).then([TxnOp::put(key("app/t"), "v")]);
    assert!(alice.transact(txn).await.unwrap().succeeded);
    let guard = alice.lock_with(&key("app/l"), LockOptions::default()).await.unwrap();
    guard.unlock().await.unwrap();
    for path in ["app", "app2/x"] {
        is_denied(alice.put(path, "w").await);
    }
    // Taken away one by one; each tells whether it was there.
    assert!(!admin.revoke("alice", Access::ReadWrite, "").await.unwrap());
    assert!(!admin.revoke("alice", Access::ReadWrite, "app/y").await.unwrap());
    assert!(admin.revoke("alice", Access::Read, "app").await.unwrap());
    assert!(!admin.revoke("alice", Access::Read, "app").await.unwrap());
    is_denied(alice.get("app/x").await);
    alice.put_with(&key("app/x"), "blind", PutOptions::default()).await.unwrap();
    assert!(admin.revoke("alice", Access::ReadWrite, "app").await.unwrap());
    is_denied(alice.put("app/x", "w").await);
    assert!(admin.user("alice").await.unwrap().unwrap().rights.is_empty());
    // The empty prefix is the namespace and not more.
    admin.grant("alice", Access::Read, "").await.unwrap();
    assert_eq!(alice.get("app").await.unwrap().unwrap().value, "v");
    alice.keys("").await.unwrap();
    let beside = connect(&cluster, "alice", "first", &format!("{namespace}2")).await.unwrap();
    is_denied(beside.get("k").await);

    // What only root may.
    is_denied(alice.add_user("eve", Secret::new("pw")).await);
    is_denied(alice.grant("alice", Access::ReadWrite, "").await);
    is_denied(alice.defragment(None).await);
    let root = admin.user("root").await.unwrap().unwrap();
    assert!(root.rights.iter().any(|right| right.prefix.is_none() && right.native.contains("everything")));
    is_refused(&admin.remove_user("root").await.unwrap_err());

    is_invalid(admin.set_password("alice", Secret::new("")).await);
    admin.set_password("alice", Secret::new("second")).await.unwrap();
    let old = connect(&cluster, "alice", "first", &namespace).await.unwrap_err();
    assert_eq!(*old.kind(), ErrorKind::Unauthenticated, "{old}");
    connect(&cluster, "alice", "second", &namespace).await.unwrap();
    assert!(admin.remove_user("alice").await.unwrap());
    assert!(!admin.remove_user("alice").await.unwrap());
    // Whoever has the name next begins without rights.
    admin.add_user("alice", Secret::new("third")).await.unwrap();
    assert!(admin.user("alice").await.unwrap().unwrap().rights.is_empty());
    let next = connect(&cluster, "alice", "third", &namespace).await.unwrap();
    is_denied(next.get("app").await);
}

#[tokio::test]
async fn what_is_not_in_use_is_given_back() {
    let Some(cluster) = start(1).await else { return };
    let store = open(&url(&cluster, &cluster.endpoints(), &namespace(), "?timeout=20s")).await;
    let mut last = Version::ZERO;
    for _ in 0..200 {
        last = store.put("k", vec![7; 40_000]).await.unwrap();
    }
    store.compact(last).await.unwrap();
    let [before] = &store.sizes().await.unwrap()[..] else { panic!("one member") };
    assert!(before.bytes > 4 << 20 && before.in_use.unwrap() <= before.bytes, "{before:?}");
    let unknown = store.defragment(Some(&MemberId::new("12345"))).await.unwrap_err();
    assert_eq!(*unknown.kind(), ErrorKind::NotFound, "{unknown}");
    // What was compacted is let go bit by bit.
    until("what was compacted is given back", 30 * SECOND, || async {
        let done = store.defragment(None).await.unwrap();
        assert_eq!((done.len(), &done[0].member), (1, &before.member));
        done[0].after < before.bytes / 4
    })
    .await;
    let done = store.defragment(Some(&before.member)).await.unwrap();
    assert!(done[0].after <= done[0].before, "{done:?}");
    assert_eq!(store.get("k").await.unwrap().unwrap().version, last);
}
