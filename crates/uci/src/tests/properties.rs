//! What holds for any text.

use proptest::{collection::vec, prelude::*};

use crate::{
    Address, Mode, Opt, Package, Section, Show, Value, apply_delta,
    canonical::{Differences, Format, canonical, differences},
    edit::{Change, apply},
    export, parse, parse_all, parse_delta, print_delta, show,
};

/// Pieces of which texts are made that come near to UCI.
const PIECES: [&str; 36] = [
    "config ",
    "option ",
    "list ",
    "package ",
    "c ",
    "o ",
    "a",
    "b",
    "n1",
    "foo bar",
    "'v'",
    "'it''s'",
    "\"d q\"",
    "\"a\\\"b\"",
    "'l\nm'",
    "\\\n",
    "\\\r\n",
    "\\ ",
    "\\;",
    ";",
    " ;",
    "#",
    "\n",
    "\n",
    "\r\n",
    " ",
    "\t",
    "\x0b",
    "''",
    "@",
    "=",
    "é",
    "\\'",
    "'",
    "\"",
    "\\",
];

fn near_uci() -> impl Strategy<Value = String> {
    vec(0..PIECES.len(), 0..40)
        .prop_map(|picks| picks.into_iter().map(|pick| PIECES[pick]).collect())
}

fn value() -> impl Strategy<Value = Value> {
    let text = "[^\0]{1,8}|it's|a\nb|é'|\\\\'\"#;";
    prop_oneof![
        text.prop_map(Value::Text),
        vec(prop_oneof![text, Just(String::new())], 1..4).prop_map(Value::List),
    ]
}

/// Packages that a file can hold: types without the signs that libuci forgets to quote, every name once.
fn package() -> impl Strategy<Value = Package> {
    let options = vec((0..30_usize, value()), 0..6).prop_map(|options| {
        let mut named: Vec<Opt> = Vec::new();
        for (name, value) in options {
            let name = format!("o_{name}");
            if named.iter().all(|option| option.name != name) {
                named.push(Opt { name, value });
            }
        }
        named
    });
    vec(("[a-z][a-z0-9.@=-]{0,6}", any::<bool>(), options), 0..6).prop_map(|sections| {
        let mut package = Package::new("p");
        for (index, (kind, anonymous, options)) in sections.into_iter().enumerate() {
            let name = (!anonymous).then(|| format!("s{index}"));
            let at = package.push(kind, name);
            package.sections[at].options = options;
        }
        package
    })
}

/// Short commands, double quotes, comments and blanks.
fn in_another_way(package: &Package) -> String {
    let quoted = |text: &str| text.replace('\\', r"\\").replace('"', "\\\"");
    let mut out = String::from("# a comment\n\n");
    for section in &package.sections {
        let name = if section.anonymous { "" } else { &section.name };
        out += &format!("\tc  {}\t {name} # {name}\n", section.kind);
        for option in &section.options {
            let word = if matches!(option.value, Value::Text(_)) { "o" } else { "l" };
            for item in option.value.items() {
                out += &format!("{word}\t'{}' \"{}\" \r\n\n", option.name, quoted(item));
            }
        }
    }
    out
}

fn formats() -> [Format; 6] {
    let comment = "#".into();
    [Format::Uci, Format::Json, Format::Toml, Format::Ini, Format::Lines { comment }, Format::Bytes]
}

proptest! {
    #[test]
    fn what_is_printed_is_read_as_the_same_package(package in package()) {
        let read = parse("p", export(&package, false).as_bytes(), Mode::Strict);
        prop_assert_eq!(read.map(|parsed| parsed.package), Ok(package.clone()));
        let (all, _) = parse_all(export(&package, true).as_bytes(), Mode::Strict).expect("our own text");
        let named = |section: Section| Section { anonymous: false, ..section };
        let expected: Vec<Section> = package.sections.into_iter().map(named).collect();
        prop_assert_eq!(&all[0].sections, &expected);
    }

    #[test]
    fn a_file_written_in_another_way_says_the_same(package in package()) {
        let one = canonical(&Format::Uci, "p", export(&package, false).as_bytes()).expect("our own text");
        let other = canonical(&Format::Uci, "q", in_another_way(&package).as_bytes());
        prop_assert_eq!(Ok(one), other);
    }

    #[test]
    fn one_changed_value_is_named_and_nothing_else(package in package(), pick in any::<prop::sample::Index>()) {
        let options: usize = package.sections.iter().map(|section| section.options.len()).sum();
        prop_assume!(options > 0);
        let mut changed = package.clone();
        let every = changed.sections.iter_mut().zip(package.references());
        let (name, value) = every
            .flat_map(|(section, reference)| {
                let named = move |option: &mut Opt| format!("{reference}.{}", option.name);
                section.options.iter_mut().map(move |option| (named(option), &mut option.value))
            })
            .nth(pick.index(options))
            .expect("an index among them");
        match value {
            Value::Text(text) => text.push('x'),
            Value::List(items) => items.push("x".into()),
        }
        let [old, new] = [&package, &changed].map(|package| {
            canonical(&Format::Uci, "p", export(package, false).as_bytes()).expect("our own text")
        });
        prop_assert_ne!(old.digest, new.digest);
        let expected = Differences { changed: vec![name], ..Differences::default() };
        prop_assert_eq!(differences(&old.entries, &new.entries), expected);
    }

    #[test]
    fn text_near_uci_is_read_or_refused_and_its_print_read_again(text in near_uci()) {
        for mode in [Mode::Strict, Mode::Lenient] {
            let Ok(parsed) = parse("p", text.as_bytes(), mode) else { continue };
            prop_assert!(show(&parsed.package, &Show::default()).is_ascii() || !text.is_ascii());
            // A quote in a type is libuci's to print wrongly.
            if parsed.package.sections.iter().all(|section| !section.kind.contains(['\'', '"', '#', ';', '\\'])) {
                let again = parse("p", export(&parsed.package, false).as_bytes(), Mode::Strict);
                prop_assert_eq!(again.map(|again| again.package.sections), Ok(parsed.package.sections));
            }
        }
        let _ = parse_all(text.as_bytes(), Mode::Lenient);
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in vec(any::<u8>(), 0..200)) {
        let _ = parse("p", &bytes, Mode::Lenient);
        let _ = parse_delta("p", &bytes);
        for format in formats() {
            let _ = canonical(&format, "p", &bytes);
        }
    }

    #[test]
    fn any_text_has_one_canonical_form_whose_names_are_there_once(text in "[\\[\\]{}\",:=.a-c0-2#;'\n ]{0,40}") {
        for format in formats() {
            let Ok(form) = canonical(&format, "p", text.as_bytes()) else { continue };
            let mut names: Vec<&str> = form.entries.iter().map(|entry| entry.name.as_str()).collect();
            names.sort_unstable();
            let count = names.len();
            names.dedup();
            prop_assert_eq!(names.len(), count, "{:?}", &format);
        }
    }

    #[test]
    fn commands_and_their_deltas_give_the_same_package(
        before in package(),
        commands in vec((0..7_usize, 0..8_usize, 0..4_usize, "[^\0-\x1f]{0,4}|[0-3]|n[0-9]"), 1..12),
    ) {
        let mut edited = before.clone();
        let mut deltas = Vec::new();
        for (command, section, option, value) in commands {
            let section = match section {
                0..5 => format!("s{section}"),
                5 => "@[0]".into(),
                6 => "@[-1]".into(),
                _ => "new".into(),
            };
            let address = Address {
                package: "p".into(),
                section: Some(section),
                option: (option > 0).then(|| format!("o_{option}")),
                value: Some(value),
            };
            let change = match command {
                0 => Change::Add { kind: "t".into() },
                1 => Change::Set(address),
                2 => Change::AddList(address),
                3 => Change::DelList(address),
                4 => Change::Delete(address),
                5 => Change::Rename(address),
                _ => Change::Reorder(address),
            };
            let unchanged = edited.clone();
            match apply(&mut edited, &change) {
                Ok(Some(delta)) => deltas.push(delta),
                Ok(None) | Err(_) => prop_assert_eq!(&edited, &unchanged),
            }
        }
        let (read, warnings) = parse_delta("p", print_delta("p", &deltas).as_bytes()).expect("our own text");
        prop_assert_eq!(&read, &deltas);
        prop_assert_eq!(warnings, []);
        let mut again = before;
        for delta in &read {
            prop_assert_eq!(apply_delta(&mut again, delta), Ok(()));
        }
        prop_assert_eq!(again, edited);
    }
}
