//! The built program against a supervisor that says what each test needs.

mod applets;
mod autorun;
mod bus;
mod commands;
mod completion;
mod config;
mod driver;
mod events;
mod fake;
mod logs;
mod recorded;
#[cfg(feature = "top")]
mod top;
mod ubus;
mod upgrade;
