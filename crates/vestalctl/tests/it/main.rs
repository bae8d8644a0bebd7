//! The built program against a supervisor that says what each test needs.

mod commands;
mod completion;
mod fake;
mod ubus;
