//! The terminal, lent to a command: only the group in its foreground can read it and gets its Ctrl-C.

use std::io::{self, IsTerminal};

use nix::sys::signal::{SigSet, Signal};
use nix::unistd::{Pid, getpgrp, tcgetpgrp, tcsetpgrp};

/// A terminal that was lent. Dropping this takes it back.
pub(super) struct Terminal;

impl Terminal {
    /// Puts this group in the foreground, if we are there: with standard input and output both on
    /// the terminal, so that a pager we write to keeps it.
    pub(super) fn hand_over(to: Pid) -> Option<Self> {
        let stdin = io::stdin();
        if !stdin.is_terminal() || !io::stdout().is_terminal() || tcgetpgrp(&stdin) != Ok(getpgrp()) {
            return None;
        }
        // Without it the command runs on in the background, where it can do all but read.
        tcsetpgrp(&stdin, to).ok().map(|()| Self)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Who is in the background is stopped for this unless it blocks the signal.
        let mut stop = SigSet::empty();
        stop.add(Signal::SIGTTOU);
        if stop.thread_block().is_ok() {
            // If the terminal has gone there is nothing to take.
            let _ = tcsetpgrp(io::stdin(), getpgrp());
            let _ = stop.thread_unblock();
        }
    }
}
