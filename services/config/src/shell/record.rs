//! `RUN_DIR/config/digests` as text: one line a thing, the path last, and `end`, so that half a file is none.
//!
//! ```text
//! vestal-config 1
//! source uci /etc/config
//! file DIGEST CONTENT MD5 /etc/config/hello        (`-` where there is none)
//! announcing DIGEST CONTENT MD5 /etc/config/hello  (all `-`: it is gone)
//! change {"package":"hello",...}                   (of the line before)
//! trial NANOSECONDS
//! before DIGEST CONTENT MD5 /etc/config/hello      (all `-`: the file was not there)
//! end
//! ```

use std::{collections::BTreeMap, fmt::Write as _};

use protocol::time::Moment;

use crate::machine::{Announced, FilePath, Record, Trial, digits};

/// Changes with the bytes here, and with the canonical form.
const HEAD: &str = "vestal-config 1";

pub(super) fn print(record: &Record) -> String {
    let mut text = format!("{HEAD}\n");
    for (format, path) in &record.sources {
        let _ = writeln!(text, "source {format} {}", escaped(path));
    }
    for (path, announced) in &record.files {
        line(&mut text, "file", Some(announced), path);
    }
    for (path, (to, change)) in &record.announcing {
        line(&mut text, "announcing", to.as_ref(), path);
        let _ = writeln!(text, "change {}", serde_json::json!(change));
    }
    if let Some(trial) = &record.trial {
        let _ = writeln!(text, "trial {}", trial.deadline.0);
        for (path, before) in &trial.before {
            line(&mut text, "before", before.as_ref(), path);
        }
    }
    text.push_str("end\n");
    text
}

fn line(text: &mut String, word: &str, announced: Option<&Announced>, path: &str) {
    let shown = |digest: Option<&[u8]>| digest.map_or_else(|| "-".to_owned(), digits);
    let digest = shown(announced.map(|it| &it.digest[..]));
    let content = shown(announced.and_then(|it| it.content.as_ref()).map(|it| &it[..]));
    let md5 = shown(announced.and_then(|it| it.md5.as_ref()).map(|it| &it[..]));
    let _ = writeln!(text, "{word} {digest} {content} {md5} {}", escaped(path));
}

/// What was written down.
///
/// # Errors
/// Where it is no record, or one of another version.
pub(super) fn parse(text: &str) -> Result<Record, String> {
    let mut lines = text.split_inclusive('\n').enumerate();
    if lines.next().map(|(_, line)| line) != Some(&format!("{HEAD}\n")) {
        return Err(format!("line 1: not {HEAD:?}"));
    }
    let mut record = Record::default();
    let mut announcing = None;
    for (at, line) in lines {
        if line == "end\n" {
            return Ok(record);
        }
        let line = line.strip_suffix('\n').unwrap_or(line);
        read(&mut record, &mut announcing, line)
            .ok_or_else(|| format!("line {}: {line:.100?}", at + 1))?;
    }
    Err("it ends without \"end\"".to_owned())
}

fn read(
    record: &mut Record,
    announcing: &mut Option<(FilePath, Option<Announced>)>,
    line: &str,
) -> Option<()> {
    let (word, rest) = line.split_once(' ')?;
    match word {
        "source" => {
            let (format, path) = rest.split_once(' ')?;
            record.sources.push((format.to_owned(), unescaped(path)?));
        }
        "file" => {
            let (path, announced) = announced(rest)?;
            record.files.insert(path, announced?);
        }
        "announcing" => *announcing = Some(announced(rest)?),
        "change" => {
            let (path, to) = announcing.take()?;
            record.announcing.insert(path, (to, serde_json::from_str(rest).ok()?));
        }
        "trial" => {
            let deadline = Moment(rest.parse().ok()?);
            record.trial = Some(Trial { deadline, before: BTreeMap::new() });
        }
        "before" => {
            let (path, announced) = announced(rest)?;
            record.trial.as_mut()?.before.insert(path, announced);
        }
        _ => return None,
    }
    Some(())
}

fn announced(rest: &str) -> Option<(FilePath, Option<Announced>)> {
    let mut words = rest.splitn(4, ' ');
    let digest = maybe::<32>(words.next()?)?;
    let content = maybe::<32>(words.next()?)?;
    let md5 = maybe::<16>(words.next()?)?;
    let path = unescaped(words.next()?)?;
    Some((path, digest.map(|digest| Announced { digest, content, md5 })))
}

/// `-`, or the digits of so many bytes; `None` where it is neither.
fn maybe<const N: usize>(word: &str) -> Option<Option<[u8; N]>> {
    if word == "-" { Some(None) } else { undigits(word).map(Some) }
}

pub(super) fn undigits<const N: usize>(word: &str) -> Option<[u8; N]> {
    if word.len() != 2 * N || !word.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let mut bytes = [0; N];
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&word[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(bytes)
}

/// A path without what would end the line.
fn escaped(path: &str) -> String {
    path.replace('%', "%25").replace('\n', "%0a")
}

fn unescaped(path: &str) -> Option<FilePath> {
    path.starts_with('/').then(|| FilePath::from(path.replace("%0a", "\n").replace("%25", "%")))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use protocol::config::Change;

    use super::*;

    fn record() -> Record {
        let announced =
            Announced { digest: [1; 32], content: Some([0xab; 32]), md5: Some([7; 16]) };
        let plain = Announced { content: None, md5: None, ..announced.clone() };
        let path = |path: &str| FilePath::from(path);
        let before = [(path("/c/new"), None), (path("/c/a b"), Some(announced.clone()))];
        let change = Change { package: "a\nb".to_owned(), ..Change::default() };
        Record {
            announcing: [(path("/c/gone"), (None, change))].into(),
            sources: vec![("uci".to_owned(), path("/c")), ("lines".to_owned(), path("/x y"))],
            files: [(path("/c/a b"), announced), (path("/c/%0a\n"), plain)].into(),
            trial: Some(Trial { deadline: Moment(77), before: before.into() }),
            contents: Vec::new(),
        }
    }

    #[test]
    fn a_record_comes_back_as_it_was() {
        assert_eq!(parse(&print(&record())), Ok(record()));
        assert_eq!(parse(&print(&Record::default())), Ok(Record::default()));
    }

    #[test]
    fn half_a_record_is_none() {
        let text = print(&record());
        for length in 0..text.len() {
            assert!(parse(&text[..length]).is_err(), "{length}");
        }
    }

    proptest! {
        #[test]
        fn no_text_does_harm(lines in "((file|before|source|trial|announcing|change|end) [-0-9a-f]{0,70}( /?\\PC{0,9})?\n){0,5}") {
            let _ = parse(&format!("{HEAD}\n{lines}"));
        }
    }
}
