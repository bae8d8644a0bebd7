//! The built program against a supervisor that says what each test needs.

mod bus;
mod commands;
mod completion;
mod events;
mod fake;
mod logs;
#[cfg(feature = "top")]
mod top;
mod ubus;
