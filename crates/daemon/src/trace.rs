//! Tracing to stderr, as text or JSON.

use std::io;

use tracing::Level;
use tracing_subscriber::{
    Layer as _, filter::Targets, fmt, layer::SubscriberExt as _, registry,
    util::SubscriberInitExt as _,
};

/// Starts tracing; `level` is a level, or a list like `warn,vestal_supervisor=debug`.
pub(crate) fn start(level: Option<&str>, json: bool) -> Result<(), String> {
    let filter = targets(level.unwrap_or("info"))?;
    let lines = fmt::layer().with_writer(io::stderr).with_ansi(false).with_target(false);
    let lines = if json { lines.json().boxed() } else { lines.boxed() };
    // Fails only where a test started tracing before us; its choice stands.
    let _ = registry().with(lines.with_filter(filter)).try_init();
    Ok(())
}

fn targets(level: &str) -> Result<Targets, String> {
    if let Ok(level) = level.parse::<Level>() {
        return Ok(Targets::new().with_default(level));
    }
    level.parse().map_err(|_| {
        format!("log level {level:?}: use error, warn, info, debug, trace or TARGET=LEVEL,...")
    })
}
