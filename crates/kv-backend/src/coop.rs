//! Leaving others a turn: what never has to wait must give way by itself.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll};

/// For streams whose items are always there: asks before each item whether the task may go on.
/// Pending, and woken at once, when it has had its share on a tokio runtime; always ready outside
/// one.
///
/// Calls say the same with `tokio::task::consume_budget().await`.
pub fn poll_budget(cx: &mut Context<'_>) -> Poll<()> {
    pin!(tokio::task::consume_budget()).poll(cx)
}
