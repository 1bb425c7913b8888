//! What the ratios are to reach, and what is to be said where they do not.

use crate::measure::Row;

/// Whether a row reaches its target; `None` if it has none.
pub(crate) fn of(row: &Row) -> Option<bool> {
    let (one, many) = (row.concurrency == 1, row.concurrency == 64);
    let reached = |ratio: f64, latency: f64| row.ratio_high >= ratio && row.latency_ratio <= latency;
    match (row.backend.as_str(), row.workload.as_str()) {
        ("sled", "get") => Some(row.ratio_high >= 0.8),
        ("sled", "put (existing key)") if many => Some(row.ratio_high >= 1.0),
        ("sled" | "mem", _) => None,
        (_, "watch latency") if one => Some(row.latency_ratio <= 1.1),
        (
            _,
            "get" | "put (new key)" | "put (existing key)" | "compare-and-set" | "delete" | "list 1,000 keys",
        ) if one || many => Some(reached(0.97, 1.05)),
        _ => None,
    }
}

/// What a reader of a backend's table must know: why a target is missed, and what is got for it.
pub(crate) fn remarks(backend: &str) -> &'static str {
    match backend {
        "mem" => include_str!("remarks/mem.md"),
        "sled" => include_str!("remarks/sled.md"),
        "etcd" => include_str!("remarks/etcd.md"),
        "consul" => include_str!("remarks/consul.md"),
        "zk" => include_str!("remarks/zk.md"),
        _ => "",
    }
}
