//! States that turn empty: whether everything was deleted, or hidden from the token.

use std::collections::BTreeSet;

use crate::client::rights::denied;
use crate::client::scope::Scope;
use crate::watch::members::{Joining, Members, Wants};

/// What the subscriptions of a query find nothing in.
#[derive(Debug, Default)]
pub(crate) struct Emptied {
    /// Where there was something before.
    pub(crate) turned: BTreeSet<String>,
    /// Where nothing is known of before.
    pub(crate) begun: BTreeSet<String>,
}

impl Members {
    /// Where subscriptions find nothing in the new state, before they are told what is gone. These join.
    ///
    /// Who asks for hints looks for itself, and asks for the right then.
    pub(crate) fn emptied(&self, query: u64, joining: &[u64]) -> Emptied {
        let state = self.lock();
        let mut emptied = Emptied::default();
        let Some(running) = state.queries.get(&query) else { return emptied };
        let gone = running.known.missing();
        for (id, member) in running.members.iter().filter_map(|id| Some((id, state.members.get(id)?))) {
            if member.wants == Wants::Hints {
                continue;
            }
            let lost = |gone: &[&str]| gone.iter().any(|native| member.scope.contains(native));
            let had = match &member.joining {
                None if lost(&gone) => true,
                Some(Joining { base: Some(base), .. }) if joining.contains(id) => lost(&base.missing()),
                Some(Joining { base: None, .. }) if joining.contains(id) => false,
                _ => continue,
            };
            if !running.known.shows(&member.scope) {
                let names = if had { &mut emptied.turned } else { &mut emptied.begun };
                names.insert(member.scope.right());
            }
        }
        emptied
    }

    /// The token may not read these: ends the subscriptions that are about them.
    pub(crate) fn deny(&self, query: u64, names: &[String]) {
        let mut state = self.lock();
        let Some(running) = state.queries.get(&query) else { return };
        let about = |scope: &Scope| {
            let right = scope.right();
            names.contains(&right)
        };
        let ids: Vec<u64> = running
            .members
            .iter()
            .copied()
            .filter(|id| {
                state
                    .members
                    .get(id)
                    .is_some_and(|member| member.wants != Wants::Hints && about(&member.scope))
            })
            .collect();
        for id in ids {
            if let Some(member) = state.remove(id) {
                let name = member.scope.right();
                member.fail(|| denied(&name));
            }
        }
    }
}
