//! A question to the person at the terminal, before what cannot be undone.

use std::io::{self, BufRead, IsTerminal, Write};

use crate::exit::Failure;

/// Whether somebody can be asked: both the question and the answer go over a terminal.
pub(crate) fn can() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// Asks, and waits for the answer: `true` for yes. Everything else, and no answer, is no.
pub(crate) async fn yes(question: String) -> Result<bool, Failure> {
    let answer = tokio::task::spawn_blocking(move || {
        let mut ask = io::stderr();
        write!(ask, "{} [y/N] ", kv_core::text::escape(&question)).and_then(|()| ask.flush())?;
        let mut answer = String::new();
        io::stdin().lock().read_line(&mut answer)?;
        Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
    });
    let answer = answer.await.map_err(|error| Failure::io("asking stopped", error.into()))?;
    answer.map_err(|error| Failure::io("cannot ask", error))
}
