//! What the configurations of server backends share: endpoints, credentials, TLS options and times mean
//! the same, and are refused in the same words, whichever server a URL names.

mod credentials;
mod endpoint;
mod files;
mod times;
mod tls;

pub use credentials::{Plaintext, user_and_password};
pub use endpoint::parse_endpoint;
pub use files::read_text;
pub use times::{check_times, take_times};
pub use tls::{TlsOptions, TlsParam};

use kv_core::{Error, Operation};

fn refused(reason: impl Into<String>) -> Error {
    Error::invalid_config(reason).with_operation(Operation::Open)
}
