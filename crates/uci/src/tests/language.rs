//! The language: what a text says, line by line.

use super::{lenient, package, refused};
use crate::{
    MAX_FILE_BYTES, MAX_OPTIONS, MAX_SECTIONS, MAX_VALUES, Mode, Show, Value, merge, parse,
    parse_all, print_changes, show,
};

fn shown(text: &str) -> String {
    show(&package(text), &Show::default())
}

/// The value of `option o` in a section `s`.
fn value(written: &str) -> String {
    let package = package(&format!("config t 's'\n\toption o {written}\n"));
    match package.section("s").and_then(|section| section.option("o")) {
        Some(option) => option.value.items().join("|"),
        None => String::new(),
    }
}

#[test]
fn quoting_is_libucis() {
    for (written, expected) in [
        ("bare", "bare"),
        (r"a\xb", "axb"),
        (r"a\ b", "a b"),
        ("'a b'", "a b"),
        (r"'a\x'", r"a\x"),
        (r#""a \"b\" c""#, r#"a "b" c"#),
        ("'two\nlines'", "two\nlines"),
        ("\"two\nlines\"", "two\nlines"),
        ("\"one\\\nline\"", "oneline"),
        (r"'it'\''s'", "it's"),
        (r#"a'b'"c""#, "abc"),
        ("a#b", "a"),
        ("'a'#b", "a"),
        (r"a\#b", "a#b"),
        ("a # comment", "a"),
        ("a\\\nb", "ab"),
        ("a\\\r\nb", "ab"),
        ("é", "é"),
        (r"\é", "é"),
        ("''", ""),
        ("", ""),
    ] {
        assert_eq!(value(written), expected, "{written:?}");
    }
}

#[test]
fn a_continued_line_must_not_be_indented() {
    let problem = refused("config t s\noption o a \\\n  b\n");
    assert_eq!((problem.line, problem.column), (3, 3));
}

#[test]
fn a_semicolon_ends_the_line_behind_a_bare_word_and_the_command_behind_a_quote() {
    assert_eq!(shown("config t s\noption a b; option c d\n"), "p.s=t\np.s.a='b'\n");
    assert_eq!(shown("config t s\noption a 'b'; option c d\n"), "p.s=t\np.s.a='b'\np.s.c='d'\n");
    assert_eq!(shown("config t s\noption a b ;option c d\n"), "p.s=t\np.s.a='b'\np.s.c='d'\n");
    assert_eq!(refused("config t s\noption a 'b';\n").line, 2);
}

#[test]
fn commands_have_short_names() {
    assert_eq!(shown("p x\nc t s\no a 1\nl b 2\nl b 3\n"), "p.s=t\np.s.a='1'\np.s.b='2' '3'\n");
}

#[test]
fn an_empty_option_is_dropped_and_an_empty_item_kept() {
    assert_eq!(
        shown("config t s\noption a 'x'\noption a ''\noption b ''\nlist l ''\nlist l 'y'\n"),
        "p.s=t\np.s.a='x'\np.s.l='' 'y'\n"
    );
}

#[test]
fn the_last_option_wins_where_the_first_one_stood() {
    assert_eq!(
        shown("config t s\noption a 1\noption b 2\noption a 333\n"),
        "p.s=t\np.s.a='333'\np.s.b='2'\n"
    );
}

#[test]
fn an_option_becomes_the_first_item_of_a_list_and_replaces_a_list() {
    let text = "config t s\noption a 1\nlist a 2\n";
    assert_eq!(
        package(text).sections[0].options[0].value,
        Value::List(vec!["1".into(), "2".into()])
    );
    let text = "config t s\nlist a 1\nlist a 2\noption a 3\n";
    assert_eq!(package(text).sections[0].options[0].value, Value::Text("3".into()));
}

#[test]
fn sections_of_one_name_and_type_are_one() {
    assert_eq!(
        shown("config t s\noption a 1\nconfig t\nconfig t s\noption b 2\n"),
        "p.s=t\np.s.a='1'\np.s.b='2'\np.@t[1]=t\n"
    );
    let problem = refused("config t s\nconfig u s\n");
    assert_eq!((problem.line, problem.column), (2, 12));
    assert_eq!(
        problem.text,
        r#"section "s" is of type "t" already, not "u": use one type or another name"#
    );
    let parsed = lenient("config t s\noption a 1\nconfig u s\n");
    assert_eq!(show(&parsed.package, &Show::default()), "p.s=u\np.s.a='1'\n");
}

#[test]
fn a_type_of_another_length_makes_an_anonymous_section_a_named_one() {
    for (kind, anonymous) in [("b", true), ("bb", false)] {
        let parsed = lenient(&format!("config a\nconfig {kind} cfg01b606\n"));
        assert_eq!(parsed.package.sections.len(), 1);
        assert_eq!(parsed.package.sections[0].anonymous, anonymous, "{kind}");
    }
}

#[test]
fn anonymous_sections_get_libucis_names() {
    let package = package("config x\nconfig rule named\nconfig system\n");
    let names: Vec<&str> = package.sections.iter().map(|section| section.name.as_str()).collect();
    assert_eq!(names, ["cfg01b61d", "named", "cfg03e48a"]);
}

#[test]
fn a_package_line_is_ignored_in_a_file_and_begins_a_package_in_a_stream() {
    assert_eq!(package("package other\nconfig t s\n").name, "p");
    let (packages, _) =
        parse_all(b"package a\nconfig t s\npackage b-2\nconfig u\n", Mode::Strict).expect("both");
    let names: Vec<(&str, usize)> =
        packages.iter().map(|package| (package.name.as_str(), package.sections.len())).collect();
    assert_eq!(names, [("a", 1), ("b-2", 1)]);
    let twice = parse_all(b"package a\npackage b\npackage a\n", Mode::Lenient).expect_err("twice");
    assert_eq!(
        twice.to_string(),
        r#"line 3, column 11: package "a" comes a second time: join the two"#
    );
    for text in ["config t\n", "package a\nconfig t\npackage b\noption a 1\n"] {
        let problem = parse_all(text.as_bytes(), Mode::Strict).expect_err(text);
        assert!(problem.text.contains(" before the first "), "{problem}");
    }
}

#[test]
fn errors_name_the_place_and_the_cure() {
    for (text, expected) in [
        (
            "config t\n\toptoin a b\n",
            r#"line 2, column 2: "optoin" is no command: write config, option, list, package or # before a comment"#,
        ),
        (
            "option a b\n",
            "line 1, column 1: option before the first section: write config TYPE first",
        ),
        (
            "config t\nlist a-b c\n",
            r#"line 2, column 6: "a-b" is no name of an option: letters, digits and _ are"#,
        ),
        (
            "config t s-x\n",
            r#"line 1, column 10: "s-x" is no name of a section: letters, digits and _ are"#,
        ),
        (
            "config 't t'\n",
            r#"line 1, column 8: "t t" is no type of a section: printable ASCII without blanks is"#,
        ),
        ("config ''\n", "line 1, column 8: config without a type"),
        ("option", "line 1, column 1: option without a name"),
        (
            "config t\noption a b c\n",
            r#"line 2, column 12: "c" is one argument too many: put quotes around a value with blanks"#,
        ),
        (
            "config t\noption a 'b\nc\n",
            "line 2, column 10: the file ends inside of '...': close the quote",
        ),
        (
            "config t\noption a \"b",
            "line 2, column 10: the file ends inside of \"...\": close the quote",
        ),
        (
            "package a.b\n",
            r#"line 1, column 9: "a.b" is no name of a package: letters, digits, _ and - are"#,
        ),
        ("config t\n#\0\n", "line 2, column 2: byte 0x00 in a text: the file is binary or damaged"),
    ] {
        assert_eq!(refused(text).to_string(), expected);
    }
    let problem = parse("p", b"config t\noption a '\xff'\n", Mode::Lenient).expect_err("no UTF-8");
    assert_eq!(
        problem.to_string(),
        "line 2, column 11: byte 0xff is not UTF-8: save the file as UTF-8"
    );
}

#[test]
fn a_lenient_reader_keeps_what_it_understood() {
    let parsed = lenient("bogus\nconfig t s\noption a 1 extra\nwhat\noption b 2 3 4\nlist\n");
    assert_eq!(show(&parsed.package, &Show::default()), "p.s=t\np.s.a='1'\np.s.b='2'\n");
    let lines: Vec<usize> = parsed.warnings.iter().map(|warning| warning.line).collect();
    assert_eq!(lines, [1, 4, 5, 6]);
    assert_eq!(lenient(&"bogus\n".repeat(1000)).warnings.len(), 100);
}

#[test]
fn merging_tells_what_it_changed_and_changes_nothing_on_an_error() {
    let mut target = package("config t s\n\toption a '1'\n\toption b '2'\n");
    let before = target.clone();
    assert!(merge(&mut target, b"config t s\noption a 9\nbogus\n", Mode::Strict).is_err());
    assert_eq!(target, before);
    let text = b"config t s\noption a 9\noption b 2\nlist l x\nconfig t\noption c 3\nconfig u n\n";
    let (deltas, _) = merge(&mut target, text, Mode::Strict).expect("good text");
    assert_eq!(
        print_changes("p", &deltas),
        "p.s.a='9'\np.s.l+='x'\np.cfg02b619='t'\np.cfg02b619.c='3'\np.n='u'\n"
    );
    assert_eq!(
        show(&target, &Show::default()),
        "p.s=t\np.s.a='9'\np.s.b='2'\np.s.l='x'\np.@t[1]=t\np.@t[1].c='3'\np.n=u\n"
    );
}

#[test]
fn what_a_file_may_hold_is_limited() {
    let sections = "config t\n".repeat(MAX_SECTIONS);
    assert_eq!(package(&sections).sections.len(), MAX_SECTIONS);
    let more = parse("p", (sections + "config t\n").as_bytes(), Mode::Lenient);
    assert_eq!(
        more.expect_err("one more").text,
        "more sections than the limit of 16384: split the file"
    );

    let options = |count: usize| -> String {
        (0..count).map(|index| format!("option o{index} v\n")).collect()
    };
    package(&format!("config t\n{}", options(MAX_OPTIONS)));
    assert_eq!(
        refused(&format!("config t\n{}", options(MAX_OPTIONS + 1))).text,
        "more options in a section than the limit of 4096: split the file"
    );

    let items = format!("config t\n{}", "list l v\n".repeat(MAX_VALUES));
    package(&items);
    assert_eq!(
        refused(&(items + "list l v\n")).text,
        "more values than the limit of 262144: split the file"
    );

    let long = vec![b'\n'; MAX_FILE_BYTES + 1];
    assert!(parse("p", &long[1..], Mode::Strict).is_ok());
    assert_eq!(
        parse("p", &long, Mode::Strict).expect_err("too long").text,
        "16777217 bytes exceed the limit of 16777216: split the file"
    );
}
