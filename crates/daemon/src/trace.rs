//! Tracing to stderr, as text or JSON, with a level that can be changed while the daemon runs.

use std::io;

use tracing::Level;
use tracing_subscriber::{
    Layer as _, filter::Targets, fmt, layer::SubscriberExt as _, registry, reload,
    util::SubscriberInitExt as _,
};

/// Reads and changes the level of a running daemon.
#[derive(Clone, Debug)]
pub struct LogLevel(reload::Handle<Targets, registry::Registry>);

/// Starts tracing; `level` is a level, or a list like `warn,vestal_supervisor=debug`.
pub(crate) fn start(level: Option<&str>, json: bool) -> Result<LogLevel, String> {
    let (filter, handle) = reload::Layer::new(targets(level.unwrap_or("info"))?);
    let lines = fmt::layer().with_writer(io::stderr).with_ansi(false).with_target(false);
    let lines = if json { lines.json().boxed() } else { lines.boxed() };
    // Fails only where a test started tracing before us; its choice stands.
    let _ = registry().with(lines.with_filter(filter)).try_init();
    Ok(LogLevel(handle))
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
