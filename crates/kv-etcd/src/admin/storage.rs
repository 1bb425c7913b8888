//! What the members' databases take on their disks.

use async_trait::async_trait;
use kv_core::{CallOptions, Defragmented, Error, ErrorKind, MemberId, Operation, Result, Size, Storage};

use super::cluster::{about, number};
use crate::client::{Asked, Status};
use crate::store::EtcdStore;

fn id(status: &Status) -> MemberId {
    MemberId::new(format!("{:x}", status.member))
}

impl EtcdStore {
    /// The endpoints with what they tell of themselves, in the order of the members' ids; each member once.
    async fn told(&self, options: &CallOptions) -> Result<Vec<(Asked, Status)>> {
        let env = self.env();
        env.check_open()?;
        let mut told = Vec::new();
        for asked in env.client.statuses(env.deadline(options.timeout)).await {
            let status = asked.status.as_ref().map_err(Clone::clone)?.clone();
            told.push((asked, status));
        }
        told.sort_by_key(|(_, status)| status.member);
        told.dedup_by_key(|(_, status)| status.member);
        Ok(told)
    }

    async fn sizes(&self, options: CallOptions) -> Result<Vec<Size>> {
        let told = self.told(&options).await?;
        Ok(told
            .iter()
            .map(|(_, status)| Size::new(id(status), status.size).with_in_use(status.in_use))
            .collect())
    }

    async fn defragment(&self, member: Option<&MemberId>, options: CallOptions) -> Result<Vec<Defragmented>> {
        let env = self.env();
        let only = member.map(number).transpose()?;
        let mut told = self.told(&options).await?;
        if let Some(only) = only {
            told.retain(|(_, status)| status.member == only);
            if told.is_empty() {
                return Err(Error::new(ErrorKind::NotFound)
                    .with_detail(format!("the member {only:x} is none of the configured endpoints")));
            }
        }
        // The leader last: the others serve while each of them is away, and it is moved by no step before.
        told.sort_by_key(|(_, status)| status.member == status.leader);
        let mut done = Vec::new();
        for (asked, before) in told {
            env.client.defragment(env.deadline(options.timeout), &asked.endpoint).await?;
            let after = env.client.status(env.deadline(options.timeout), &asked.endpoint).await.status?;
            done.push(Defragmented::new(id(&before), before.size, after.size));
        }
        Ok(done)
    }
}

#[async_trait]
impl Storage for EtcdStore {
    async fn sizes_with(&self, options: CallOptions) -> Result<Vec<Size>> {
        self.sizes(options).await.map_err(about(Operation::Sizes))
    }

    async fn defragment_with(
        &self,
        member: Option<&MemberId>,
        options: CallOptions,
    ) -> Result<Vec<Defragmented>> {
        self.defragment(member, options).await.map_err(about(Operation::Defragment))
    }
}
