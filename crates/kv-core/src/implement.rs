//! What only the authors of stores, layers and drivers need, beside the [`Store`](crate::Store) trait.
//!
//! An application calls what is behind these through [`StoreExt`](crate::StoreExt),
//! [`LockGuard`](crate::LockGuard) and [`Registry`](crate::Registry).

pub use crate::driver::Opening;
pub use crate::lock::Hold;
pub use crate::lock_view::LockView;
pub use crate::params::Params;
pub use crate::txn::Transact;
