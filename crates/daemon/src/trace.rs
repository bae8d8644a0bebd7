//! Tracing to stderr, as text or JSON, with a level that can be changed while the daemon runs.

use std::io;

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::{
    Layer as _,
    filter::Targets,
    fmt::{
        self, FmtContext,
        format::{FormatEvent, FormatFields, Writer},
    },
    layer::SubscriberExt as _,
    registry,
    registry::LookupSpan,
    reload,
    util::SubscriberInitExt as _,
};

/// Reads and changes the level of a running daemon.
#[derive(Clone, Debug)]
pub struct LogLevel(reload::Handle<Targets, registry::Registry>);

/// Starts tracing; `level` is a level, or a list like `warn,vestal_supervisor=debug`.
pub(crate) fn start(level: Option<&str>, json: bool) -> Result<LogLevel, String> {
    let (filter, handle) = reload::Layer::new(targets(level.unwrap_or("info"))?);
    let lines = fmt::layer().with_writer(io::stderr).with_ansi(false).with_target(false);
    let supervised = std::env::var_os("VESTAL_SERVICE").is_some();
    let lines = match (json, supervised) {
        (true, _) => lines.json().boxed(),
        (false, true) => lines.event_format(Prioritised).boxed(),
        (false, false) => lines.boxed(),
    };
    // Fails only where a test started tracing before us; its choice stands.
    let _ = registry().with(lines.with_filter(filter)).try_init();
    Ok(LogLevel(handle))
}

/// For the log service, which has the time and wants the priority: `<6>text fields`, as sd-daemon(3).
struct Prioritised;

impl<S, N> FormatEvent<S, N> for Prioritised
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> std::fmt::Result {
        let priority = match *event.metadata().level() {
            Level::ERROR => 3,
            Level::WARN => 4,
            Level::INFO => 6,
            Level::DEBUG | Level::TRACE => 7,
        };
        write!(writer, "<{priority}>")?;
        context.field_format().format_fields(writer.by_ref(), event)?;
        writeln!(writer)
    }
}

impl LogLevel {
    /// # Errors
    /// Says what a filter may look like.
    pub fn set(&self, level: &str) -> Result<(), String> {
        let filter = targets(level)?;
        self.0.reload(filter).map_err(|error| error.to_string())
    }

    /// What is in force, as [`LogLevel::set`] takes it.
    #[must_use]
    pub fn get(&self) -> String {
        self.0.with_current(ToString::to_string).unwrap_or_default()
    }
}

fn targets(level: &str) -> Result<Targets, String> {
    if let Ok(level) = level.parse::<Level>() {
        return Ok(Targets::new().with_default(level));
    }
    level.parse().map_err(|_| {
        format!("log level {level:?}: use error, warn, info, debug, trace or TARGET=LEVEL,...")
    })
}
