//! Called under the names `logread` and `logger`: what scripts of OpenWrt use of them.

use std::{ffi::OsString, io::Read as _};

use lexopt::{Arg, Parser, ValueExt as _};
use protocol::log::{Select, TEXT_MAX, Write};

use super::{absent, line, priority, read};
use crate::{
    bus::{Bus, How},
    cli::Common,
    error::Error,
    output::Output,
};

/// Options of OpenWrt's logread that write files or send lines elsewhere: the log service keeps its own store.
const ELSEWHERE: &str = "SFrphPu0zZ";

const LOGREAD: &str = "\
Usage: logread [-l COUNT] [-e PATTERN] [-f] [-t]
 -l COUNT:    only the newest so many lines
 -e PATTERN:  only lines that hold this regular expression
 -f:          print what comes, too
 -t:          seconds since 1970 in front of each line
";

const LOGGER: &str = "\
Usage: logger [-s] [-t TAG] [-p PRIORITY] [MESSAGE...]
 -s:           print it on standard error, too
 -t TAG:       what the line is about; the user's name if not given
 -p PRIORITY:  err, 3, or daemon.err; notice if not given
Without a message the lines of standard input are kept, each for itself.
";

/// The command line of logread.
#[derive(Debug, Default, Eq, PartialEq)]
struct Reading {
    lines: Option<u64>,
    pattern: Option<String>,
    follow: bool,
    seconds: bool,
    help: bool,
}

/// The command line of logger.
#[derive(Debug, Default, Eq, PartialEq)]
struct Writing {
    tag: Option<String>,
    priority: Option<u8>,
    stderr: bool,
    words: Vec<String>,
    help: bool,
}

/// `logread`.
pub(crate) async fn logread(args: Vec<OsString>) -> Result<(), Error> {
    let given = parse_reading(args).map_err(|error| wrong(&error, LOGREAD))?;
    if given.help {
        return Output::text(LOGREAD);
    }
    let common = Common::default();
    let bus = Bus::new(&common)?;
    let select = Select { lines: given.lines, grep: given.pattern, ..Select::default() };
    // Following shows only what comes, unless lines of before are asked for.
    let select = Select { lines: select.lines.or(given.follow.then_some(0)), ..select };
    let shown =
        read(&bus, select, given.follow, |record| line::openwrt(record, given.seconds)).await;
    shown.map_err(|error| absent(&common, error))
}

/// `logger`.
pub(crate) async fn logger(args: Vec<OsString>) -> Result<(), Error> {
    let given = parse_writing(args).map_err(|error| wrong(&error, LOGGER))?;
    if given.help {
        return Output::text(LOGGER);
    }
    let common = Common::default();
    let bus = Bus::new(&common)?;
    let tag = given
        .tag
        .clone()
        .unwrap_or_else(|| crate::process::user(rustix::process::geteuid().as_raw()));
    let keep = async |text: &str| {
        if given.stderr {
            eprintln!("{tag}: {text}");
        }
        let (text, tag) = (text.to_owned(), Some(tag.clone()));
        let record = Write { text, priority: given.priority, tag };
        let kept = bus.call("log", "write", &record, How::ONCE).await;
        kept.map(|_| ()).map_err(|error| absent(&common, error.into()))
    };
    if !given.words.is_empty() {
        return keep(&given.words.join(" ")).await;
    }
    let mut input = std::io::stdin().lock();
    let mut pending: Vec<u8> = Vec::new();
    let mut piece = [0; 4096];
    loop {
        let got = input
            .read(&mut piece)
            .map_err(|error| Error::failed(format!("read standard input: {error}")))?;
        pending.extend_from_slice(&piece[..got]);
        while let Some(line) = next_line(&mut pending, got == 0) {
            keep(&String::from_utf8_lossy(&line)).await?;
        }
        if got == 0 {
            return Ok(());
        }
    }
}

/// Takes one line from the front: up to its end, or as much as one record holds; at the end of the input what is left.
fn next_line(pending: &mut Vec<u8>, ended: bool) -> Option<Vec<u8>> {
    let end = pending.iter().take(TEXT_MAX + 1).position(|byte| *byte == b'\n');
    let (length, skip) = match end {
        Some(end) => (end, 1),
        None if pending.len() >= TEXT_MAX => (TEXT_MAX, 0),
        None if ended && !pending.is_empty() => (pending.len(), 0),
        None => return None,
    };
    let rest = pending.split_off(length + skip);
    let mut line = std::mem::replace(pending, rest);
    line.truncate(length);
    Some(line)
}

fn parse_reading(args: Vec<OsString>) -> Result<Reading, lexopt::Error> {
    let mut given = Reading::default();
    let mut parser = Parser::from_args(args);
    while let Some(arg) = parser.next()? {
        match arg {
            Arg::Short('l') => given.lines = Some(parser.value()?.parse()?),
            Arg::Short('e') => given.pattern = Some(parser.value()?.string()?),
            Arg::Short('f') => given.follow = true,
            Arg::Short('t') => given.seconds = true,
            Arg::Long("help") => given.help = true,
            Arg::Short(letter) if ELSEWHERE.contains(letter) => {
                let text = format!(
                    "-{letter} has no meaning here: the log service keeps its own store, see log.toml"
                );
                return Err(text.into());
            }
            arg => return Err(arg.unexpected()),
        }
    }
    Ok(given)
}

fn parse_writing(args: Vec<OsString>) -> Result<Writing, lexopt::Error> {
    let mut given = Writing::default();
    let mut parser = Parser::from_args(args);
    while let Some(arg) = parser.next()? {
        match arg {
            Arg::Short('t') => given.tag = Some(parser.value()?.string()?),
            Arg::Short('p') => {
                let text = parser.value()?.string()?;
                given.priority = Some(priority::parse_with_facility(&text)?);
            }
            Arg::Short('s') => given.stderr = true,
            Arg::Short('h') | Arg::Long("help") => given.help = true,
            Arg::Value(word) => given.words.push(word.string()?),
            arg => return Err(arg.unexpected()),
        }
    }
    Ok(given)
}

fn wrong(error: &lexopt::Error, usage: &str) -> Error {
    Error::usage(format!("{error}; {}", usage.lines().next().unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_of_logread_are_read() {
        let parse = |args: &[&str]| parse_reading(args.iter().map(OsString::from).collect());
        let given = parse(&["-ft", "-l5", "-e", "a b"]).unwrap();
        let expected = Reading {
            lines: Some(5),
            pattern: Some("a b".into()),
            follow: true,
            seconds: true,
            help: false,
        };
        assert_eq!(given, expected);
        assert!(parse(&["-F", "/var/log"]).unwrap_err().to_string().contains("no meaning"));
        assert!(parse(&["-l", "x"]).is_err());
        assert!(parse(&["word"]).is_err());
    }

    #[test]
    fn options_of_logger_are_read_and_words_joined() {
        let parse = |args: &[&str]| parse_writing(args.iter().map(OsString::from).collect());
        let given = parse(&["-t", "cam", "-p", "daemon.err", "lens", "--", "-lost"]).unwrap();
        assert_eq!((given.tag.as_deref(), given.priority), (Some("cam"), Some(3)));
        assert_eq!(given.words, ["lens", "-lost"]);
        assert!(parse(&["-p", "loud"]).unwrap_err().to_string().contains("emerg"));
    }

    #[test]
    fn input_is_cut_into_lines_of_a_bounded_length() {
        let mut pending = b"one\n\ntwo".to_vec();
        assert_eq!(next_line(&mut pending, false).unwrap(), b"one");
        assert_eq!(next_line(&mut pending, false).unwrap(), b"");
        assert_eq!(next_line(&mut pending, false), None);
        assert_eq!(next_line(&mut pending, true).unwrap(), b"two");
        assert_eq!(next_line(&mut pending, true), None);
        let mut long = vec![b'x'; TEXT_MAX * 2 + 1];
        assert_eq!(next_line(&mut long, false).unwrap().len(), TEXT_MAX);
        assert_eq!(next_line(&mut long, false).unwrap().len(), TEXT_MAX);
        assert_eq!(next_line(&mut long, false), None);
    }
}
