//! Asking a node a question until it answers as expected.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Result, bail, ensure};

use crate::spec::Probe;

const LIMIT: Duration = Duration::from_secs(3);
/// Metrics pages are the longest answers asked for.
const ANSWER_LIMIT: u64 = 4 << 20;

/// Asks once; an error says what was wrong with the answer.
pub(crate) fn ask(probe: &Probe, host_port: u16) -> Result<()> {
    let (question, is_http) = match (&probe.http, &probe.tcp) {
        (Some(path), _) => (format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n"), true),
        (None, tcp) => (tcp.clone().unwrap_or_default(), false),
    };
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, host_port));
    let mut stream = TcpStream::connect_timeout(&address, LIMIT)?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))?;
    stream.write_all(question.as_bytes())?;
    let mut answer = Vec::new();
    stream.take(ANSWER_LIMIT).read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer);
    let first_line = answer.lines().next().unwrap_or_default();
    ensure!(!is_http || first_line.contains(" 200 "), "it answered `{first_line}`");
    if !answer.contains(&probe.expect) {
        let start: String = answer.chars().take(300).collect();
        bail!("its answer lacks `{}`: {start}", probe.expect);
    }
    Ok(())
}
