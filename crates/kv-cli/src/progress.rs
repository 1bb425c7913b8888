//! The progress bar: on a terminal, on standard error, and nowhere else.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// What to say if a command is broken off before it has ended: by a signal, or by a failure.
pub(crate) struct Unfinished(Option<String>);

impl Unfinished {
    pub(crate) fn begin(words: impl Into<String>) -> Self {
        Self(Some(words.into()))
    }

    /// It has ended, and what came of it is told elsewhere.
    pub(crate) fn finish(mut self) {
        self.0 = None;
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Some(words) = self.0.take() {
            crate::output::say(&format!("kv: broken off: {words}"));
        }
    }
}

/// How far an import or export has come.
pub(crate) struct Progress {
    bar: ProgressBar,
    keys: u64,
    bytes: u64,
}

impl Progress {
    /// Begins; `verb` is what is being done, in the present tense.
    ///
    /// `on` is false where the output goes to the same terminal and would be torn apart.
    pub(crate) fn begin(verb: &'static str, on: bool) -> Self {
        // Draws nothing where standard error is not a terminal, or one that cannot move its cursor.
        let on = on && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
        let target = if on { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(None, target).with_prefix(verb);
        set_style(&bar, "{spinner} {prefix} {pos} keys, {msg} ({per_sec}, {elapsed})");
        bar.enable_steady_tick(Duration::from_millis(200));
        Self { bar, keys: 0, bytes: 0 }
    }

    /// The same for so many keys, so that it can tell how much is left.
    pub(crate) fn of(self, total: u64) -> Self {
        self.expect(total);
        self
    }

    /// So many keys there will be.
    pub(crate) fn expect(&self, total: u64) {
        self.bar.set_length(total);
        set_style(&self.bar, "{spinner} {prefix} {pos} of {len} keys, {msg} ({per_sec}, {eta} left)");
    }

    /// One key with this many bytes of value is done.
    pub(crate) fn done(&mut self, bytes: usize) {
        self.keys += 1;
        self.bytes += bytes as u64;
        self.bar.set_position(self.keys);
        if !self.bar.is_hidden() {
            self.bar.set_message(indicatif::HumanBytes(self.bytes).to_string());
        }
    }

    pub(crate) fn keys(&self) -> u64 {
        self.keys
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// A line on standard error that does not tear the bar.
    pub(crate) fn say(&self, line: &str) {
        self.bar.suspend(|| crate::output::say(line));
    }
}

fn set_style(bar: &ProgressBar, template: &str) {
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
