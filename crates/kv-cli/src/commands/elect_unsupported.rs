//! `kv elect KEY -- COMMAND` where there are no process groups.

use kv_core::Error;

use crate::cli::Elect;
use crate::exit::Failure;
use crate::session::Session;

/// Refuses.
#[allow(clippy::unused_async, reason = "it is asynchronous where it works")]
pub(crate) async fn run(_session: &Session, _args: Elect) -> Result<u8, Failure> {
    Err(Error::unsupported("running a command under an office, on a system without process groups").into())
}
