//! When two files are the same configuration, and what is called different where they aren't.

use serde_json::{Value, json};

use crate::{
    MAX_FILE_BYTES,
    canonical::{Canonical, Differences, Format, MAX_DEPTH, MAX_ENTRIES, canonical, differences},
};

fn of(format: &Format, text: &str) -> Canonical {
    canonical(format, "p", text.as_bytes()).unwrap_or_else(|problem| panic!("{text:?}: {problem}"))
}

fn says(format: &Format, text: &str) -> Vec<(String, Value)> {
    of(format, text).entries.into_iter().map(|entry| (entry.name, entry.value)).collect()
}

fn same(format: &Format, one: &str, other: &str) {
    assert_eq!(of(format, one), of(format, other), "{one:?} and {other:?}");
}

fn differ(format: &Format, one: &str, other: &str) {
    assert_ne!(of(format, one).digest, of(format, other).digest, "{one:?} and {other:?}");
}

fn problem(format: &Format, text: &str) -> String {
    canonical(format, "p", text.as_bytes()).expect_err(text).to_string()
}

/// Names as `changed / added / removed`.
fn changes(format: &Format, one: &str, other: &str) -> String {
    let Differences { changed, added, removed } =
        differences(&of(format, one).entries, &of(format, other).entries);
    [changed, added, removed].map(|names| names.join(" ")).join(" / ")
}

fn lines() -> Format {
    Format::Lines { comment: "#".into() }
}

const HELLO: &str =
    "config hello 'main'\n\toption a '1'\n\tlist l 'x'\n\nconfig rule\n\toption b '2'\n";

#[test]
fn writing_a_uci_file_in_another_way_changes_nothing() {
    same(
        &Format::Uci,
        HELLO,
        "# a comment\npackage p\n\nconfig \"hello\" main\noption a 1 # more\n\n\n  list 'l' \"x\"\n\
         config rule\n\toption\tb\t2\n\toption c ''",
    );
}

#[test]
fn what_a_uci_file_says_counts() {
    for (from, to) in [
        ("'1'", "'2'"),
        ("\toption a '1'\n", ""),
        ("\tlist l 'x'", "\tlist l 'x'\n\tlist l 'y'"),
        ("\tlist l 'x'", "\toption l 'x'"),
        ("\toption a '1'\n\tlist l 'x'\n", "\tlist l 'x'\n\toption a '1'\n"),
        ("config rule", "config rule 'named'"),
        ("config rule", "config role"),
        ("'main'", "'other'"),
    ] {
        differ(&Format::Uci, HELLO, &HELLO.replace(from, to));
    }
    differ(&Format::Uci, HELLO, &(HELLO.to_owned() + "config rule\n"));
}

#[test]
fn what_changed_in_a_uci_file_is_named() {
    let format = Format::Uci;
    assert_eq!(
        says(&format, HELLO),
        [
            ("main".into(), json!("hello")),
            ("main.a".into(), json!("1")),
            ("main.l".into(), json!(["x"])),
            ("@rule[0]".into(), json!("rule")),
            ("@rule[0].b".into(), json!("2")),
        ]
    );
    for (from, to, expected) in [
        ("'1'", "'2'", "main.a /  / "),
        ("\toption a '1'\n", "", " /  / main.a"),
        ("'1'\n", "'1'\n\toption new 'x'\n", " / main.new / "),
        ("config rule\n\toption b '2'\n", "", " /  / @rule[0] @rule[0].b"),
        ("config hello", "config goodbye", "main /  / "),
        ("\toption a '1'\n\tlist l 'x'\n", "\tlist l 'x'\n\toption a '1'\n", "main.l main.a /  / "),
    ] {
        assert_eq!(changes(&format, HELLO, &HELLO.replace(from, to)), expected);
    }
    assert_eq!(changes(&format, HELLO, HELLO), " /  / ");
}

#[test]
fn a_file_that_is_no_uci_is_an_error_even_in_one_line() {
    assert!(problem(&Format::Uci, "config a\nbogus\n").starts_with("line 2, column 1: "));
}

#[test]
fn json_counts_by_what_it_says() {
    let format = Format::Json;
    same(&format, r#"{"a": 1, "b": {"c": [1, 2]}}"#, "{ \"b\":{\"c\":[1,2]},\n\t\"\\u0061\":1.0 }");
    same(&format, "[100, -0, 1e2]", "[1.00e2, 0.0, 10E+1]");
    for (one, other) in [
        (r#"{"a": 1}"#, r#"{"a": "1"}"#),
        (r#"{"a": []}"#, r#"{"a": {}}"#),
        (r#"{"a": null}"#, "{}"),
        (r#"{"": 1}"#, "1"),
        ("[1, 2]", "[2, 1]"),
        ("[[1], 2]", "[1, [2]]"),
        (r#"{"a.b": 1}"#, r#"{"a": {"b": 1}}"#),
        (r#"{"a": [{"b": 1}]}"#, r#"{"a[0]": {"b": 1}}"#),
        ("18446744073709551616", "18446744073709551617"),
        ("0.1", "0.10000000000000001"),
        ("1e999", "1e998"),
        ("-1", "1"),
    ] {
        differ(&format, one, other);
    }
    assert_eq!(
        says(&format, r#"{"b": {"x y": "t", "a.b": true}, "a": [{"c": 1}, []], "n": [1, 2.5]}"#),
        [
            ("a[0].c".into(), json!(1)),
            ("a[1]".into(), json!([])),
            ("b.\"a.b\"".into(), json!(true)),
            ("b.x y".into(), json!("t")),
            ("n".into(), json!([1, 2.5])),
        ]
    );
    assert_eq!(says(&format, r#"{"": {"": 1}}"#), [("\"\".\"\"".into(), json!(1))]);
    assert_eq!(says(&format, " 7 "), [(".".into(), json!(7))]);
    assert_eq!(
        changes(&format, r#"{"a": {"b": 1, "c": 2}}"#, r#"{"a": {"b": 3, "d": 4}}"#),
        "a.b / a.d / a.c"
    );
}

#[test]
fn what_is_no_json_is_refused_with_its_place() {
    let format = Format::Json;
    for (text, expected) in [
        (
            "{\"a\": 1,\n \"\\u0061\": 2}",
            "line 2, column 2: key \"a\" comes a second time: keep one of them",
        ),
        ("{\"a\" 1}", "line 1, column 6: a colon is missing between key and value"),
        ("{\"a\": 1,}", "line 1, column 9: a key in double quotes is missing"),
        ("[1 2]", "line 1, column 4: a comma or ] is missing"),
        ("{\"a\": 1 \"b\"", "line 1, column 9: a comma or } is missing"),
        ("[1", "line 1, column 3: a comma or ] is missing"),
        ("", "line 1, column 1: a value is missing: the file ends here"),
        ("1 2", "line 1, column 3: more behind the end of the value"),
        (
            "nul",
            "line 1, column 1: no value of JSON: an object, array, string, number, true, false or null is",
        ),
        ("01", "line 1, column 1: 01 is no number of JSON"),
        ("1.", "line 1, column 1: 1. is no number of JSON"),
        ("-", "line 1, column 1: - is no number of JSON"),
        ("1e", "line 1, column 1: 1e is no number of JSON"),
        ("\"a\nb\"", "line 1, column 1: \"a\nb\" is no string of JSON"),
        ("\"\\ud800\"", "line 1, column 1: \"\\ud800\" is no string of JSON"),
        ("\"a\\", "line 1, column 1: the file ends inside of \"...\""),
    ] {
        assert_eq!(problem(&format, text), expected, "{text:?}");
    }
}

#[test]
fn depth_is_limited_in_json_and_toml() {
    let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
    of(&Format::Json, &nested(MAX_DEPTH + 1));
    assert!(
        problem(&Format::Json, &nested(MAX_DEPTH + 2)).ends_with("deeper than the limit of 64")
    );
    assert!(canonical(&Format::Json, "p", nested(1_000_000).as_bytes()).is_err());
    of(&Format::Toml, &format!("a = {}", nested(MAX_DEPTH)));
    assert!(
        canonical(&Format::Toml, "p", format!("a = {}", nested(MAX_DEPTH + 1)).as_bytes()).is_err()
    );
    assert!(canonical(&Format::Toml, "p", format!("a = {}", nested(100_000)).as_bytes()).is_err());
    let keys = vec!["a"; 100_000].join(".");
    assert!(canonical(&Format::Toml, "p", format!("{keys} = 1").as_bytes()).is_err());
}

#[test]
fn toml_counts_by_what_it_says() {
    let format = Format::Toml;
    same(
        &format,
        "a = 1 # one\n[t]\nb = 'x'\nc = [1,2]\n",
        "t.c = [ 1, 2, ]\nt.b = \"x\"\n\na=0x1",
    );
    for (one, other) in [
        ("a = 1", "a = 1.0"),
        ("a = 1", "a = '1'"),
        ("a = 1979-05-27", "a = '1979-05-27'"),
        ("a = inf", "a = -inf"),
        ("a = {}", "a = []"),
        ("a = [[1], 2]", "a = [1, [2]]"),
        ("[[a]]\nb = 1\n[[a]]\nb = 2", "[[a]]\nb = 2\n[[a]]\nb = 1"),
    ] {
        differ(&format, one, other);
    }
    assert_eq!(
        says(&format, "d = 1979-05-27\n[[s]]\nx = nan\n[[s]]\n\"k.k\" = [1, 'a']"),
        [
            ("d".into(), json!({ "datetime": "1979-05-27" })),
            ("s[0].x".into(), json!({ "float": "NaN" })),
            ("s[1].\"k.k\"".into(), json!([1, "a"])),
        ]
    );
    assert!(problem(&format, "a = 1\na = 2").starts_with("line 2, column 1: "));
    assert_eq!(changes(&format, "[a]\nb = 1", "[a]\nb = 2"), "a.b /  / ");
}

#[test]
fn ini_counts_by_what_it_says() {
    let format = Format::Ini;
    same(&format, "# c\nk=v\n[s]\n a = 1 2 \nb=\n", "; c\r\n\r\n  k\t=  v\n[ s ]\nb =\na=1 2");
    for (one, other) in [
        ("k = 1", "k = '1'"),
        ("k =", "k"),
        ("k=1\nk=2", "k=2\nk=1"),
        ("[a]\nb=1", "a.b=1"),
        ("[a.b]\nc=1", "[a]\nb.c=1"),
        ("[a]", ""),
        ("[a]\n[b]\nk=1", "[b]\n[a]\nk=1"),
        ("[peer]\nk=1\nips=x\n[peer]\nk=2", "[peer]\nk=1\n[peer]\nk=2\nips=x"),
    ] {
        differ(&format, one, other);
    }
    assert_eq!(
        says(&format, "net.ip=1\nflag\n[peer]\nk=1=2\n[peer]\nk=2\nk=3\n[empty]"),
        [
            ("\"net.ip\"".into(), json!("1")),
            ("[empty]".into(), Value::Null),
            ("flag".into(), Value::Null),
            ("peer.k".into(), json!("1=2")),
            ("peer[1].k".into(), json!(["2", "3"])),
        ]
    );
    assert_eq!(changes(&format, "[s]\na=1\nb=2", "[s]\na=2\nc=3"), "s.a / s.c / s.b");
    assert_eq!(
        problem(&format, "a=1\n = 2"),
        "line 2, column 1: a value without a key: write key = value"
    );
    assert!(
        problem(&format, "[open").starts_with("line 1, column 1: a section's name doesn't end")
    );
}

#[test]
fn lines_count_without_blanks_at_their_end_and_comments() {
    same(&lines(), "# c\na  \n\n  b\n", "a\n  b\n\t# d\n   ");
    differ(&lines(), "a\nb", "b\na");
    differ(&lines(), "  a", "a");
    differ(&lines(), "a # c", "a");
    differ(&Format::Lines { comment: String::new() }, "a\n#", "a");
    same(&Format::Lines { comment: "--".into() }, "a\n-- c", "a");
    assert_eq!(says(&lines(), "#\na\n\nb"), [("1".into(), json!("a")), ("2".into(), json!("b"))]);
    assert_eq!(changes(&lines(), "a\nb", "a\nc\nd"), "2 / 3 / ");
}

#[test]
fn bytes_count_each() {
    differ(&Format::Bytes, "a", "a\n");
    let binary = canonical(&Format::Bytes, "p", b"\xff\0").expect("any bytes");
    assert_eq!(binary.entries, []);
    assert_ne!(of(&Format::Bytes, "").digest, of(&lines(), "").digest);
}

/// Digests are kept over restarts and updates: where one of these changes, every package of every device is announced.
#[test]
fn digests_stay_what_they_are() {
    for (format, text, expected) in [
        (Format::Uci, HELLO, "1f9f6631edbe3d992d4fa9c4c6488f284d64d2f0596aa626926e00e219202530"),
        (
            Format::Json,
            r#"{"a": [1, 2.5, null], "b": {}}"#,
            "1f53ad7a18788f26825cddb584f38a73ea25a1ebb94fea403f32230dab877c22",
        ),
        (
            Format::Toml,
            "a = 1\nb = [1.5, 'x']",
            "54c4e74e9444077f9ae070568ba23336d54bbe51d433de914103e8d5ef3a7cca",
        ),
        (
            Format::Ini,
            "[s]\na=1\nb",
            "b4282a5cdc0e81d67a113b95ee1529408f758e67655d707ba9a3f4c67dafe324",
        ),
        (lines(), "a\nb", "675b4810fae3e924af363d13da0f8977da05aa74a85cdfb10ea74f02605c4a64"),
        (Format::Bytes, "a\n", "73cd4c168ccc3bf97e3477763b80905b3582b66943b045600665f468af69acf6"),
    ] {
        assert_eq!(of(&format, text).hex(), expected, "{format:?}");
    }
}

#[test]
fn what_a_file_may_hold_is_limited() {
    let long = vec![b'\n'; MAX_FILE_BYTES + 1];
    for format in [Format::Uci, Format::Json, Format::Toml, Format::Ini, lines(), Format::Bytes] {
        let problem = canonical(&format, "p", &long).expect_err("too long");
        assert_eq!(problem.text, "16777217 bytes exceed the limit of 16777216: split the file");
    }
    let many = |line: &str, count: usize| line.repeat(count);
    assert!(canonical(&lines(), "p", many("a\n", MAX_ENTRIES).as_bytes()).is_ok());
    for (format, text) in [
        (lines(), many("a\n", MAX_ENTRIES + 1)),
        (Format::Ini, many("a\n", MAX_ENTRIES + 1)),
        (Format::Json, format!("[{}1]", many("1,", MAX_ENTRIES))),
    ] {
        let problem = canonical(&format, "p", text.as_bytes()).expect_err("too many");
        assert!(problem.text.contains("than the limit of 278528"), "{problem}");
    }
    assert!(canonical(&Format::Json, "p", b"\"\xff\"").is_err());
}
