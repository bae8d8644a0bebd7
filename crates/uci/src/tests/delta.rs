//! Delta files as libuci writes and reads them.

use super::package;
use crate::{
    Delta, MAX_VALUES, Operation, Package, apply_delta, export, parse_delta, print_changes,
    print_delta,
};

const FILE: &str = "config a\n\toption a 'x'\n\tlist l 'p'\n\tlist l 'q'\n\nconfig b 'n'\n";

const LINES: &str = "\
p.n.o='it'\\''s'
+p.cfg03b619='t'
p.cfg03b619.v='two
lines'
|p.cfg01b606.l='r'
~p.cfg01b606.l='p'
-p.cfg01b606.l='0'
@p.n='m'
^p.m='0'
-p.cfg01b606.a
";

/// As libuci does: what is refused is left out.
fn apply_all(package: &mut Package, deltas: &[Delta]) -> usize {
    deltas.iter().filter(|delta| apply_delta(package, delta).is_ok()).count()
}

#[test]
fn deltas_are_read_printed_and_applied_in_order() {
    let (deltas, warnings) = parse_delta("p", LINES.as_bytes()).expect("text");
    assert_eq!(warnings, []);
    assert_eq!(print_delta("p", &deltas), LINES);
    let mut package = package(FILE);
    assert_eq!(apply_all(&mut package, &deltas), deltas.len());
    assert_eq!(
        export(&package, true),
        "package p\n\nconfig b 'm'\n\toption o 'it'\\''s'\n\nconfig a 'cfg01b606'\n\tlist l 'r'\n\n\
         config t 'cfg03b619'\n\toption v 'two\nlines'\n\n"
    );
    // An added section is anonymous, by whatever name the file calls it.
    assert!(export(&package, false).contains("config t\n"));
}

#[test]
fn changes_are_listed_as_libuci_lists_them() {
    let (deltas, _) = parse_delta("p", LINES.as_bytes()).expect("text");
    assert_eq!(
        print_changes("p", &deltas),
        "p.n.o='it'\\''s'\np.cfg03b619='t'\np.cfg03b619.v='two\nlines'\np.cfg01b606.l+='r'\n\
         p.cfg01b606.l-='p'\n-p.cfg01b606.l\np.n='m'\np.m='0'\n-p.cfg01b606.a\n"
    );
}

#[test]
fn lines_that_cannot_be_read_are_left_out() {
    let text = "\n*p.n.o='1'\nq.n.o='1'\np.n.o='1' \np.@b[0].o='1'\np.n\n^p.n.o='1'\n@p.n='a-b'\n|p.n='1'\n\
        ~p.n='1'\np='1'\np.n.o='1'#x\np.n.o='open\n";
    let (deltas, warnings) = parse_delta("p", text.as_bytes()).expect("text");
    assert_eq!(print_delta("p", &deltas), "p.n.o='1'\n");
    let lines: Vec<usize> = warnings.iter().map(|warning| warning.line).collect();
    assert_eq!(lines, [2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 13]);
    assert_eq!(
        warnings[1].to_string(),
        r#"line 3, column 1: a change of package "q" in the file of "p""#
    );
    assert!(parse_delta("p", b"p.n.o='\xff'\n").is_err());
}

#[test]
fn a_delta_of_what_is_gone_is_refused_and_the_next_ones_count() {
    let text = "p.none.o='1'\n-p.none\n@p.none='x'\n^p.none='1'\np.n.o='2'\n";
    let (deltas, _) = parse_delta("p", text.as_bytes()).expect("text");
    let mut package = package(FILE);
    assert_eq!(apply_all(&mut package, &deltas), 1);
    assert_eq!(
        apply_delta(&mut package, &deltas[1]).expect_err("gone").to_string(),
        r#"there is no section "none""#
    );
}

#[test]
fn a_removal_with_a_value_means_an_item_of_a_list_only() {
    let mut package = package(FILE);
    let (deltas, _) = parse_delta("p", b"-p.cfg01b606.a='x'\n-p.cfg01b606.l='x'\n").expect("text");
    assert!(apply_delta(&mut package, &deltas[0]).is_ok());
    assert!(apply_delta(&mut package, &deltas[1]).is_err());
    assert_eq!(
        export(&package, false),
        "package p\n\nconfig a\n\tlist l 'p'\n\tlist l 'q'\n\nconfig b 'n'\n\n"
    );
}

#[test]
fn revert_takes_back_what_is_within_its_address() {
    let delta = |section: &str, option: Option<&str>| Delta {
        operation: Operation::Change,
        section: section.into(),
        option: option.map(Into::into),
        value: Some("v".into()),
    };
    let deltas = [delta("a", None), delta("a", Some("x")), delta("b", Some("x"))];
    for (section, option, expected) in [
        (None, None, [true, true, true]),
        (Some("a"), None, [true, true, false]),
        (Some("a"), Some("x"), [false, true, false]),
    ] {
        assert_eq!(deltas.each_ref().map(|delta| delta.is_within(section, option)), expected);
    }
}

#[test]
fn a_delta_file_is_limited() {
    let text = "-p.a\n".repeat(MAX_VALUES);
    assert_eq!(parse_delta("p", text.as_bytes()).expect("as many").0.len(), MAX_VALUES);
    let problem = parse_delta("p", (text + "-p.a\n").as_bytes()).expect_err("one more");
    assert_eq!(problem.text, "more changes than the limit of 262144: commit or revert them");
}
