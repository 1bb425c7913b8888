#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod audit;
mod fail_fast;
mod faults;
mod kind;
mod layered;
mod limit;
#[cfg(feature = "metrics")]
mod metrics;
mod policy;
#[cfg(feature = "rate-limit")]
mod rate_limit;
mod read_only;
mod retry;
mod timeout;
mod trace;

pub use audit::Audit;
pub use fail_fast::FailFast;
pub use faults::Faults;
pub use kv_core;
pub use layered::{LayerExt, Layered};
pub use limit::ConcurrencyLimit;
#[cfg(feature = "metrics")]
pub use metrics::Metrics;
pub use policy::{Answer, Call, Next, Policy, Target};
#[cfg(feature = "rate-limit")]
pub use rate_limit::RateLimit;
pub use read_only::ReadOnly;
pub use retry::Retry;
pub use timeout::Timeout;
pub use trace::Trace;
