//! The process's own log: tracing events on standard error, as text or JSON, whose level and format
//! a reload can change.

use std::fmt;
use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tracing::subscriber::SetGlobalDefaultError;
use tracing::{Event, Subscriber};
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::fmt::format::{Format, Full, Json, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{EnvFilter, Registry, reload};

use crate::config::plan::{LogFormat, LogPlan};

/// Makes this process's events appear on standard error; once per process.
pub fn init(plan: &LogPlan) -> Result<LogControl, LogError> {
    let (filter, level) = reload::Layer::new(filter(plan)?);
    let json = Arc::new(AtomicBool::new(is_json(plan)));
    let lines = tracing_subscriber::fmt::layer()
        .event_format(Lines::new(Arc::clone(&json)))
        .with_ansi(io::stderr().is_terminal())
        // They are printed by a macro that panics where standard error is closed.
        .log_internal_errors(false)
        .with_writer(io::stderr);
    tracing::subscriber::set_global_default(Registry::default().with(filter).with(lines))
        .map_err(LogError::Taken)?;
    Ok(LogControl { level, json })
}

/// Changes the log while the process runs.
#[derive(Clone, Debug)]
pub struct LogControl {
    level: reload::Handle<EnvFilter, Registry>,
    json: Arc<AtomicBool>,
}

impl LogControl {
    /// Takes the level and the format of a new plan; on failure nothing has changed.
    pub fn apply(&self, plan: &LogPlan) -> Result<(), LogError> {
        self.level.reload(filter(plan)?).map_err(LogError::Reload)?;
        self.json.store(is_json(plan), Ordering::Relaxed);
        Ok(())
    }
}

/// Why the log is not as asked for.
#[derive(Debug)]
pub enum LogError {
    /// The level is no tracing filter.
    Level {
        /// What was written.
        level: String,
        /// What is wrong with it.
        source: ParseError,
    },
    /// The process has a subscriber already.
    Taken(SetGlobalDefaultError),
    /// The subscriber did not take a new level.
    Reload(reload::Error),
}

impl fmt::Display for LogError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Level { level, source } => write!(f, "`{level}` is not a log level: {source}"),
            Self::Taken(source) => write!(f, "the log is already set up: {source}"),
            Self::Reload(source) => write!(f, "the log level cannot be changed: {source}"),
        }
    }
}

impl std::error::Error for LogError {}

/// Formats each event in the format of the moment.
///
/// JSON leaves spans out: their fields were formatted when they began, perhaps in the other format.
struct Lines {
    json: Arc<AtomicBool>,
    as_json: Format<Json>,
    as_text: Format<Full>,
}

impl Lines {
    fn new(json: Arc<AtomicBool>) -> Self {
        let as_json = Format::default()
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .with_span_list(false);
        Self {
            json,
            as_json,
            as_text: Format::default(),
        }
    }
}

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        line: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        if self.json.load(Ordering::Relaxed) {
            self.as_json.format_event(context, line, event)
        } else {
            self.as_text.format_event(context, line, event)
        }
    }
}

fn is_json(plan: &LogPlan) -> bool {
    match plan.format {
        LogFormat::Json => true,
        LogFormat::Text => false,
    }
}

fn filter(plan: &LogPlan) -> Result<EnvFilter, LogError> {
    EnvFilter::builder()
        .parse(&plan.level)
        .map_err(|source| LogError::Level {
            level: plan.level.clone(),
            source,
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(level: &str, format: LogFormat) -> LogPlan {
        LogPlan {
            level: level.into(),
            format,
        }
    }

    #[test]
    fn the_process_has_one_log_and_a_reload_changes_it() {
        let control = init(&plan("info", LogFormat::Text)).unwrap();
        assert!(!tracing::enabled!(tracing::Level::DEBUG));
        control
            .apply(&plan("info,lockgate=debug", LogFormat::Json))
            .unwrap();
        assert!(tracing::enabled!(tracing::Level::DEBUG));
        assert!(
            control
                .apply(&plan("lockgate=loud", LogFormat::Text))
                .is_err()
        );
        assert!(
            control.json.load(Ordering::Relaxed),
            "a refused plan changes nothing"
        );
        control.apply(&plan("off", LogFormat::Text)).unwrap();
        assert!(init(&plan("info", LogFormat::Text)).is_err());
    }

    #[test]
    fn a_json_line_is_one_object_with_the_event_s_fields() {
        use std::sync::mpsc;

        struct Lined(mpsc::Sender<Vec<u8>>);
        impl io::Write for Lined {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0.send(bytes.to_vec()).unwrap();
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let (sender, lines) = mpsc::channel();
        let layer = tracing_subscriber::fmt::layer()
            .event_format(Lines::new(Arc::new(AtomicBool::new(true))))
            .with_writer(move || Lined(sender.clone()));
        tracing::subscriber::with_default(Registry::default().with(layer), || {
            tracing::info!(address = "192.0.2.7:1\n", "handshake failed");
        });
        let line: serde_json::Value = serde_json::from_slice(&lines.recv().unwrap()).unwrap();
        assert_eq!(line["message"], "handshake failed");
        assert_eq!(line["address"], "192.0.2.7:1\n");
        assert_eq!(line["level"], "INFO");
    }
}
