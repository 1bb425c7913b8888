//! The servers behind a store: who they are, how they are, and how their number is changed.

use std::fmt;
use std::str::FromStr;

use async_trait::async_trait;

use crate::error::{Error, Result};
use crate::options::CallOptions;
use crate::text::escaped;

/// The power to see the servers behind a store and to choose which of them this handle speaks to: reached by
/// [`Store::as_cluster`](crate::Store::as_cluster), declared as [`Power::Cluster`](crate::Power::Cluster).
///
/// Applications call the short forms in [`AdminExt`](crate::AdminExt): [`members`](crate::AdminExt::members),
/// [`set_endpoints`](crate::AdminExt::set_endpoints), [`remove_member`](crate::AdminExt::remove_member) and
/// the like.
///
/// What cannot succeed, or would leave the cluster without a quorum as far as this handle can see, is
/// [`Refused`](crate::ErrorKind::Refused) before it is sent; the servers refuse more by themselves. No call
/// that changes the cluster is ever sent twice.
#[async_trait]
pub trait Cluster: Send + Sync {
    /// The members of the cluster, in the order of their ids, with what each configured one tells of itself.
    ///
    /// It answers without a quorum. Only the endpoints this handle is configured with are asked, because
    /// credentials go nowhere else: another member's health is [`Unknown`](Health::Unknown).
    async fn members_with(&self, options: CallOptions) -> Result<Vec<Member>>;

    /// The endpoints this handle speaks to, as they were given or [set](Self::set_endpoints_with), each as
    /// `host:port`.
    fn endpoints(&self) -> Vec<String>;

    /// Lets this handle, with all its clones, speak to these endpoints from now on, each given as in a URL.
    /// What stands on a connection to an endpoint that is left, such as a watch, goes on until that ends.
    ///
    /// # Errors
    ///
    /// Nothing is changed then. `InvalidConfig` for an endpoint that cannot be one, or to which credentials
    /// may not go; `Unavailable` if none of them answers; `Refused` if one that answers belongs to another
    /// cluster or is a learner, which serves no client.
    async fn set_endpoints_with(&self, endpoints: &[String], options: CallOptions) -> Result<()>;

    /// The power to remove members, where the servers offer it.
    fn as_evict(&self) -> Option<&dyn Evict> {
        None
    }

    /// The power to add, promote and move members, where the servers offer it.
    fn as_reconfigure(&self) -> Option<&dyn Reconfigure> {
        None
    }
}

/// The power to remove members.
#[async_trait]
pub trait Evict: Send + Sync {
    /// Removes a member from the cluster for good, and tells whether it was one. A server that was removed
    /// stops; to come back it must be added as a new member, with no data.
    ///
    /// # Errors
    ///
    /// `Refused` for the only member that votes, and where those who are left would have no quorum;
    /// `InvalidArgument` for an id that cannot be one.
    async fn remove_member_with(&self, id: &MemberId, options: CallOptions) -> Result<bool>;
}

/// The power to add, promote and move members.
#[async_trait]
pub trait Reconfigure: Evict {
    /// Adds a member. The server is started afterwards, with what the answer tells.
    ///
    /// Add a server as a [learner](NewMember::learner), start it, and
    /// [promote](Self::promote_member_with) it when it has caught up: until then it has no vote that could be
    /// missing.
    ///
    /// # Errors
    ///
    /// `Refused` for a voter added to a cluster of one, which would wait for it with every request until it
    /// is started, and for one with which there would be no quorum; `AlreadyExists` for a member that is known
    /// by one of these URLs.
    async fn add_member_with(&self, member: NewMember, options: CallOptions) -> Result<Joining>;

    /// Gives a learner its vote.
    ///
    /// # Errors
    ///
    /// `NotFound`; `Refused` for a member that votes already, that was not started yet or has not caught up.
    async fn promote_member_with(&self, id: &MemberId, options: CallOptions) -> Result<()>;

    /// Changes the URLs by which the other members reach a member: before the server itself moves.
    ///
    /// # Errors
    ///
    /// `NotFound`; `AlreadyExists` for a URL that is another member's. etcd before 3.5.31 and 3.6.12 also
    /// promotes a learner by it, which is `Refused` here.
    async fn update_member_with(
        &self,
        id: &MemberId,
        peer_urls: &[String],
        options: CallOptions,
    ) -> Result<Joining>;

    /// Makes another member the leader. A member that leads already is no error.
    ///
    /// # Errors
    ///
    /// `NotFound`; `Refused` for a learner and for a member that was not started; `Unavailable` if the leader
    /// is none of the configured endpoints.
    async fn transfer_leadership_with(&self, id: &MemberId, options: CallOptions) -> Result<()>;
}

/// What the servers call a member: etcd its id in hexadecimal digits, as `etcdctl` writes it; Consul the
/// node's id; ZooKeeper the number of the server.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberId(String);

impl MemberId {
    /// The member with this id. Whether there can be one is checked by the store.
    #[must_use]
    pub fn new(id: impl Into<String>) -> Self {
        Self(escaped(id.into()))
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for MemberId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for MemberId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if text.is_empty() {
            Err(Error::invalid_argument("a member's id is empty"))
        } else {
            Ok(Self::new(text))
        }
    }
}

/// What a member does in its cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum MemberRole {
    /// It votes, and leads the others now.
    Leader,
    /// It votes.
    Voter,
    /// It receives what is written and has no vote: an etcd learner, a ZooKeeper observer, a Consul
    /// non-voter.
    Learner,
    /// The servers do not tell.
    Unknown,
}

impl fmt::Display for MemberRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Leader => "leader",
            Self::Voter => "voter",
            Self::Learner => "learner",
            Self::Unknown => "unknown",
        })
    }
}

/// How a member is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Health {
    /// It answers, and complains of nothing.
    Healthy,
    /// It answers, and says what is wrong.
    Failing(String),
    /// It is configured as an endpoint and does not answer.
    Unreachable(String),
    /// It was not asked: it is none of the configured endpoints.
    Unknown,
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Healthy => f.write_str("healthy"),
            Self::Failing(why) => write!(f, "failing: {why}"),
            Self::Unreachable(why) => write!(f, "unreachable: {why}"),
            Self::Unknown => f.write_str("unknown"),
        }
    }
}

/// A server of a cluster. Every text in it comes from the servers and is [escaped](crate::text::escape).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Member {
    /// What the servers call it.
    pub id: MemberId,
    /// Its name. `None` while it was added and not started yet.
    pub name: Option<String>,
    /// Where the other members reach it.
    pub peer_urls: Vec<String>,
    /// Where it says that clients reach it. This handle does not go there by itself.
    pub client_urls: Vec<String>,
    /// What it does.
    pub role: MemberRole,
    /// How it is.
    pub health: Health,
    /// The version of the server, where it tells.
    pub version: Option<String>,
    /// What its database takes on the disk in bytes, where it tells.
    pub size: Option<u64>,
    /// What of it is in use, where it tells; the rest goes by
    /// [defragmenting](crate::Storage::defragment_with).
    pub in_use: Option<u64>,
}

impl Member {
    /// A member of which only the id is known.
    #[must_use]
    pub fn new(id: MemberId) -> Self {
        Self {
            id,
            name: None,
            peer_urls: Vec::new(),
            client_urls: Vec::new(),
            role: MemberRole::Unknown,
            health: Health::Unknown,
            version: None,
            size: None,
            in_use: None,
        }
    }

    /// Whether it has a vote.
    #[must_use]
    pub fn votes(&self) -> bool {
        matches!(self.role, MemberRole::Leader | MemberRole::Voter)
    }
}

/// A member to be added.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct NewMember {
    /// Where the others will reach it.
    pub peer_urls: Vec<String>,
    /// Whether it begins without a vote.
    pub learner: bool,
}

impl NewMember {
    /// A member that begins without a vote, and gets one when it is promoted.
    #[must_use]
    pub fn learner<U: Into<String>>(peer_urls: impl IntoIterator<Item = U>) -> Self {
        Self { peer_urls: peer_urls.into_iter().map(Into::into).collect(), learner: true }
    }

    /// A member that votes from the moment it is added, started or not.
    #[must_use]
    pub fn voter<U: Into<String>>(peer_urls: impl IntoIterator<Item = U>) -> Self {
        Self { learner: false, ..Self::learner(peer_urls) }
    }
}

/// A member that was added, and the cluster it joins.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Joining {
    /// The new member.
    pub member: Member,
    /// All members, the new one included.
    pub cluster: Vec<Member>,
}

impl Joining {
    /// A member and its cluster.
    #[must_use]
    pub fn new(member: Member, cluster: Vec<Member>) -> Self {
        Self { member, cluster }
    }

    /// What etcd is to be started with as `--initial-cluster`, with `--initial-cluster-state=existing`, if the
    /// new server is started with this name.
    ///
    /// ```
    /// use kv_core::{Joining, Member, MemberId};
    ///
    /// let mut first = Member::new(MemberId::new("1"));
    /// (first.name, first.peer_urls) = (Some("n1".into()), vec!["http://10.0.0.1:2380".into()]);
    /// let mut second = Member::new(MemberId::new("2"));
    /// second.peer_urls = vec!["http://10.0.0.2:2380".into()];
    /// let joining = Joining::new(second.clone(), vec![first, second]);
    /// assert_eq!(joining.initial_cluster("n2"), "n1=http://10.0.0.1:2380,n2=http://10.0.0.2:2380");
    /// ```
    #[must_use]
    pub fn initial_cluster(&self, name: &str) -> String {
        let named = self.cluster.iter().flat_map(|member| {
            let own = if member.id == self.member.id { name } else { member.name.as_deref().unwrap_or(name) };
            member.peer_urls.iter().map(move |url| format!("{own}={url}"))
        });
        named.collect::<Vec<_>>().join(",")
    }
}

const _: fn(&dyn Cluster, &dyn Evict, &dyn Reconfigure) = |_, _, _| {};
