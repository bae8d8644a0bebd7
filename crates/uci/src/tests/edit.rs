//! The commands of `uci`. What each one left in libuci's delta file was recorded.

use super::package;
use crate::{
    Address, MAX_OPTIONS, MAX_SECTIONS, Package, Refused,
    edit::{Change, apply},
    export, print_delta,
};

const FILE: &str = "\
config a
	option a 'x'
	list l 'p'
	list l 'q r'
	list l 'p'

config b 'n'
	option o '1'
";

/// A command line, done on a package: its line in the delta file.
fn uci(package: &mut Package, command: &str) -> Result<String, Refused> {
    let (word, rest) = command.split_once(' ').expect("a command and what it is for");
    let change = if word == "add" {
        Change::Add { kind: rest.to_owned() }
    } else {
        let address = Address::parse(&format!("p.{rest}"))?;
        match word {
            "set" => Change::Set(address),
            "add_list" => Change::AddList(address),
            "del_list" => Change::DelList(address),
            "delete" => Change::Delete(address),
            "rename" => Change::Rename(address),
            "reorder" => Change::Reorder(address),
            other => panic!("no command {other}"),
        }
    };
    Ok(print_delta("p", apply(package, &change)?.as_slice()))
}

/// What a command leaves in the delta file, and the sections that it touched as they are then.
fn check(command: &str, delta: &str, expected: &str) {
    let mut package = package(FILE);
    assert_eq!(uci(&mut package, command).expect(command), delta, "{command}");
    let text = export(&package, true);
    let body = text.strip_prefix("package p\n\n").unwrap_or_default();
    assert_eq!(body, format!("{expected}\n"), "{command}");
}

const A: &str =
    "config a 'cfg01b606'\n\toption a 'x'\n\tlist l 'p'\n\tlist l 'q r'\n\tlist l 'p'\n";
const N: &str = "config b 'n'\n\toption o '1'\n";

#[test]
fn set_changes_in_place_adds_at_the_end_and_deletes_with_an_empty_value() {
    let both = format!("{A}\n{N}");
    check("set n.o=it's", "p.n.o='it'\\''s'\n", &both.replace("'1'", "'it'\\''s'"));
    check("set n.o=1", "", &both);
    check("set n.z=2", "p.n.z='2'\n", &format!("{both}\toption z '2'\n"));
    check("set n.o=", "-p.n.o\n", &both.replace("\toption o '1'\n", ""));
    check("set n.z=", "", &both);
    check("set n=", "-p.n\n", A);
    check("set none=", "", &both);
    check("set n=bb", "p.n='bb'\n", &both.replace("config b", "config bb"));
    check("set new=t", "p.new='t'\n", &format!("{both}\nconfig t 'new'\n"));
    check(
        "set @a[-1].l=one",
        "p.cfg01b606.l='one'\n",
        &format!("config a 'cfg01b606'\n\toption a 'x'\n\toption l 'one'\n\n{N}"),
    );
}

#[test]
fn add_tells_the_generated_name() {
    check("add t", "+p.cfg03b619='t'\n", &format!("{A}\n{N}\nconfig t 'cfg03b619'\n"));
    let mut package = package(FILE);
    uci(&mut package, "delete n").expect("there");
    // libuci goes on counting.
    assert_eq!(uci(&mut package, "add t").expect("a type"), "+p.cfg03b619='t'\n");
}

#[test]
fn lists_grow_shrink_and_stay_when_empty() {
    let both = format!("{A}\n{N}");
    check(
        "add_list n.o=2",
        "|p.n.o='2'\n",
        &both.replace("\toption o '1'", "\tlist o '1'\n\tlist o '2'"),
    );
    check("add_list n.l=", "|p.n.l=''\n", &format!("{both}\tlist l ''\n"));
    check("del_list @a[0].l=p", "~p.cfg01b606.l='p'\n", &both.replace("\tlist l 'p'\n", ""));
    check("del_list @a[0].l=zz", "~p.cfg01b606.l='zz'\n", &both);
    check("del_list n.o=1", "", &both);
    check("del_list n.z=1", "", &both);
    check("delete @a[0].l=1", "-p.cfg01b606.l='1'\n", &both.replace("\tlist l 'q r'\n", ""));
    check("delete @a[0].l=7", "", &both);
    check("delete n.o=7", "-p.n.o\n", &both.replace("\toption o '1'\n", ""));

    let mut package = package("config t s\nlist l x\n");
    uci(&mut package, "del_list s.l=x").expect("a list");
    assert_eq!(crate::show(&package, &crate::Show::default()), "p.s=t\np.s.l=\n");
}

#[test]
fn delete_rename_and_reorder() {
    let both = format!("{A}\n{N}");
    check("delete @a[0]", "-p.cfg01b606\n", N);
    check("delete @a[0].a", "-p.cfg01b606.a\n", &both.replace("\toption a 'x'\n", ""));
    check("rename n=m", "@p.n='m'\n", &both.replace("'n'", "'m'"));
    check("rename n.o=oo", "@p.n.o='oo'\n", &both.replace("option o", "option oo"));
    check("reorder n=0", "^p.n='0'\n", &format!("{N}\n{A}"));
    check("reorder n=-5", "^p.n='-5'\n", &format!("{N}\n{A}"));
    check("reorder @a[0]=99", "^p.cfg01b606='99'\n", &format!("{N}\n{A}"));
    check("reorder n=1", "", &both);
    check("reorder n=abc", "^p.n='0'\n", &format!("{N}\n{A}"));

    let mut package = package("config a\n");
    uci(&mut package, "rename @a[0]=named").expect("there");
    assert!(!package.sections[0].anonymous);
}

#[test]
fn what_cannot_be_done_is_refused_in_libucis_words_and_changes_nothing() {
    let mut package = package(FILE);
    let before = package.clone();
    for (command, words) in [
        ("set none.o=1", "Invalid argument"),
        ("set n.o", "Invalid argument"),
        ("set n=two words", "Invalid argument"),
        ("set @b[5]=t", "Invalid argument"),
        ("set @b[x].o=1", "Invalid argument"),
        ("set n.o-o=1", "Parse error"),
        ("add two words", "Invalid argument"),
        ("add_list none.l=1", "Invalid argument"),
        ("add_list n=1", "Invalid argument"),
        ("add_list n.l", "Invalid argument"),
        ("del_list none.l=1", "Invalid argument"),
        ("delete none", "Entry not found"),
        ("delete n.none", "Entry not found"),
        ("delete n.o=x", "Invalid argument"),
        ("rename none=m", "Entry not found"),
        ("rename n.none=m", "Entry not found"),
        ("rename n", "Invalid argument"),
        ("rename n=a-b", "Invalid argument"),
        ("reorder none=1", "Entry not found"),
        ("reorder n", "Entry not found"),
    ] {
        let refused = uci(&mut package, command).expect_err(command);
        assert_eq!(refused.libuci_text(), words, "{command}: {refused}");
        assert_eq!(package, before, "{command}");
    }
    let address = Address::parse("p").expect("a package");
    let refused = apply(&mut package, &Change::Delete(address)).expect_err("a package");
    assert_eq!(refused.to_string(), "a section must be named: package.section");
}

#[test]
fn edits_keep_to_the_limits_of_a_file() {
    let mut full = package(&"config t\n".repeat(MAX_SECTIONS));
    assert!(uci(&mut full, "add t").is_err());
    assert!(uci(&mut full, "set new=t").is_err());
    let options: String = (0..MAX_OPTIONS).map(|index| format!("option o{index} v\n")).collect();
    let mut full = package(&format!("config t s\n{options}"));
    uci(&mut full, "set s.o1=w").expect("it is there");
    assert!(uci(&mut full, "set s.more=v").is_err());
    assert!(uci(&mut full, "add_list s.more=v").is_err());
}
