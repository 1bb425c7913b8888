//! Hosts as a configuration in code names them.

use kv_core::{Host, Result, StoreUrl};

use super::refused;

/// Takes an endpoint apart as a URL would: `host`, `host:port`, `[::1]` or `[::1]:port`.
///
/// # Errors
///
/// `InvalidConfig` for anything else. The text is not repeated: it can hold a password that slipped.
///
/// ```
/// use kv_backend::parse_endpoint;
///
/// assert_eq!(parse_endpoint("h1:2379")?.port, Some(2379));
/// assert!(parse_endpoint("[127.0.0.1:2379]").is_err());
/// assert!(parse_endpoint("user@h1").is_err());
/// # Ok::<(), kv_core::Error>(())
/// ```
pub fn parse_endpoint(text: &str) -> Result<Host> {
    let wrong = || refused("an endpoint is HOST or HOST:PORT, without scheme, user or path");
    if text.contains(['/', '?', '#', '@', ',', '\\']) {
        return Err(wrong());
    }
    match StoreUrl::parse(&format!("endpoint://{text}"))?.hosts() {
        [host] => Ok(host.clone()),
        _ => Err(wrong()),
    }
}
