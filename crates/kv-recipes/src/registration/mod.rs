//! Registering a process under a key for as long as it lives.

mod handle;
mod keeper;
mod options;

pub use handle::Registration;
pub use options::{OnLoss, RegistrationOptions, RegistrationState};
