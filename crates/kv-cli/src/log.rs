//! What the stores have to say, on standard error: warnings, and more for each `-v`.

use std::fmt::{self, Write as _};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

/// Shows warnings; with `-v` the requests of the command, with `-vv` what the drivers log at level debug,
/// with `-vvv` at level trace. Other crates' logs are not shown: they may hold secrets.
pub(crate) fn begin(verbose: u8) {
    let level = match verbose {
        0 => LevelFilter::WARN,
        1 => LevelFilter::INFO,
        2 => LevelFilter::DEBUG,
        _ => LevelFilter::TRACE,
    };
    let ours = Targets::new().with_default(LevelFilter::ERROR).with_target("kv", level);
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).event_format(Plain);
    tracing_subscriber::registry().with(lines).with(ours).init();
}

/// One line for each event: `kv: warning: message, name: value`. No colours, so that it reads alike
/// on a terminal, in a file and in a terminal without any.
struct Plain;

impl<S, N> FormatEvent<S, N> for Plain
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut line = Line::default();
        event.record(&mut line);
        writeln!(writer, "kv: {}{}{}", word(*event.metadata().level()), line.message, line.fields)
    }
}

fn word(level: Level) -> &'static str {
    match level {
        Level::ERROR => "error: ",
        Level::WARN => "warning: ",
        _ => "",
    }
}

/// The text of an event, escaped: some of it is from servers.
#[derive(Default)]
struct Line {
    message: String,
    fields: String,
}

impl Line {
    fn add(&mut self, field: &Field, text: &str) {
        let text = kv_core::text::escape(text);
        if field.name() == "message" {
            self.message.push_str(&text);
        } else {
            // Writing to a string cannot fail.
            let _ = write!(self.fields, ", {}: {text}", field.name());
        }
    }
}

impl Visit for Line {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, &format!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_says_whose_it_is_and_has_nothing_that_acts_on_a_terminal() {
        let kept = Kept::default();
        let writer = kept.clone();
        let lines = tracing_subscriber::fmt::layer().with_writer(move || writer.clone()).event_format(Plain);
        tracing::subscriber::with_default(tracing_subscriber::registry().with(lines), || {
            tracing::warn!(error = "\u{1b}[2J\nforged", "a lock was \u{202e}lost");
            tracing::error!("this failed");
            tracing::info!(size = 7, "a request");
        });
        let text = String::from_utf8(kept.0.lock().unwrap().clone()).unwrap();
        let expected = "\
kv: warning: a lock was \\u{202e}lost, error: \\u{1b}[2J\\nforged
kv: error: this failed
kv: a request, size: 7
";
        assert_eq!(text, expected);
    }
}
