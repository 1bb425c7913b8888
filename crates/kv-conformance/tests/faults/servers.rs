//! Servers behind the memory store, which has none: with members, disks and users, and with one fault.

use std::collections::BTreeMap;
use std::sync::Mutex;

use async_trait::async_trait;
use kv_core::{
    Access, AccessControl, CallOptions, Capabilities, Cluster, Defragmented, Error, ErrorKind, Health,
    Member, MemberId, MemberRole, NewUser, Power, Prefix, Result, Right, Secret, Size, Storage, User,
};

use super::Fault;

const POWERS: &[Power] = &[Power::Cluster, Power::Storage, Power::Access];

/// What is wrong with some servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wrong {
    Nothing,
    AllLead,
    EndpointsAreTaken,
    MoreInUse,
    AnyPassword,
    GrantsReplace,
    RevocationsTakeAll,
}

type Rights = BTreeMap<Prefix, Access>;

/// See the module.
pub(crate) struct Servers {
    wrong: Wrong,
    endpoints: Mutex<Vec<String>>,
    users: Mutex<BTreeMap<String, Rights>>,
}

fn servers(wrong: Wrong) -> Servers {
    Servers { wrong, endpoints: Mutex::new(vec!["h:1".to_owned()]), users: Mutex::default() }
}

fn on(name: &'static str, caught_by: &'static [&'static str], wrong: Wrong) -> Fault {
    Fault::new(name, caught_by)
        .servers(servers(wrong))
        .capabilities(|declared: Capabilities| declared.with_powers(POWERS))
}

/// No fault: servers that do what they should.
pub(crate) fn sound_servers() -> Fault {
    on("sound_servers", &[], Wrong::Nothing)
}

pub(super) fn faults() -> Vec<Fault> {
    let undeclared = |name, caught_by, power: Power| {
        Fault::new(name, caught_by)
            .dishonest()
            .servers(servers(Wrong::Nothing))
            .capabilities(move |declared: Capabilities| declared.with_powers(POWERS).without_power(power))
    };
    vec![
        on("every_member_leads", &["members_are_listed"], Wrong::AllLead),
        on("any_endpoint_is_taken", &["endpoints_are_changed_or_kept"], Wrong::EndpointsAreTaken),
        on("more_is_in_use_than_there_is", &["sizes_are_told"], Wrong::MoreInUse),
        on("an_empty_password_is_taken", &["users_come_and_go"], Wrong::AnyPassword),
        on("a_grant_replaces_another", &["grants_add_and_revocations_subtract"], Wrong::GrantsReplace),
        on("a_revocation_takes_all", &["grants_add_and_revocations_subtract"], Wrong::RevocationsTakeAll),
        undeclared("a_cluster_is_not_declared", &["members_are_listed"], Power::Cluster),
        undeclared("storage_is_not_declared", &["sizes_are_told"], Power::Storage),
        undeclared("access_is_not_declared", &["users_come_and_go"], Power::Access),
    ]
}

#[async_trait]
impl Cluster for Servers {
    async fn members_with(&self, _: CallOptions) -> Result<Vec<Member>> {
        let member = |id: &str| {
            let mut member = Member::new(MemberId::new(id));
            let leads = id == "1" || self.wrong == Wrong::AllLead;
            member.role = if leads { MemberRole::Leader } else { MemberRole::Voter };
            member.health = Health::Healthy;
            member
        };
        Ok(["1", "2", "3"].map(member).into())
    }

    fn endpoints(&self) -> Vec<String> {
        self.endpoints.lock().unwrap().clone()
    }

    async fn set_endpoints_with(&self, endpoints: &[String], _: CallOptions) -> Result<()> {
        let are_bad = endpoints.is_empty() || endpoints.iter().any(|endpoint| endpoint.contains(['/', ' ']));
        if self.wrong == Wrong::EndpointsAreTaken || !are_bad {
            *self.endpoints.lock().unwrap() = endpoints.to_vec();
        }
        if are_bad { Err(Error::invalid_config("no endpoint")) } else { Ok(()) }
    }
}

#[async_trait]
impl Storage for Servers {
    async fn sizes_with(&self, _: CallOptions) -> Result<Vec<Size>> {
        let in_use = if self.wrong == Wrong::MoreInUse { 11 } else { 9 };
        Ok(vec![Size::new(MemberId::new("1"), 10).with_in_use(in_use)])
    }

    async fn defragment_with(&self, _: Option<&MemberId>, _: CallOptions) -> Result<Vec<Defragmented>> {
        Ok(vec![Defragmented::new(MemberId::new("1"), 10, 9)])
    }
}

impl Servers {
    fn of<T>(&self, name: &str, change: impl FnOnce(&mut Rights) -> T) -> Result<T> {
        let mut users = self.users.lock().unwrap();
        users.get_mut(name).map(change).ok_or_else(|| ErrorKind::NotFound.into())
    }
}

#[async_trait]
impl AccessControl for Servers {
    async fn add_user_with(&self, name: &str, user: NewUser, _: CallOptions) -> Result<()> {
        if user.password.expose().is_empty() && self.wrong != Wrong::AnyPassword {
            return Err(Error::invalid_argument("the password is empty"));
        }
        let mut users = self.users.lock().unwrap();
        if users.contains_key(name) {
            return Err(ErrorKind::AlreadyExists { current: None }.into());
        }
        users.insert(name.to_owned(), Rights::new());
        Ok(())
    }

    async fn remove_user_with(&self, name: &str, _: CallOptions) -> Result<bool> {
        Ok(self.users.lock().unwrap().remove(name).is_some())
    }

    async fn set_password_with(&self, name: &str, _: Secret, _: CallOptions) -> Result<()> {
        self.of(name, |_| ())
    }

    async fn grant_with(&self, name: &str, access: Access, prefix: &Prefix, _: CallOptions) -> Result<()> {
        self.of(name, |rights| {
            let before = rights.get(prefix).copied().filter(|_| self.wrong != Wrong::GrantsReplace);
            rights.insert(prefix.clone(), before.map_or(access, |before| before.plus(access)));
        })
    }

    async fn revoke_with(&self, name: &str, access: Access, prefix: &Prefix, _: CallOptions) -> Result<bool> {
        self.of(name, |rights| {
            let Some(before) = rights.remove(prefix) else { return false };
            let left = before.minus(access).filter(|_| self.wrong != Wrong::RevocationsTakeAll);
            if let Some(left) = left {
                rights.insert(prefix.clone(), left);
            }
            left != Some(before)
        })
    }

    async fn user_with(&self, name: &str, _: CallOptions) -> Result<Option<User>> {
        let users = self.users.lock().unwrap();
        Ok(users.get(name).map(|rights| {
            let right = |(prefix, access): (&Prefix, &Access)| Right::new(Some(prefix.clone()), *access, "");
            User::new(name, rights.iter().map(right).collect())
        }))
    }

    async fn users_with(&self, _: CallOptions) -> Result<Vec<String>> {
        Ok(self.users.lock().unwrap().keys().cloned().collect())
    }
}
