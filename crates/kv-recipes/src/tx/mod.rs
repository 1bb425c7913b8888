//! Buffered transactions: reads are remembered, writes are held back, and all of it is committed in one
//! step if nothing that was read has changed.

mod buffer;
mod commit;
mod retry;

pub use buffer::Tx;
pub use commit::Committed;
pub use retry::{Transacted, TxOptions, transaction, transaction_with};
