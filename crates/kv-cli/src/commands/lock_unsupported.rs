//! `kv lock` where there are no process groups.

use kv_core::Error;

use crate::cli::Lock;
use crate::exit::Failure;
use crate::session::Session;

/// Refuses.
#[allow(clippy::unused_async, reason = "it is asynchronous where it works")]
pub(crate) async fn run(_session: &Session, _args: Lock) -> Result<u8, Failure> {
    Err(Error::unsupported("running a command under a lock, on a system without process groups").into())
}
