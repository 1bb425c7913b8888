//! The members: who they are, how they are, and changes of their number that are refused before they are sent
//! where they could not end well.

use async_trait::async_trait;
use kv_backend::Deadline;
use kv_core::text::escape;
use kv_core::{
    CallOptions, Cluster, Error, ErrorKind, Evict, Health, Joining, Member, MemberId, MemberRole, NewMember,
    Operation, Reconfigure, Result,
};

use crate::client::error::BACKEND;
use crate::client::{Asked, Listed};
use crate::env::Env;
use crate::store::EtcdStore;

/// What this handle knows of the cluster at a moment.
struct Seen {
    members: Vec<(Listed, Health)>,
    asked: Vec<Asked>,
    /// The id of the leader, 0 for none.
    leader: u64,
}

impl Seen {
    async fn look(env: &Env, deadline: Deadline) -> Result<Self> {
        let (listed, asked) =
            futures_util::future::join(env.client.members(deadline), env.client.statuses(deadline)).await;
        let mut members = listed?;
        members.sort_by_key(|member| member.id);
        let leader = asked
            .iter()
            .filter_map(|asked| asked.status.as_ref().ok())
            .max_by_key(|status| status.term)
            .map_or(0, |status| status.leader);
        let members = members.into_iter().map(|member| {
            let health = health(&member, &asked);
            (member, health)
        });
        Ok(Self { members: members.collect(), leader, asked })
    }

    fn find(&self, id: u64) -> Result<&Listed> {
        let found = self.members.iter().map(|(member, _)| member).find(|member| member.id == id);
        found.ok_or_else(|| {
            Error::new(ErrorKind::NotFound).with_detail(format!("no member has the id {id:x}"))
        })
    }

    /// The members that vote, and whether each is known to be out of service.
    fn voters(&self) -> impl Iterator<Item = (&Listed, bool)> {
        let is_out = |health: &Health| matches!(health, Health::Unreachable(_));
        let voters = self.members.iter().filter(|(member, _)| !member.learner);
        voters.map(move |(member, health)| (member, is_out(health) || member.name.is_empty()))
    }

    fn member(&self, listed: &Listed, health: &Health) -> Member {
        let mut member = member(listed);
        if listed.id == self.leader {
            member.role = MemberRole::Leader;
        }
        member.health = health.clone();
        let status = self.asked.iter().filter_map(|asked| asked.status.as_ref().ok());
        if let Some(status) = status.clone().find(|status| status.member == listed.id) {
            member.version = Some(escape(&status.version).into_owned());
            (member.size, member.in_use) = (Some(status.size), Some(status.in_use));
        }
        member
    }

    fn all(&self) -> Vec<Member> {
        self.members.iter().map(|(listed, health)| self.member(listed, health)).collect()
    }
}

/// How a member is, by what the endpoints answered.
fn health(member: &Listed, asked: &[Asked]) -> Health {
    let own = asked.iter().find(|asked| match &asked.status {
        Ok(status) => status.member == member.id,
        // By what it told before, or by its own account of where it is.
        Err(_) => match asked.endpoint.answered_as() {
            Some(id) => id == member.id,
            None => member.client_urls.iter().any(|url| url.trim_end_matches('/') == asked.endpoint.url()),
        },
    });
    match own.map(|asked| &asked.status) {
        None => Health::Unknown,
        Some(Err(error)) => Health::Unreachable(error.to_string()),
        Some(Ok(status)) if !status.complaints.is_empty() => {
            Health::Failing(escape(&status.complaints.join("; ")).into_owned())
        }
        Some(Ok(status)) if status.leader == 0 => Health::Failing("it knows of no leader".to_owned()),
        Some(Ok(_)) => Health::Healthy,
    }
}

/// A member as the cluster lists it.
fn member(listed: &Listed) -> Member {
    let urls = |urls: &[String]| urls.iter().map(|url| escape(url).into_owned()).collect();
    let mut member = Member::new(MemberId::new(format!("{:x}", listed.id)));
    member.name = (!listed.name.is_empty()).then(|| escape(&listed.name).into_owned());
    (member.peer_urls, member.client_urls) = (urls(&listed.peer_urls), urls(&listed.client_urls));
    member.role = if listed.learner { MemberRole::Learner } else { MemberRole::Voter };
    member
}

fn joining(new: &Listed, mut all: Vec<Listed>) -> Joining {
    all.sort_by_key(|member| member.id);
    Joining::new(member(new), all.iter().map(member).collect())
}

/// The number that an id spells.
pub(super) fn number(id: &MemberId) -> Result<u64> {
    u64::from_str_radix(id.as_str(), 16).map_err(|error| {
        let reason = format!("a member of etcd has an id in hexadecimal digits, not {:?}", id.as_str());
        Error::invalid_argument(reason).with_source(error)
    })
}

fn refused(reason: impl Into<String>) -> Error {
    Error::new(ErrorKind::Refused { reason: reason.into() })
}

/// Refuses a change after which so many of `voters` would serve and be too few.
fn check_quorum(serving: usize, voters: usize, change: &str) -> Result<()> {
    let quorum = voters / 2 + 1;
    if serving >= quorum {
        return Ok(());
    }
    Err(refused(format!(
        "{change} would leave {serving} of {voters} voting members in service, and it takes {quorum} of them: \
         bring back or remove first what is out of service"
    )))
}

fn no_urls(urls: &[String]) -> Result<()> {
    if urls.is_empty() { Err(Error::invalid_argument("a member needs a peer URL")) } else { Ok(()) }
}

impl EtcdStore {
    async fn members(&self, options: CallOptions) -> Result<Vec<Member>> {
        let env = self.env();
        env.check_open()?;
        Ok(Seen::look(env, env.deadline(options.timeout)).await?.all())
    }

    async fn set_endpoints(&self, endpoints: &[String], options: CallOptions) -> Result<()> {
        let env = self.env();
        env.check_open()?;
        env.client.set_endpoints(env.deadline(options.timeout), endpoints).await
    }

    async fn remove_member(&self, id: &MemberId, options: CallOptions) -> Result<bool> {
        let env = self.env();
        env.check_open()?;
        let (id, deadline) = (number(id)?, env.deadline(options.timeout));
        let seen = Seen::look(env, deadline).await?;
        let Ok(leaving) = seen.find(id) else { return Ok(false) };
        if !leaving.learner {
            let left: Vec<_> = seen.voters().filter(|(member, _)| member.id != id).collect();
            if left.is_empty() {
                return Err(refused("it is the only member that votes: without it there is no cluster"));
            }
            let serving = left.iter().filter(|(_, is_out)| !is_out).count();
            check_quorum(serving, left.len(), "the removal")?;
        }
        env.client.remove_member(deadline, id).await
    }

    async fn add_member(&self, new: NewMember, options: CallOptions) -> Result<Joining> {
        let env = self.env();
        env.check_open()?;
        no_urls(&new.peer_urls)?;
        let deadline = env.deadline(options.timeout);
        if !new.learner {
            let seen = Seen::look(env, deadline).await?;
            let voters = seen.voters().count();
            if voters == 1 {
                return Err(refused(
                    "a cluster of one would wait with every request for a second voter until that is started, and \
                     could not take it back: add it as a learner, start it, and promote it",
                ));
            }
            let serving = seen.voters().filter(|(_, is_out)| !is_out).count();
            check_quorum(serving, voters + 1, "the addition")?;
        }
        let (member, all) = env.client.add_member(deadline, &new.peer_urls, new.learner).await?;
        Ok(joining(&member, all))
    }

    async fn promote_member(&self, id: &MemberId, options: CallOptions) -> Result<()> {
        let env = self.env();
        env.check_open()?;
        let (id, deadline) = (number(id)?, env.deadline(options.timeout));
        let seen = Seen::look(env, deadline).await?;
        let learner = seen.find(id)?;
        if !learner.learner {
            return Err(refused("it votes already"));
        }
        if learner.name.is_empty() {
            return Err(refused("it was not started yet"));
        }
        env.client.promote_member(deadline, id).await
    }

    async fn update_member(
        &self,
        id: &MemberId,
        peer_urls: &[String],
        options: CallOptions,
    ) -> Result<Joining> {
        let env = self.env();
        env.check_open()?;
        no_urls(peer_urls)?;
        let (id, deadline) = (number(id)?, env.deadline(options.timeout));
        let seen = Seen::look(env, deadline).await?;
        if seen.find(id)?.learner {
            return Err(refused(
                "it is a learner, which some versions of etcd promote when its URLs change: remove it, and add it \
                 with the new ones",
            ));
        }
        let all = env.client.update_member(deadline, id, peer_urls).await?;
        let updated = all.iter().find(|member| member.id == id).cloned();
        let updated = updated.ok_or_else(|| crate::client::error::nonsense("no member that was updated"))?;
        Ok(joining(&updated, all))
    }

    async fn transfer_leadership(&self, id: &MemberId, options: CallOptions) -> Result<()> {
        let env = self.env();
        env.check_open()?;
        let (id, deadline) = (number(id)?, env.deadline(options.timeout));
        let seen = Seen::look(env, deadline).await?;
        let to = seen.find(id)?;
        if to.learner || to.name.is_empty() {
            return Err(refused("only a member that votes and was started can lead"));
        }
        if seen.leader == id {
            return Ok(());
        }
        let is_leader =
            |asked: &&Asked| asked.status.as_ref().is_ok_and(|status| status.member == seen.leader);
        let Some(leader) = seen.asked.iter().find(is_leader).filter(|_| seen.leader != 0) else {
            let detail = "the leader, which alone can hand over, is none of the endpoints that answer";
            return Err(Error::new(ErrorKind::Unavailable).not_applied().with_detail(detail));
        };
        env.client.move_leader(deadline, &leader.endpoint, id).await
    }
}

/// Says what an error is about.
pub(super) fn about(operation: Operation) -> impl FnOnce(Error) -> Error {
    move |error| error.with_operation(operation).with_backend(BACKEND)
}

#[async_trait]
impl Cluster for EtcdStore {
    async fn members_with(&self, options: CallOptions) -> Result<Vec<Member>> {
        self.members(options).await.map_err(about(Operation::Members))
    }

    fn endpoints(&self) -> Vec<String> {
        self.env().client.endpoints()
    }

    async fn set_endpoints_with(&self, endpoints: &[String], options: CallOptions) -> Result<()> {
        self.set_endpoints(endpoints, options).await.map_err(about(Operation::SetEndpoints))
    }

    fn as_evict(&self) -> Option<&dyn Evict> {
        Some(self)
    }

    fn as_reconfigure(&self) -> Option<&dyn Reconfigure> {
        Some(self)
    }
}

#[async_trait]
impl Evict for EtcdStore {
    async fn remove_member_with(&self, id: &MemberId, options: CallOptions) -> Result<bool> {
        self.remove_member(id, options).await.map_err(about(Operation::RemoveMember))
    }
}

#[async_trait]
impl Reconfigure for EtcdStore {
    async fn add_member_with(&self, member: NewMember, options: CallOptions) -> Result<Joining> {
        self.add_member(member, options).await.map_err(about(Operation::AddMember))
    }

    async fn promote_member_with(&self, id: &MemberId, options: CallOptions) -> Result<()> {
        self.promote_member(id, options).await.map_err(about(Operation::PromoteMember))
    }

    async fn update_member_with(
        &self,
        id: &MemberId,
        peer_urls: &[String],
        options: CallOptions,
    ) -> Result<Joining> {
        self.update_member(id, peer_urls, options).await.map_err(about(Operation::UpdateMember))
    }

    async fn transfer_leadership_with(&self, id: &MemberId, options: CallOptions) -> Result<()> {
        self.transfer_leadership(id, options).await.map_err(about(Operation::TransferLeadership))
    }
}
