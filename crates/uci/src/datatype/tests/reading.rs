//! What the two readers refuse, and where they say the fault is.

use crate::datatype::{EXPRESSION_MAX, Mode, Rule, value_report};

use super::Fake;

fn fault(rule: &str, mode: Mode) -> String {
    Rule::parse(rule, mode).expect_err(rule).to_string()
}

#[test]
fn strict_names_the_column_of_what_it_cannot_read() {
    let cases = [
        ("nosuch", "line 1, column 1: \"nosuch\" is not the name of a type"),
        ("or(bool,nosuch)", "line 1, column 9: \"nosuch\" is not the name of a type"),
        ("", "line 1, column 1: the expression ends where an item is expected"),
        ("bool,", "line 1, column 6: the expression ends where an item is expected"),
        (",bool", "line 1, column 1: expected is a number, a text in quotes or the name of a type"),
        ("or(bool", "line 1, column 8: the parenthesis after \"or\" is not closed here"),
        ("bool)", "line 1, column 5: text after an item; expected is \",\""),
        ("'abc", "line 1, column 1: a text without its closing quote"),
        ("min(5", "line 1, column 6: the parenthesis after \"min\" is not closed here"),
        ("5x", "line 1, column 1: \"5x\" is not a decimal number"),
        ("inf", "line 1, column 1: \"inf\" is not the name of a type"),
        ("min", "line 1, column 1: \"min\" has 0 arguments; it takes 1 whole number"),
        (
            "string(1,2,3)",
            "line 1, column 1: \"string\" has 3 arguments; it takes 0 to 2 length from 0",
        ),
        ("bool(1)", "line 1, column 1: \"bool\" has 1 arguments; it takes none"),
        ("or()", "line 1, column 1: \"or\" has 0 arguments; it takes at least 1 rule"),
        ("range(1,'x')", "line 1, column 1: an argument of \"range\" is not a whole number"),
        ("range(1,1.5)", "line 1, column 1: an argument of \"range\" is not a whole number"),
        ("string(-1)", "line 1, column 1: an argument of \"string\" is not a length from 0"),
        ("integer(1)", "line 1, column 1: an argument of \"integer\" is not a base from 2 to 36"),
        ("range(5,1)", "line 1, column 1: range(5,1) allows nothing: 5 is above 1"),
        ("uinteger(5:1)", "line 1, column 1: no number is from 5 to 1"),
        ("regex(\"a(\")", "line 1, column 1: pattern, byte 2: a group is not closed"),
        ("regex(bool)", "line 1, column 1: an argument of \"regex\" is not a text in quotes"),
        ("uci('a','b')", "line 1, column 1: uci of section \"b\" needs the name of an option"),
        ("bool\0", "line 1, column 5: a NUL byte in an expression"),
    ];
    for (rule, text) in cases {
        assert_eq!(fault(rule, Mode::Strict), text, "{rule:?}");
    }
}

#[test]
fn compatible_says_what_upstream_says_and_where() {
    let cases = [
        ("nosuch", "unrecognized function", 1),
        ("or(bool, )", "unrecognized function", 10),
        ("bool, ", "unexpected EOF", 7),
        ("'a,b'", "unterminated string", 1),
        ("bool)", "expected '(' or EOF after function label", 5),
        ("5x", "expected ',' after literal", 2),
        ("uinteger(1:200", "", 0),
        ("uinteger(1:x)", "expected ',' after literal", 11),
    ];
    for (rule, upstream, column) in cases {
        let report = value_report(rule, "5", Mode::Compatible, &Fake::new());
        let stdout =
            if column == 0 { String::new() } else { format!("Syntax error, {upstream}\n") };
        assert_eq!(report.stdout, stdout, "{rule}");
        assert_eq!(report.stderr, format!("{rule} - 5 = false\n"));
        assert_eq!(report.code, 1);
        if column > 0 {
            let place = format!("line 1, column {column}: ");
            assert!(fault(rule, Mode::Compatible).starts_with(&place), "{rule}");
        }
        assert_eq!(value_report(rule, "", Mode::Compatible, &Fake::new()).stdout, "", "{rule}");
    }
}

#[test]
fn expressions_end_at_the_limits_of_their_mode() {
    let many = |count: usize| vec!["bool"; count].join(",");
    assert!(Rule::parse(&many(30), Mode::Compatible).is_ok());
    assert!(fault(&many(31), Mode::Compatible).ends_with("more than 30 atoms"));
    assert!(Rule::parse(&many(64), Mode::Strict).is_ok());
    assert!(fault(&many(65), Mode::Strict).ends_with("more than 64 atoms"));
    let deep = |depth: usize| format!("{}bool{}", "or(".repeat(depth), ")".repeat(depth));
    assert!(Rule::parse(&deep(16), Mode::Strict).is_ok());
    assert!(fault(&deep(17), Mode::Strict).ends_with("nested deeper than 16"));
    let long = format!("'{}'", "x".repeat(EXPRESSION_MAX));
    for mode in [Mode::Compatible, Mode::Strict] {
        assert!(fault(&long, mode).contains("at most 4096 are read"));
    }
}

#[test]
fn a_value_is_reported_as_the_program_does() {
    let world = Fake::new();
    let report = value_report("port", "-1", Mode::Compatible, &world);
    assert_eq!((report.stdout.as_str(), report.code), ("", 0));
    assert_eq!(report.stderr, "port - -1 = true\n");
    let report = value_report("port", "-1", Mode::Strict, &world);
    assert_eq!((report.stdout.as_str(), report.code), ("", 1));
    assert_eq!(report.stderr, "port - -1 = false: allowed is a port from 0 to 65535\n");
}
