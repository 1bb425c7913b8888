//! Requests about the servers themselves. None that changes anything is ever sent twice.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};

use etcd_client as native;
use futures_util::future::join_all;
use kv_backend::Deadline;
use kv_core::{Error, ErrorKind, Result};

use super::error::{self, Next, administrative};
use super::failure::Failure;
use super::member::{Leader, Member, Native};
use super::{Client, Repeat};

/// A member as the cluster lists it.
#[derive(Clone, Debug)]
pub(crate) struct Listed {
    pub(crate) id: u64,
    /// Empty until it was started.
    pub(crate) name: String,
    pub(crate) peer_urls: Vec<String>,
    pub(crate) client_urls: Vec<String>,
    pub(crate) learner: bool,
}

impl Listed {
    fn new(native: &native::Member) -> Self {
        Self {
            id: native.id(),
            name: native.name().to_owned(),
            peer_urls: native.peer_urls().to_vec(),
            client_urls: native.client_urls().to_vec(),
            learner: native.is_learner(),
        }
    }
}

fn listed(members: &[native::Member]) -> Vec<Listed> {
    members.iter().map(Listed::new).collect()
}

/// What a member tells of itself.
#[derive(Clone, Debug)]
pub(crate) struct Status {
    pub(crate) cluster: u64,
    pub(crate) member: u64,
    /// 0: it knows of none.
    pub(crate) leader: u64,
    pub(crate) term: u64,
    pub(crate) version: String,
    pub(crate) size: u64,
    pub(crate) in_use: u64,
    pub(crate) learner: bool,
    pub(crate) complaints: Vec<String>,
}

impl Status {
    fn new(native: &native::StatusResponse) -> Result<Self> {
        let header = native.header().ok_or_else(|| error::nonsense("an answer without a header"))?;
        Ok(Self {
            cluster: header.cluster_id(),
            member: header.member_id(),
            leader: native.leader(),
            term: native.raft_term(),
            version: native.version().to_owned(),
            size: u64::try_from(native.db_size()).unwrap_or_default(),
            in_use: u64::try_from(native.raft_used_db_size()).unwrap_or_default(),
            learner: native.is_learner(),
            complaints: native.errors().to_vec(),
        })
    }
}

/// What an endpoint answered, or why it did not.
pub(crate) struct Asked {
    pub(crate) endpoint: Arc<Member>,
    pub(crate) status: Result<Status>,
}

impl Client {
    /// Asks each configured endpoint how it is, all at once.
    pub(crate) async fn statuses(&self, deadline: Deadline) -> Vec<Asked> {
        let endpoints = self.members_now();
        join_all(endpoints.iter().map(|endpoint| self.status(deadline, endpoint))).await
    }

    /// Asks one endpoint how it is.
    pub(crate) async fn status(&self, deadline: Deadline, endpoint: &Arc<Member>) -> Asked {
        let ask = |native: Arc<Native>| async move {
            Ok(Status::new(&native.maintenance.clone().status().await?)?)
        };
        let status = self.ask_one(deadline, endpoint, Leader::NotNeeded, &ask).await;
        if let Ok(status) = &status {
            endpoint.answers_as(status.member);
        }
        Asked { endpoint: Arc::clone(endpoint), status }
    }

    /// The configured endpoints, as `host:port`.
    pub(crate) fn endpoints(&self) -> Vec<String> {
        self.members_now().iter().map(|endpoint| endpoint.host().to_owned()).collect()
    }

    /// Lets requests go to these endpoints from now on, if one of them answers, all that answer belong to the
    /// cluster that was spoken to so far, and none of them is a learner.
    pub(crate) async fn set_endpoints(&self, deadline: Deadline, endpoints: &[String]) -> Result<()> {
        let settings = self.settings.clone().with_hosts(endpoints);
        settings.check()?;
        let (before, dial) = (self.members_now(), super::dial(&settings));
        let mut members: Vec<Arc<Member>> = Vec::new();
        for url in settings.endpoints() {
            if members.iter().any(|member| member.url() == url) {
                continue;
            }
            let kept = before.iter().find(|member| member.url() == url).map(Arc::clone);
            members.push(kept.unwrap_or_else(|| Arc::new(Member::new(url, dial.clone()))));
        }
        let share = deadline.remaining()?.min(self.settings.connect_timeout);
        let asking = members.iter().map(|member| self.status(Deadline::after(share), member));
        let mut silent = Vec::new();
        let mut answered = false;
        for asked in join_all(asking).await {
            let host = asked.endpoint.host();
            let status = match asked.status {
                Ok(status) => status,
                Err(error) if *error.kind() == ErrorKind::Unauthenticated => return Err(error),
                Err(error) => {
                    silent.push(error);
                    continue;
                }
            };
            let cluster = self.cluster.load(Ordering::Relaxed);
            if cluster != 0 && status.cluster != cluster {
                let reason = format!("{host} is of the cluster {:x} and not of {cluster:x}", status.cluster);
                return Err(Error::new(ErrorKind::Refused { reason }));
            }
            if status.learner {
                let reason = format!("{host} is a learner, which serves no client: promote it first");
                return Err(Error::new(ErrorKind::Refused { reason }));
            }
            answered = true;
        }
        if !answered {
            let words: Vec<_> = silent.iter().map(ToString::to_string).collect();
            return Err(Error::new(ErrorKind::Unavailable)
                .not_applied()
                .with_detail(format!("none of the endpoints answers: {}", words.join("; "))));
        }
        *self.members.write().unwrap_or_else(PoisonError::into_inner) = members.into();
        Ok(())
    }

    /// Makes a request of one endpoint and no other, once.
    async fn ask_one<T, F, Fut>(
        &self,
        deadline: Deadline,
        endpoint: &Member,
        leader: Leader,
        ask: &F,
    ) -> Result<T>
    where
        F: Fn(Arc<Native>) -> Fut + Sync,
        Fut: Future<Output = Result<T, Failure>> + Send,
    {
        let mut signed_in = false;
        loop {
            let sent = AtomicBool::new(false);
            let asking = async { Ok(self.attempt(endpoint, leader, ask, &sent).await) };
            let error = match deadline.run(asking).await {
                Ok((Ok(answer), _)) => return Ok(answer),
                // It was refused for its token and not carried out.
                Ok((Err(Failure { next: Next::SignIn, .. }), generation)) if !signed_in => {
                    signed_in = true;
                    let signing_in = async { Ok(endpoint.sign_in(generation).await) };
                    match deadline.run(signing_in).await.map_err(Error::not_applied)? {
                        Ok(()) => continue,
                        Err(failure) => failure.error,
                    }
                }
                Ok((Err(failure), _)) => failure.error,
                Err(late) => late,
            };
            let error = error.with_endpoint(&endpoint.endpoint);
            let error = if sent.load(Ordering::Relaxed) { error } else { error.not_applied() };
            return Err(administrative(error));
        }
    }

    /// Makes a request that changes the servers, of any endpoint, once.
    pub(super) async fn change<T, F, Fut>(&self, deadline: Deadline, ask: F) -> Result<T>
    where
        F: Fn(Arc<Native>) -> Fut + Sync,
        Fut: Future<Output = Result<T, Failure>> + Send,
    {
        self.call(deadline, Leader::Needed, Repeat::Once, ask).await.map_err(administrative)
    }

    /// Forgets every state before a revision.
    pub(crate) async fn compact(&self, deadline: Deadline, revision: i64) -> Result<()> {
        let ask = move |native: Arc<Native>| async move {
            native.kv.clone().compact(revision, None).await?;
            Ok(())
        };
        self.call(deadline, Leader::Needed, Repeat::Once, ask).await
    }

    /// The members, as the endpoint that is asked knows them; it needs no quorum for that.
    pub(crate) async fn members(&self, deadline: Deadline) -> Result<Vec<Listed>> {
        let ask = |native: Arc<Native>| async move {
            Ok(listed(native.all.cluster_client().member_list().await?.members()))
        };
        self.call(deadline, Leader::NotNeeded, Repeat::Harmless, ask).await.map_err(administrative)
    }

    /// Adds a member, and returns it and all members.
    pub(crate) async fn add_member(
        &self,
        deadline: Deadline,
        urls: &[String],
        learner: bool,
    ) -> Result<(Listed, Vec<Listed>)> {
        let ask = |native: Arc<Native>| {
            let options = native::MemberAddOptions::new();
            let options = if learner { options.with_is_learner() } else { options };
            async move {
                let added = native.all.cluster_client().member_add(urls, Some(options)).await?;
                let member = added.member().ok_or_else(|| error::nonsense("no member that was added"))?;
                Ok((Listed::new(member), listed(added.member_list())))
            }
        };
        self.change(deadline, ask).await
    }

    /// Removes a member, and tells whether it was one.
    pub(crate) async fn remove_member(&self, deadline: Deadline, id: u64) -> Result<bool> {
        let ask = move |native: Arc<Native>| async move {
            native.all.cluster_client().member_remove(id).await?;
            Ok(true)
        };
        match self.change(deadline, ask).await {
            Err(error) if *error.kind() == ErrorKind::NotFound => Ok(false),
            other => other,
        }
    }

    /// Gives a learner its vote.
    pub(crate) async fn promote_member(&self, deadline: Deadline, id: u64) -> Result<()> {
        let ask = move |native: Arc<Native>| async move {
            native.all.cluster_client().member_promote(id).await?;
            Ok(())
        };
        self.change(deadline, ask).await
    }

    /// Changes a member's URLs, and returns all members.
    pub(crate) async fn update_member(
        &self,
        deadline: Deadline,
        id: u64,
        urls: &[String],
    ) -> Result<Vec<Listed>> {
        let ask = |native: Arc<Native>| async move {
            Ok(listed(native.all.cluster_client().member_update(id, urls).await?.members()))
        };
        self.change(deadline, ask).await
    }

    /// Has the leader, which this endpoint is, hand over to another member.
    pub(crate) async fn move_leader(&self, deadline: Deadline, leader: &Member, to: u64) -> Result<()> {
        let ask = move |native: Arc<Native>| async move {
            native.maintenance.clone().move_leader(to).await?;
            Ok(())
        };
        self.ask_one(deadline, leader, Leader::Needed, &ask).await
    }

    /// Has a member give back to its disk what its database does not use.
    pub(crate) async fn defragment(&self, deadline: Deadline, endpoint: &Member) -> Result<()> {
        let ask = |native: Arc<Native>| async move {
            native.maintenance.clone().defragment().await?;
            Ok(())
        };
        self.ask_one(deadline, endpoint, Leader::NotNeeded, &ask).await
    }
}
