//! Asking Consul what the token may read, after an answer that there is nothing.

use kv_backend::Deadline;
use kv_core::{ErrorKind, Result};
use serde::{Deserialize, Serialize};

use crate::client::api::{Api, Lane, SMALL};
use crate::client::error::protocol;
use crate::client::rights::denied;
use crate::client::transport::Request;
use crate::client::wire::{from_json, to_json};

/// How many rights Consul tells in one answer.
const MAX_ASKED: usize = 64;

/// One right, as Consul is asked for it and as it tells it.
#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Right {
    resource: String,
    access: String,
    #[serde(default)]
    segment: String,
    #[serde(default, skip_serializing)]
    allow: bool,
}

impl Api {
    /// After the answer that there is nothing under this name, or below it if it ends in a slash: makes sure
    /// that the token may read there.
    ///
    /// # Errors
    ///
    /// `PermissionDenied` if it may not; `Unauthenticated` if Consul does not know the token any more.
    pub(crate) async fn check_readable(&self, lane: Lane, name: &str, deadline: &Deadline) -> Result<()> {
        match self.unreadable(lane, vec![name.to_owned()], false, deadline).await?.first() {
            Some(name) => Err(denied(name)),
            None => Ok(()),
        }
    }

    /// Which of these names the token may not read; `fresh`: as of now, whatever was answered before.
    pub(crate) async fn unreadable(
        &self,
        lane: Lane,
        names: Vec<String>,
        fresh: bool,
        deadline: &Deadline,
    ) -> Result<Vec<String>> {
        let mut unreadable = Vec::new();
        for names in self.rights.unknown(names, fresh).chunks(MAX_ASKED) {
            let Some(told) = self.ask_for_rights(lane, names, deadline).await? else { break };
            for (name, allowed) in names.iter().zip(told) {
                if allowed {
                    self.rights.allow(name.clone());
                } else {
                    unreadable.push(name.clone());
                }
            }
        }
        Ok(unreadable)
    }

    /// Which of these names the token may read; `None` if nobody can say or there are no ACLs.
    async fn ask_for_rights(
        &self,
        lane: Lane,
        names: &[String],
        deadline: &Deadline,
    ) -> Result<Option<Vec<bool>>> {
        let right = |name: &String| Right {
            resource: "key".to_owned(),
            access: "read".to_owned(),
            segment: name.clone(),
            allow: false,
        };
        let wanted: Vec<Right> = names.iter().map(right).collect();
        let path = self.path("/v1/internal/acl/authorize", None);
        let request = Request::post(path, to_json(&wanted)?).repeatable(true).uncounted();
        // Names may be long, and come back.
        let max = SMALL + names.iter().map(|name| name.len() * 6).sum::<usize>();
        let answer = match self.call(lane, request, max, deadline).await {
            Ok(answer) => answer,
            Err(error) if *error.kind() == ErrorKind::Protocol => return Err(error),
            Err(error) => {
                self.rights.warn(&error.to_string());
                return Ok(None);
            }
        };
        match answer.status {
            200 => {
                let told: Vec<Right> = from_json(&answer.body)?;
                let same = |(wanted, told): (&Right, &Right)| {
                    (&wanted.resource, &wanted.access, &wanted.segment)
                        == (&told.resource, &told.access, &told.segment)
                };
                if told.len() != wanted.len() || !wanted.iter().zip(&told).all(same) {
                    return Err(protocol("Consul tells other rights than it was asked for")
                        .with_endpoint(answer.endpoint));
                }
                Ok(Some(told.into_iter().map(|right| right.allow).collect()))
            }
            401 => {
                self.rights.are_off();
                Ok(None)
            }
            _ => {
                let error = answer.error("a right");
                if *error.kind() == ErrorKind::Unauthenticated {
                    return Err(error);
                }
                self.rights.warn(&error.to_string());
                Ok(None)
            }
        }
    }
}
