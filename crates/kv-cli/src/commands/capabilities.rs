//! `kv capabilities`: what the store declares.

use kv_core::{Capabilities, Guarantee, LockTtl, Power, TtlRange};
use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

use crate::exit::Failure;
use crate::output::{Format, Output, duration, table};
use crate::session::Session;

pub(crate) async fn run(session: &Session) -> Result<(), Failure> {
    let declared = session.store().await?.capabilities();
    let mut out = Output::stdout();
    match session.output() {
        None | Some(Format::Table) => show(&mut out, declared)?,
        Some(Format::Json | Format::Jsonl) => out.json(&Declared::new(declared))?,
    }
    out.flush()
}

fn show(out: &mut Output, declared: &Capabilities) -> Result<(), Failure> {
    let word = |yes| if yes { "yes" } else { "no" };
    out.line(&format!("{}\n", declared.backend))?;
    let mut flags = table();
    for power in Power::ALL {
        flags.add_row([power.name(), word(declared.has(*power)), power.promise().trim()]);
    }
    for guarantee in Guarantee::ALL {
        let given = word(declared.guarantees(*guarantee));
        flags.add_row([guarantee.name(), given, guarantee.promise().trim()]);
    }
    out.table(flags)?;
    out.line("")?;
    let limits = &declared.limits;
    let mut table = table();
    let range = |range: &TtlRange| format!("{} to {}", duration(range.min), duration(range.max));
    table.add_row(["max_value", &format!("{} bytes", limits.max_value)]);
    if declared.has(Power::Transactions) {
        table.add_row(["max_txn_ops", &limits.max_txn_ops.to_string()]);
        table.add_row(["max_txn_bytes", &format!("{} bytes", limits.max_txn_bytes)]);
    }
    if declared.has(Power::Ttl) {
        table.add_row(["ttl_range", &range(&limits.ttl)]);
        table.add_row(["ttl_granularity", &duration(limits.ttl.granularity)]);
        let (factor, slack) = (limits.ttl_bound.factor, duration(limits.ttl_bound.slack));
        table.add_row(["ttl_bound", &format!("{factor} × ttl + {slack}")]);
    }
    table.add_row(["session_bound", &duration(limits.session_bound)]);
    table.add_row(["lock_ttl", lock_ttl(declared.lock_ttl)]);
    table.add_row(["lock_ttl_range", &range(&limits.lock_ttl)]);
    out.table(table)
}

fn lock_ttl(lock_ttl: LockTtl) -> &'static str {
    match lock_ttl {
        LockTtl::PerLock => "per_lock",
        LockTtl::PerSession => "per_session",
        _ => "unknown",
    }
}

/// Named flags as a JSON object, in their order.
struct Flags(Vec<(&'static str, bool)>);

impl Serialize for Flags {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, yes) in &self.0 {
            map.serialize_entry(name, yes)?;
        }
        map.end()
    }
}

#[derive(Serialize)]
struct Declared {
    backend: &'static str,
    powers: Flags,
    guarantees: Flags,
    lock_ttl: &'static str,
    limits: Limits,
}

#[derive(Serialize)]
struct Limits {
    max_value: usize,
    max_txn_ops: usize,
    max_txn_bytes: usize,
    ttl_min_seconds: f64,
    ttl_max_seconds: f64,
    ttl_granularity_seconds: f64,
    ttl_bound_factor: u32,
    ttl_bound_slack_seconds: f64,
    session_bound_seconds: f64,
    lock_ttl_min_seconds: f64,
    lock_ttl_max_seconds: f64,
}

impl Declared {
    fn new(declared: &Capabilities) -> Self {
        let limits = &declared.limits;
        Self {
            backend: declared.backend,
            powers: Flags(Power::ALL.iter().map(|power| (power.name(), declared.has(*power))).collect()),
            guarantees: Flags(
                Guarantee::ALL
                    .iter()
                    .map(|guarantee| (guarantee.name(), declared.guarantees(*guarantee)))
                    .collect(),
            ),
            lock_ttl: lock_ttl(declared.lock_ttl),
            limits: Limits {
                max_value: limits.max_value,
                max_txn_ops: limits.max_txn_ops,
                max_txn_bytes: limits.max_txn_bytes,
                ttl_min_seconds: limits.ttl.min.as_secs_f64(),
                ttl_max_seconds: limits.ttl.max.as_secs_f64(),
                ttl_granularity_seconds: limits.ttl.granularity.as_secs_f64(),
                ttl_bound_factor: limits.ttl_bound.factor,
                ttl_bound_slack_seconds: limits.ttl_bound.slack.as_secs_f64(),
                session_bound_seconds: limits.session_bound.as_secs_f64(),
                lock_ttl_min_seconds: limits.lock_ttl.min.as_secs_f64(),
                lock_ttl_max_seconds: limits.lock_ttl.max.as_secs_f64(),
            },
        }
    }
}
