//! Called under the name `ubus`: OpenWrt's command line, output and exit codes on our bus, for scripts that know no other.
//!
//! Exit codes: the status, or 256 less the status for a failed `call` whose stderr is no terminal; that is what ubus
//! does. 255: nobody answers. 254: wrong arguments of a command. 1: wrong usage. 2: an option that has no meaning here.

mod events;

use std::{
    ffi::OsString,
    io::{self, IsTerminal as _, Read as _, stderr},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use endpoint::{ArgumentKind, CallError, Description};
use protocol::frame::PAYLOAD_MAX;
use serde_json::Value;

use crate::{
    applets,
    bus::{Bus, How, USUAL},
    cli::Common,
    error::{Error, Exit},
    format, import,
    objects::{self, Found},
    output::Output,
};

const USAGE: &str = "\
Usage: ubus [<options>] <command> [arguments...]
Options:
 -s <socket>:  call the objects of this socket only
 -t <seconds>: how long a call may take; 0 is for ever (30 if not given)
 -S:           compact output, for scripts
 -v:           with list: methods and their arguments; with call: why it failed

Commands:
 list [<path>]                     list objects; `net*` for all that begin with `net`
 call <path> <method> [<message>]  call a method; the message is a JSON object, - reads it from standard input
 listen [<pattern>...]             print events; `service.*` for all that begin with `service.`
 send <type> [<message>]           send an event
 subscribe <path> [<path>...]      print the events of these objects
 wait_for <path> [<path>...]       return when all of these objects are there
 monitor                           print every call and event; for root
";

/// Numbers of libubus that are not codes of ours.
const NOT_FOUND: u8 = 4;
const TIMED_OUT: u8 = 7;
const CONNECTION_FAILED: u8 = 10;
const PARSE_ERROR: u8 = 12;
const SYSTEM_ERROR: u8 = 13;

/// The command line.
#[derive(Debug, Eq, PartialEq)]
struct Options {
    socket: Option<PathBuf>,
    within: Duration,
    simple: bool,
    verbose: bool,
    /// `-m` and `-M`: filters of the types of ubus' messages, which are not ours.
    filtered: bool,
    words: Vec<String>,
}

/// How a command ended badly.
#[derive(Debug)]
enum End {
    /// The options, or no command: exit code 1.
    Usage,
    /// The arguments of a command: exit code 254.
    Arguments,
    /// Nobody answers: exit code 255.
    NoConnection,
    /// An option of ubus that has no meaning here: exit code 2.
    Meaningless(&'static str),
    /// Before the method was called.
    Status(u8),
    /// By the method; with what is known about it.
    Call(u8, String),
    /// The output can't be written.
    Output(Error),
}

impl From<Error> for End {
    fn from(error: Error) -> Self {
        Self::Output(error)
    }
}

/// Runs the applet.
pub(crate) async fn run(args: Vec<OsString>) -> ExitCode {
    let Some(options) = parse(args) else { return report(None, &End::Usage) };
    match command(&options).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(end) => report(Some(&options), &end),
    }
}

async fn command(options: &Options) -> Result<(), End> {
    let (name, arguments) = options.words.split_first().ok_or(End::Usage)?;
    if let Some(recorded) = import::record(&options.words, |text| object(text).unwrap_or_default())
    {
        return recorded
            .map_err(|error| End::Output(Error::failed(format!("write it down: {error}"))));
    }
    if options.filtered {
        return Err(End::Meaningless("-m and -M: calls and events here are not ubus' messages"));
    }
    let bus = match &options.socket {
        Some(socket) => Bus::of_socket(socket.clone()),
        None => Bus::new(&Common::default()).map_err(|_| End::NoConnection)?,
    };
    match (name.as_str(), arguments) {
        ("list", []) => list(&bus, options, None).await,
        ("list", [pattern]) => list(&bus, options, Some(pattern)).await,
        ("call", [path, method]) => call(&bus, options, path, method, "{}").await,
        ("call", [path, method, message]) => call(&bus, options, path, method, message).await,
        ("listen", patterns) => events::listen(&bus, options, patterns).await,
        ("subscribe", [_, ..]) => events::subscribe(&bus, options, arguments).await,
        ("send", [kind]) => events::send(&bus, kind, "{}").await,
        ("send", [kind, message]) => events::send(&bus, kind, message).await,
        ("wait_for", [_, ..]) => events::wait_for(&bus, options, arguments).await,
        ("monitor", []) => events::monitor(&bus).await,
        _ => Err(End::Arguments),
    }
}

async fn list(bus: &Bus, options: &Options, pattern: Option<&str>) -> Result<(), End> {
    let mut found =
        objects::everything(bus, options.verbose).await.map_err(|error| match error.exit {
            Exit::Unreachable => End::NoConnection,
            Exit::TimedOut => End::Status(TIMED_OUT),
            _ => End::Status(CONNECTION_FAILED),
        })?;
    found.sort_by(|a, b| a.name.cmp(&b.name));
    let text: String = (1..)
        .zip(&found)
        .filter(|(_, object)| pattern.is_none_or(|pattern| objects::matches(pattern, &object.name)))
        .map(|(id, object)| lines(id, object, options.verbose && !options.simple))
        .collect();
    if pattern.is_some() && text.is_empty() {
        return Err(End::Status(NOT_FOUND));
    }
    Ok(Output::text(&text)?)
}

/// ubus' objects have numbers; ours are numbered as they are listed.
fn lines(id: u32, object: &Found, verbose: bool) -> String {
    if !verbose {
        return format!("{}\n", object.name);
    }
    let methods = object.description.as_ref().map(signature).unwrap_or_default();
    format!("'{}' @{id:08x}\n{methods}", object.name)
}

fn signature(description: &Description) -> String {
    let mut text = String::new();
    for method in &description.methods {
        let argument = |argument: &protocol::objects::Argument| {
            format!("{}:\"{}\"", format::string(&argument.name), kind(argument.kind))
        };
        let arguments: Vec<_> = method.args.iter().map(argument).collect();
        text.push_str(&format!("\t{}:{{{}}}\n", format::string(&method.name), arguments.join(",")));
    }
    text
}

fn kind(kind: ArgumentKind) -> &'static str {
    match kind {
        ArgumentKind::String => "String",
        ArgumentKind::Boolean => "Boolean",
        ArgumentKind::Integer => "Integer",
        ArgumentKind::Array => "Array",
        ArgumentKind::Table => "Table",
        _ => "(unknown)",
    }
}

async fn call(
    bus: &Bus,
    options: &Options,
    path: &str,
    method: &str,
    message: &str,
) -> Result<(), End> {
    let message = object(message).map_err(|text| End::Call(PARSE_ERROR, text))?;
    let served = tokio::time::timeout(options.within, bus.serves(path)).await;
    let served = served.map_err(|_| End::Status(TIMED_OUT))?.map_err(|error| match error {
        CallError::Unreachable { .. } => End::NoConnection,
        error => End::Status(status(&error)),
    })?;
    if !served {
        return Err(End::Status(NOT_FOUND));
    }
    let how = How { within: options.within, safe: false };
    let answer = bus
        .call(path, method, &message, how)
        .await
        .map_err(|error| End::Call(status(&error), error.to_string()))?;
    if answer.is_null() {
        return Ok(());
    }
    Ok(Output::text(&format!("{}\n", format::message(&answer, options.simple)))?)
}

/// A message: nothing but an object is one. `-` is what stands on standard input, for messages that are too long for a
/// command line.
fn object(message: &str) -> Result<Value, String> {
    let mut read = String::new();
    let message = if message == "-" {
        let mut from = io::stdin().lock().take(PAYLOAD_MAX as u64 + 1);
        from.read_to_string(&mut read).map_err(|error| format!("read the message: {error}"))?;
        read.as_str()
    } else {
        message
    };
    if message.len() > PAYLOAD_MAX {
        return Err(format!("the message is longer than {PAYLOAD_MAX} bytes"));
    }
    match serde_json::from_str::<Value>(message).or_else(|error| forgiving(message).ok_or(error)) {
        Ok(message) if message.is_object() => Ok(message),
        Ok(_) => Err("the message is no JSON object".to_owned()),
        Err(error) => Err(format!("the message is no JSON: {error}")),
    }
}

/// Scripts write `{'name':'web'}`, which ubus takes.
fn forgiving(message: &str) -> Option<Value> {
    applets::strict_json(message.as_bytes()).and_then(|text| serde_json::from_slice(&text).ok())
}

fn status(error: &CallError) -> u8 {
    match error {
        CallError::Refused(failure) => failure.code.ubus_status(),
        CallError::Timeout { .. } => TIMED_OUT,
        CallError::Unreachable { .. } | CallError::Lost { .. } => CONNECTION_FAILED,
        CallError::Violation { .. } => SYSTEM_ERROR,
        CallError::Invalid { .. } => PARSE_ERROR,
    }
}

/// libubus' words.
fn words(status: u8) -> &'static str {
    match status {
        1 => "Invalid command",
        2 => "Invalid argument",
        3 => "Method not found",
        NOT_FOUND => "Not found",
        5 => "No response",
        6 => "Permission denied",
        TIMED_OUT => "Request timed out",
        8 => "Operation not supported",
        CONNECTION_FAILED => "Connection failed",
        11 => "Out of memory",
        PARSE_ERROR => "Parsing message data failed",
        SYSTEM_ERROR => "System error",
        _ => "Unknown error",
    }
}

/// Says what went wrong, as ubus says it, and gives the exit code.
fn report(options: Option<&Options>, end: &End) -> ExitCode {
    let simple = options.is_some_and(|options| options.simple);
    match end {
        End::Usage | End::Arguments => eprint!("{USAGE}"),
        End::Meaningless(text) => eprintln!("ubus: {text}"),
        End::NoConnection if !simple => eprintln!("Failed to connect to ubus"),
        End::Status(status) if !simple => eprintln!("Command failed: {}", words(*status)),
        End::Call(status, text) if !simple => {
            match options.filter(|_| !stderr().is_terminal()) {
                Some(options) => {
                    let line = options.words.join(" ");
                    eprintln!("Command failed: ubus {line} ({})", words(*status));
                }
                None => eprintln!("Command failed: {}", words(*status)),
            }
            if options.is_some_and(|options| options.verbose) {
                eprintln!("{text}");
            }
        }
        End::Output(error) => eprintln!("{}", error.text),
        End::NoConnection | End::Status(_) | End::Call(..) => {}
    }
    ExitCode::from(exit_code(end, simple || stderr().is_terminal()))
}

fn exit_code(end: &End, positive: bool) -> u8 {
    match end {
        End::Usage => 1,
        End::Meaningless(_) => 2,
        End::Arguments => 254,
        End::NoConnection => 255,
        End::Status(status) => *status,
        End::Call(status, _) if positive => *status,
        End::Call(status, _) => status.wrapping_neg(),
        End::Output(error) => error.exit as u8,
    }
}

/// Options may stand anywhere before `--`, as getopt(3) of GNU takes them; `None`: unknown option, or a value is missing.
fn parse(args: Vec<OsString>) -> Option<Options> {
    let mut options = Options {
        socket: None,
        within: USUAL,
        simple: false,
        verbose: false,
        filtered: false,
        words: Vec::new(),
    };
    let mut args = args.into_iter();
    while let Some(arg) = args.next() {
        if arg == "--" {
            break;
        }
        let arg = arg.into_string().ok()?;
        let Some(flags) = arg.strip_prefix('-').filter(|flags| !flags.is_empty()) else {
            options.words.push(arg);
            continue;
        };
        let mut letters = flags.chars();
        while let Some(letter) = letters.next() {
            match letter {
                'S' => options.simple = true,
                'v' => options.verbose = true,
                's' | 't' | 'm' | 'M' => {
                    let rest: OsString = letters.as_str().into();
                    let value = if rest.is_empty() { args.next()? } else { rest };
                    match letter {
                        's' => options.socket = Some(value.into()),
                        't' => options.within = seconds(value.to_str()?),
                        _ => options.filtered = true,
                    }
                    break;
                }
                _ => return None,
            }
        }
    }
    for word in args {
        options.words.push(word.into_string().ok()?);
    }
    Some(options)
}

/// As atoi(3) reads it: what is no number is 0, and 0 is for ever.
fn seconds(text: &str) -> Duration {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    match text[..digits].parse::<u32>() {
        Ok(0) | Err(_) => Duration::MAX,
        Ok(seconds) => Duration::from_secs(seconds.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(args: &[&str]) -> Option<Options> {
        parse(args.iter().map(OsString::from).collect())
    }

    #[test]
    fn options_stand_anywhere_together_or_apart() {
        let options = parsed(&["-v", "-t5", "call", "a", "-Ss", "/s", "b", "--", "-v"]).unwrap();
        assert!(options.simple && options.verbose);
        assert_eq!(options.within, Duration::from_secs(5));
        assert_eq!(options.socket, Some("/s".into()));
        assert_eq!(options.words, ["call", "a", "b", "-v"]);
        assert_eq!(parsed(&["--", "-S"]).unwrap().words, ["-S"]);
        assert_eq!(parsed(&[]).unwrap().words, [""; 0]);
    }

    #[test]
    fn unknown_options_and_missing_values_are_wrong_usage() {
        assert_eq!(parsed(&["-x"]), None);
        assert_eq!(parsed(&["-t"]), None);
        assert_eq!(exit_code(&End::Usage, true), 1);
    }

    #[test]
    fn no_time_is_for_ever() {
        assert_eq!(seconds("0"), Duration::MAX);
        assert_eq!(seconds("x"), Duration::MAX);
        assert_eq!(seconds("12s"), Duration::from_secs(12));
    }

    #[test]
    fn a_failed_call_exits_with_the_status_below_256_unless_a_person_looks() {
        let call = |status| End::Call(status, String::new());
        assert_eq!(exit_code(&call(2), false), 254);
        assert_eq!(exit_code(&call(4), false), 252);
        assert_eq!(exit_code(&call(4), true), 4);
        assert_eq!(exit_code(&End::Status(4), false), 4);
    }

    #[test]
    fn signatures_look_like_those_of_ubus() {
        let args = [("name", ArgumentKind::String, true), ("spawn", ArgumentKind::Boolean, false)];
        let description =
            Description::new("i", 1).method("state", &args, "", "").method("none", &[], "", "");
        let expected = "\t\"state\":{\"name\":\"String\",\"spawn\":\"Boolean\"}\n\t\"none\":{}\n";
        assert_eq!(signature(&description), expected);
    }
}
