//! Whoever reads standard output: a command that waits for something else ends when they go away.

#[cfg(unix)]
mod platform {
    use std::io;
    use std::os::fd::AsFd;

    use nix::errno::Errno;
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    /// Blocks until nobody can read standard output any more; `false` where that cannot be told.
    pub(super) fn wait_until_gone() -> bool {
        let stdout = io::stdout();
        // Asked for nothing, the system tells errors and the end of the other side alone.
        let mut watched = [PollFd::new(stdout.as_fd(), PollFlags::empty())];
        loop {
            match poll(&mut watched, PollTimeout::NONE) {
                Ok(_) => break,
                Err(Errno::EINTR) => {}
                Err(_) => return false,
            }
        }
        watched.iter().any(|fd| {
            fd.revents().is_some_and(|seen| seen.intersects(PollFlags::POLLERR | PollFlags::POLLHUP))
        })
    }
}

#[cfg(not(unix))]
mod platform {
    /// That is told by the next write only.
    pub(super) fn wait_until_gone() -> bool {
        false
    }
}

/// Resolves when nobody can read standard output any more.
pub(crate) async fn gone() {
    let (sender, gone) = tokio::sync::oneshot::channel();
    // A thread of its own: it waits for as long as the process lives, and ends with it.
    let waiting = std::thread::Builder::new().name("reader".to_owned()).spawn(move || {
        if platform::wait_until_gone() {
            // Nobody waits any more when the command has ended.
            let _ = sender.send(());
        }
    });
    if waiting.is_err() || gone.await.is_err() {
        std::future::pending::<()>().await;
    }
}
