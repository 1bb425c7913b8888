//! Every call of the administrative powers passes a policy exactly once, and none is repeated.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // A test says what it means.

use std::sync::Arc;

use async_trait::async_trait;
use kv_core::{
    Access, AccessControl, AdminExt, Bytes, CallOptions, Capabilities, Cluster, Defragmented, DeleteOptions,
    DeleteResult, DeleteTreeOptions, Entry, ErrorKind, Evict, GetOptions, Joining, Key, ListOptions, Listing,
    LockGuard, LockHolder, LockOptions, Member, MemberId, NewMember, NewUser, Operation, Power, Prefix,
    PutOptions, PutResult, Reconfigure, Result, Secret, ServerInfo, SessionState, SessionStates, Size,
    Storage, Store, User, Watch, WatchOptions, WatchTarget,
};
use kv_layers::{Call, LayerExt, Next, Policy, ReadOnly, Retry};
use kv_mem::{MemConfig, MemStore};
use parking_lot::Mutex;

/// The memory store with servers behind it, which take everything.
#[derive(Debug)]
struct Served {
    inner: MemStore,
    capabilities: Capabilities,
}

const POWERS: &[Power] = &[Power::Cluster, Power::Storage, Power::Access];

fn served() -> Served {
    let inner = MemStore::open(MemConfig::default()).unwrap();
    let capabilities = inner.capabilities().clone().with_powers(POWERS);
    Served { inner, capabilities }
}

#[async_trait]
impl Store for Served {
    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    async fn get_opts(&self, key: &Key, options: GetOptions) -> Result<Option<Entry>> {
        self.inner.get_opts(key, options).await
    }

    async fn put_opts(&self, key: &Key, value: Bytes, options: PutOptions) -> Result<PutResult> {
        self.inner.put_opts(key, value, options).await
    }

    async fn delete_opts(&self, key: &Key, options: DeleteOptions) -> Result<DeleteResult> {
        self.inner.delete_opts(key, options).await
    }

    async fn list_opts(&self, prefix: &Prefix, options: ListOptions) -> Result<Listing> {
        self.inner.list_opts(prefix, options).await
    }

    async fn delete_tree_opts(&self, prefix: &Prefix, options: DeleteTreeOptions) -> Result<u64> {
        self.inner.delete_tree_opts(prefix, options).await
    }

    async fn watch_opts(&self, target: WatchTarget, options: WatchOptions) -> Result<Watch> {
        self.inner.watch_opts(target, options).await
    }

    async fn lock_opts(&self, key: &Key, options: LockOptions) -> Result<LockGuard> {
        self.inner.lock_opts(key, options).await
    }

    async fn lock_holder_opts(&self, key: &Key, options: CallOptions) -> Result<Option<LockHolder>> {
        self.inner.lock_holder_opts(key, options).await
    }

    fn session(&self) -> SessionState {
        self.inner.session()
    }

    fn session_states(&self) -> SessionStates {
        self.inner.session_states()
    }

    async fn server_opts(&self, options: CallOptions) -> Result<ServerInfo> {
        self.inner.server_opts(options).await
    }

    async fn close_opts(&self, options: CallOptions) -> Result<()> {
        self.inner.close_opts(options).await
    }

    fn as_cluster(&self) -> Option<&dyn Cluster> {
        Some(self)
    }

    fn as_storage(&self) -> Option<&dyn Storage> {
        Some(self)
    }

    fn as_access(&self) -> Option<&dyn AccessControl> {
        Some(self)
    }
}

fn joining() -> Joining {
    Joining::new(Member::new(MemberId::new("2")), Vec::new())
}

#[async_trait]
impl Cluster for Served {
    async fn members_with(&self, _: CallOptions) -> Result<Vec<Member>> {
        Ok(vec![Member::new(MemberId::new("1"))])
    }

    fn endpoints(&self) -> Vec<String> {
        vec!["h:1".to_owned()]
    }

    async fn set_endpoints_with(&self, _: &[String], _: CallOptions) -> Result<()> {
        Ok(())
    }

    fn as_evict(&self) -> Option<&dyn Evict> {
        Some(self)
    }

    fn as_reconfigure(&self) -> Option<&dyn Reconfigure> {
        Some(self)
    }
}

#[async_trait]
impl Evict for Served {
    async fn remove_member_with(&self, _: &MemberId, _: CallOptions) -> Result<bool> {
        Ok(true)
    }
}

#[async_trait]
impl Reconfigure for Served {
    async fn add_member_with(&self, _: NewMember, _: CallOptions) -> Result<Joining> {
        Ok(joining())
    }

    async fn promote_member_with(&self, _: &MemberId, _: CallOptions) -> Result<()> {
        Ok(())
    }

    async fn update_member_with(&self, _: &MemberId, _: &[String], _: CallOptions) -> Result<Joining> {
        Ok(joining())
    }

    async fn transfer_leadership_with(&self, _: &MemberId, _: CallOptions) -> Result<()> {
        Ok(())
    }
}

#[async_trait]
impl Storage for Served {
    async fn sizes_with(&self, _: CallOptions) -> Result<Vec<Size>> {
        Ok(vec![Size::new(MemberId::new("1"), 1)])
    }

    async fn defragment_with(&self, _: Option<&MemberId>, _: CallOptions) -> Result<Vec<Defragmented>> {
        Ok(Vec::new())
    }
}

#[async_trait]
impl AccessControl for Served {
    async fn add_user_with(&self, _: &str, _: NewUser, _: CallOptions) -> Result<()> {
        Ok(())
    }

    async fn remove_user_with(&self, _: &str, _: CallOptions) -> Result<bool> {
        Ok(true)
    }

    async fn set_password_with(&self, _: &str, _: Secret, _: CallOptions) -> Result<()> {
        Ok(())
    }

    async fn grant_with(&self, _: &str, _: Access, _: &Prefix, _: CallOptions) -> Result<()> {
        Ok(())
    }

    async fn revoke_with(&self, _: &str, _: Access, _: &Prefix, _: CallOptions) -> Result<bool> {
        Ok(true)
    }

    async fn user_with(&self, _: &str, _: CallOptions) -> Result<Option<User>> {
        Ok(None)
    }

    async fn users_with(&self, _: CallOptions) -> Result<Vec<String>> {
        Ok(Vec::new())
    }
}

/// Notes what passes.
#[derive(Clone, Debug, Default)]
struct Notes(Arc<Mutex<Vec<Operation>>>);

impl Policy for Notes {
    async fn around<'a, T: Send + 'a>(&'a self, call: Call<'a>, next: Next<'a, T>) -> Result<T> {
        self.0.lock().push(call.operation);
        next().await
    }
}

/// Makes every call there is, and returns what each failed with.
async fn everything(store: &dyn Store) -> Vec<Option<ErrorKind>> {
    let id = MemberId::new("1");
    let secret = || Secret::new("pw");
    let answers = [
        store.members().await.map(drop),
        store.set_endpoints(["h:1"]).await,
        store.remove_member(&id).await.map(drop),
        store.add_member(NewMember::learner(["http://h:2"])).await.map(drop),
        store.promote_member(&id).await,
        store.update_member(&id, &[]).await.map(drop),
        store.transfer_leadership(&id).await,
        store.sizes().await.map(drop),
        store.defragment(None).await.map(drop),
        store.add_user("u", secret()).await,
        store.remove_user("u").await.map(drop),
        store.set_password("u", secret()).await,
        store.grant("u", Access::Read, "a").await,
        store.revoke("u", Access::Read, "a").await.map(drop),
        store.user("u").await.map(drop),
        store.users().await.map(drop),
    ];
    answers.into_iter().map(|answer| answer.err().map(|error| error.kind().clone())).collect()
}

const OPERATIONS: &[Operation] = &[
    Operation::Members,
    Operation::SetEndpoints,
    Operation::RemoveMember,
    Operation::AddMember,
    Operation::PromoteMember,
    Operation::UpdateMember,
    Operation::TransferLeadership,
    Operation::Sizes,
    Operation::Defragment,
    Operation::AddUser,
    Operation::RemoveUser,
    Operation::SetPassword,
    Operation::Grant,
    Operation::Revoke,
    Operation::User,
    Operation::Users,
];

#[tokio::test]
async fn every_call_passes_once() {
    let notes = Notes::default();
    let store = served().layered(notes.clone());
    assert!(everything(&store).await.iter().all(Option::is_none));
    assert_eq!(*notes.0.lock(), OPERATIONS);
    assert_eq!(store.as_cluster().unwrap().endpoints(), ["h:1"]);
}

/// Fails every call for a moment, and says that nothing was applied.
#[derive(Clone, Debug, Default)]
struct Down(Notes);

impl Policy for Down {
    async fn around<'a, T: Send + 'a>(&'a self, call: Call<'a>, _: Next<'a, T>) -> Result<T> {
        self.0.0.lock().push(call.operation);
        Err(call.error(ErrorKind::Unavailable).not_applied())
    }
}

#[tokio::test]
async fn no_call_is_repeated() {
    let down = Down::default();
    let store = served().layered(down.clone()).layered(Retry::default().with_attempts(3));
    assert!(everything(&store).await.iter().all(|kind| *kind == Some(ErrorKind::Unavailable)));
    assert_eq!(*down.0.0.lock(), OPERATIONS);
}

#[tokio::test]
async fn a_read_only_handle_shows_servers_and_changes_none() {
    let store = served().layered(ReadOnly::default());
    let allowed: Vec<_> = OPERATIONS
        .iter()
        .zip(everything(&store).await)
        .filter(|(_, kind)| kind.is_none())
        .map(|(operation, _)| *operation)
        .collect();
    assert_eq!(
        allowed,
        [Operation::Members, Operation::SetEndpoints, Operation::Sizes, Operation::User, Operation::Users]
    );
}

/// Takes the servers away.
#[derive(Debug)]
struct NoServers;

impl Policy for NoServers {
    async fn around<'a, T: Send + 'a>(&'a self, _: Call<'a>, next: Next<'a, T>) -> Result<T> {
        next().await
    }

    fn capabilities(&self, inner: &Capabilities) -> Capabilities {
        POWERS.iter().fold(inner.clone(), |declared, power| declared.without_power(*power))
    }
}

#[tokio::test]
async fn what_is_taken_away_cannot_be_reached() {
    let store = served().layered(NoServers);
    let answers = everything(&store).await;
    assert!(answers.iter().all(|kind| matches!(kind, Some(ErrorKind::Unsupported { .. }))), "{answers:?}");
}
