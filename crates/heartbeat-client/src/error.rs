//! Why a call did not work, each with what to do about it.

use std::io;

use protocol::heartbeat::ResultCode;
use thiserror::Error;

/// Why a call did not work.
#[derive(Debug, Error)]
pub enum Error {
    /// The settings can't be used.
    #[error("{0}")]
    Settings(String),
    /// The key's descriptor is not what the supervisor hands over.
    #[error("the key of descriptor {fd} (GMI_KEY_FD): {reason}")]
    Key { fd: i32, reason: String },
    /// Register comes first.
    #[error("not registered: call register once before the first report")]
    NotRegistered,
    /// The kernel refused something.
    #[error("{what}: {source}")]
    System { what: &'static str, source: io::Error },
    /// The broker did not answer in time.
    #[error("no answer from the heartbeat broker at {server} within {after_ms} ms: does it run?")]
    Timeout { server: std::net::SocketAddr, after_ms: u128 },
    /// The broker does not want this application.
    #[error("the heartbeat broker refused application {app_id}: {}", why(.code))]
    Refused { app_id: i32, code: ResultCode },
    /// The handle belongs to the process that opened it; a fork opens its own.
    #[error(
        "opened by process {opened_by}, used by process {used_by} after a fork: open a client of its own"
    )]
    Forked { opened_by: u32, used_by: u32 },
}

fn why(code: &ResultCode) -> &'static str {
    match code {
        ResultCode::Ok => "it didn't",
        ResultCode::UnknownApplication => {
            "it expects no such application; name its app-id in the service's [heartbeat] or in heartbeat.toml"
        }
        ResultCode::BadTag => "the key is another one than the supervisor's",
        ResultCode::WrongGeneration => "a later start of this application is expected",
        ResultCode::Busy => "it has no room for new sessions at the moment; try again",
        ResultCode::Limit => "a limit of its configuration is met",
    }
}
