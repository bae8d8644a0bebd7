//! fstab(5), read: what each line asks for, and what is wrong with it. Touches nothing.
//!
//! A line that makes no sense costs only itself; a detail that makes no sense is told and left out of its line.

use std::fmt;

use crate::options::{self, Options};

/// More lines than any device has.
const ENTRIES_MAX: usize = 256;

/// One line that can be obeyed.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Entry {
    /// Counted from 1.
    pub(crate) line: usize,
    /// A device, `PARTLABEL=`, `LABEL=` or `UUID=`, a folder for a bind, or just a name.
    pub(crate) source: String,
    /// An absolute path; `none` for swap.
    pub(crate) place: String,
    pub(crate) kind: String,
    pub(crate) options: Options,
    /// Not 0: the file system is checked first.
    pub(crate) pass: u32,
}

impl Entry {
    pub(crate) fn is_swap(&self) -> bool {
        self.kind == "swap"
    }
}

/// What is wrong with a line.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Problem {
    pub(crate) line: usize,
    pub(crate) text: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.text)
    }
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Fstab {
    /// In the order of the file.
    pub(crate) entries: Vec<Entry>,
    pub(crate) problems: Vec<Problem>,
}

/// Reads a whole table.
pub(crate) fn parse(table: &[u8]) -> Fstab {
    let mut fstab = Fstab::default();
    for (text, line) in table.split(|byte| *byte == b'\n').zip(1..) {
        let text = text.trim_ascii();
        if text.is_empty() || text.starts_with(b"#") {
            continue;
        }
        let mut problems = Vec::new();
        if fstab.entries.len() == ENTRIES_MAX {
            problems.push(format!("more than {ENTRIES_MAX} entries: the rest is left out"));
        } else {
            match entry(text, line, &mut problems) {
                Ok(entry) => fstab.entries.push(entry),
                Err(problem) => problems.push(problem),
            }
        }
        let full = fstab.entries.len() == ENTRIES_MAX && !problems.is_empty();
        fstab.problems.extend(problems.into_iter().map(|text| Problem { line, text }));
        if full {
            break;
        }
    }
    fstab
}

fn entry(text: &[u8], line: usize, problems: &mut Vec<String>) -> Result<Entry, String> {
    let fields = text.split(u8::is_ascii_whitespace).filter(|field| !field.is_empty());
    let fields: Vec<String> = fields.take(7).map(unescape).collect::<Result<_, _>>()?;
    let [source, place, kind, rest @ ..] = fields.as_slice() else {
        let count = fields.len();
        return Err(format!("{count} of at least 3 fields: device, mount point and type"));
    };
    let swap = kind == "swap";
    if !swap && !place.starts_with('/') {
        return Err(format!("mount point {place} is no absolute path"));
    }
    if rest.get(3).is_some_and(|more| !more.starts_with('#')) {
        problems
            .push("more than 6 fields: what follows is left out; a space is written \\040".into());
    }
    let options = rest.first().map_or("defaults", String::as_str);
    let options = options::parse(options, kind, problems)?;
    let mut number = |at: usize, name| match rest.get(at).map(|text| (text, text.parse())) {
        None => 0,
        Some((_, Ok(number))) => number,
        Some((text, Err(_))) => {
            problems.push(format!("{name} is {text}, which is no number: taken as 0"));
            0
        }
    };
    number(1, "field 5, the dump frequency,");
    let pass = number(2, "field 6, the order of checks,");
    Ok(Entry {
        line,
        source: source.clone(),
        place: place.clone(),
        kind: kind.clone(),
        options,
        pass,
    })
}

/// Takes a field's octal escapes (`\040` is a space) for what they stand for.
fn unescape(field: &[u8]) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, after @ ..] = rest {
        match (first, after) {
            (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', after @ ..]) => {
                bytes.push((a - b'0') * 64 + (b - b'0') * 8 + (c - b'0'));
                rest = after;
            }
            _ => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    if bytes.contains(&0) {
        return Err("a NUL byte in a field".to_owned());
    }
    String::from_utf8(bytes)
        .map_err(|error| format!("field {} is no UTF-8", String::from_utf8_lossy(error.as_bytes())))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rustix::mount::MountFlags;

    use super::*;

    fn told(table: &str) -> Vec<String> {
        parse(table.as_bytes()).problems.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_devices_table_is_read_in_its_order() {
        let table = "# what this device mounts\n\n\
            PARTLABEL=data /data ext4 noatime,x-vestal.fallback=tmpfs 0 2\n\
            \t/data/config\t/etc/config none bind,x-vestal.fill\n\
            tmpfs /var tmpfs size=1m 0 0 # small\n\
            /dev/vdb none swap sw 0 0";
        let fstab = parse(table.as_bytes());
        assert_eq!(fstab.problems, []);
        let [data, config, var, swap] = fstab.entries.as_slice() else { panic!("{fstab:?}") };
        assert_eq!((data.line, data.pass, data.source.as_str()), (3, 2, "PARTLABEL=data"));
        assert!(data.options.fallback && data.options.flags == MountFlags::NOATIME);
        assert!(config.options.fill && config.options.bind);
        assert_eq!((var.options.data.as_str(), var.kind.as_str()), ("size=1m", "tmpfs"));
        assert!(swap.is_swap());
    }

    #[test]
    fn escapes_stand_for_spaces_and_other_bytes() {
        let fstab = parse(b"LABEL=my\\040disk /mnt/a\\011b\\134c ext4\n/a\\04 /\\888 ext4\n");
        let names: Vec<_> =
            fstab.entries.iter().map(|it| (it.source.as_str(), it.place.as_str())).collect();
        assert_eq!(names, [("LABEL=my disk", "/mnt/a\tb\\c"), ("/a\\04", "/\\888")]);
    }

    #[test]
    fn a_bad_line_is_named_and_costs_only_itself() {
        let table = "/dev/a /a\n/dev/b b ext4\nc\\000 /c ext4\nd\\377 /d ext4\n/dev/e /e ext4\n";
        assert_eq!(
            told(table),
            [
                "line 1: 2 of at least 3 fields: device, mount point and type",
                "line 2: mount point b is no absolute path",
                "line 3: a NUL byte in a field",
                "line 4: field d\u{fffd} is no UTF-8",
            ]
        );
        assert_eq!(parse(table.as_bytes()).entries.len(), 1);
    }

    #[test]
    fn a_bad_detail_is_named_and_its_line_is_obeyed() {
        let table = "/dev/a /a ext4 defaults 0 x\n/dev/b /b c ext4 defaults 0 0\n";
        assert_eq!(
            told(table),
            [
                "line 1: field 6, the order of checks, is x, which is no number: taken as 0",
                "line 2: more than 6 fields: what follows is left out; a space is written \\040",
                "line 2: field 5, the dump frequency, is defaults, which is no number: taken as 0",
            ]
        );
        assert_eq!(parse(table.as_bytes()).entries.len(), 2);
    }

    #[test]
    fn a_table_without_end_is_cut() {
        let table = "tmpfs /a tmpfs\n".repeat(300);
        let fstab = parse(table.as_bytes());
        assert_eq!((fstab.entries.len(), fstab.problems.len()), (256, 1));
        assert_eq!(fstab.problems[0].line, 257);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_harm(table in proptest::collection::vec(any::<u8>(), 0..400)) {
            let fstab = parse(&table);
            let lines = table.split(|byte| *byte == b'\n').count();
            prop_assert!(fstab.entries.len() <= lines);
            prop_assert!(fstab.entries.iter().all(|it| it.is_swap() || it.place.starts_with('/')));
        }

        #[test]
        fn almost_tables_are_read_without_harm(
            table in "([#/a-c\\\\0-4= \t\n,]|bind|ext4|LABEL=|x-vestal.|defaults){0,60}"
        ) {
            let fstab = parse(table.as_bytes());
            prop_assert!(fstab.problems.iter().all(|problem| problem.line >= 1));
        }
    }
}
