//! `kv elect KEY -- COMMAND`: the command runs while this process leads, and again each time it does.

use std::time::Duration;

use kv_core::{ErrorKind, Operation};
use kv_recipes::{Election, Leadership};

use super::hold::{Bounds, End, hold, tell_holders};
use super::owner::default_owner;
use crate::child::{Signals, number};
use crate::cli::Elect;
use crate::exit::Failure;
use crate::output::say;
use crate::session::{Session, Wait};

/// How long to wait before a campaign that failed is begun anew, where an earlier one succeeded.
const PAUSE: Duration = Duration::from_secs(1);

/// Campaigns, runs the command and returns its exit code. When the office is lost, it begins again.
pub(crate) async fn run(session: &Session, args: Elect) -> Result<u8, Failure> {
    let key = super::key(&args.key, Operation::Lock)?;
    let mut signals = Signals::listen()?;
    let store = tokio::select! {
        biased;
        signal = signals.next() => return Err(Failure::Signal(number(signal))),
        store = session.store_within(Wait::Forever) => store?.clone(),
    };
    let owner = args.owner.clone().unwrap_or_else(default_owner);
    let mut election = Election::new(store.clone(), key.clone())?.with_identity(owner);
    if let Some(ttl) = args.ttl {
        election = election.with_ttl(ttl);
    }
    let mut has_led = false;
    loop {
        let won = tokio::select! {
            biased;
            signal = signals.next() => return Err(Failure::Signal(number(signal))),
            won = session.request(Operation::Lock, key.as_str(), election.campaign()) => won,
            never = tell_holders(session, &*store, "office", &key) => match never {},
        };
        let leadership = match won {
            Ok(leadership) => leadership,
            Err(error) if has_led && error.is_transient() => {
                say(&format!("kv: warning: {error}; the campaign is begun anew"));
                tokio::select! {
                    biased;
                    signal = signals.next() => return Err(Failure::Signal(number(signal))),
                    () = tokio::time::sleep(PAUSE) => {}
                }
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        has_led = true;
        say(&format!("kv: leads {key:?} in term {}", leadership.term()));
        match term(&leadership, &args, &mut signals).await? {
            Over::Exited(code) => return resigned(leadership, code).await,
            Over::Lost(why) => say(&format!("kv: the office {key:?} was lost: {why}; it campaigns again")),
        }
    }
}

/// How a term ended.
enum Over {
    Exited(u8),
    Lost(String),
}

async fn term(leadership: &Leadership, args: &Elect, signals: &mut Signals) -> Result<Over, Failure> {
    if let Some(value) = &args.proclaim {
        match leadership.proclaim(value.clone()).await {
            Ok(()) => {}
            Err(error) if matches!(error.kind(), ErrorKind::NotHeld { .. }) => {
                return Ok(Over::Lost(error.to_string()));
            }
            Err(error) => return Err(error.into()),
        }
    }
    let bounds = Bounds { max_hold: None, grace: args.grace };
    Ok(match hold(leadership, &args.command, bounds, signals).await? {
        End::Exited(code) => Over::Exited(code),
        End::Lost(loss) => Over::Lost(format!("{loss}, and the command was stopped")),
        // Only where a longest time was asked for.
        End::TooLong => Over::Lost("the command ran for too long".to_owned()),
    })
}

/// The exit code of a command that ended by itself, once the office is free.
async fn resigned(leadership: Leadership, code: u8) -> Result<u8, Failure> {
    let key = leadership.key().clone();
    match leadership.resign().await {
        Ok(()) => Ok(code),
        Err(error) if matches!(error.kind(), ErrorKind::NotHeld { .. }) => Err(Failure::NoLock(format!(
            "the office {key:?} was lost while the command ended, with code {code}"
        ))),
        Err(error) => {
            say(&format!("kv: warning: {error}; the office ends with its time to live at the latest"));
            Ok(code)
        }
    }
}
