#![doc = include_str!("../README.md")]

mod clock;
mod config;
mod coop;
mod deadline;
mod handle;
mod hold;
mod hub;
mod lock_feed;
mod lock_table;
mod lock_watch;
mod namespace;
mod precondition;
mod session;
mod sweeper;
mod table_hold;
mod ttl;
mod wakes;

pub use clock::{Clock, ManualClock, Sleep, Timestamp, TokioClock};
pub use config::{
    Plaintext, TlsOptions, TlsParam, check_times, parse_endpoint, read_text, take_times, user_and_password,
};
pub use coop::poll_budget;
pub use deadline::{Deadline, within};
pub use handle::HandleId;
pub use hold::HoldState;
pub use hub::{Change, Hub, HubOptions, Page, Pages, State, StateFor};
pub use lock_table::{Grant, LockRequest, LockTable, Ticket};
pub use lock_watch::{list_table, watch_in_table};
pub use namespace::Namespace;
pub use precondition::check_precondition;
pub use session::SessionCell;
pub use sweeper::{Sweep, Sweeper};
pub use table_hold::{LockAccess, lock_in_table};
pub use ttl::TtlQueue;
pub use wakes::Wakes;
