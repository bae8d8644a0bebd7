//! Texts that libuci prints, byte for byte.

use super::package;
use crate::{Address, Show, export, file_text, get, show, show_option, show_section};

const FILE: &str = "\
config system
	option hostname 'it'\\''s me'
	list server 'a'
	list server 'b c'

config rule 'named'
	option text 'two
lines'

config rule
config \"a'b\"
	option x 1
";

#[test]
fn export_is_libucis() {
    let expected = "package p\n\nconfig system\n\toption hostname 'it'\\''s me'\n\tlist server 'a'\n\
        \tlist server 'b c'\n\nconfig rule 'named'\n\toption text 'two\nlines'\n\nconfig rule\n\n\
        config a'\\''b\n\toption x '1'\n\n";
    assert_eq!(export(&package(FILE), false), expected);
    let named = expected
        .replace("config system\n", "config system 'cfg01e48a'\n")
        .replace("config rule\n", "config rule 'cfg0392bd'\n")
        .replace("config a'\\''b\n", "config a'\\''b 'cfg0454ef'\n");
    assert_eq!(export(&package(FILE), true), named);
    assert_eq!(format!("package p\n{}", file_text(&package(FILE), false)), expected);
    assert_eq!(export(&package(""), false), "package p\n\n");
}

#[test]
fn show_is_libucis() {
    let expected = "p.@system[0]=system\np.@system[0].hostname='it'\\''s me'\n\
        p.@system[0].server='a' 'b c'\np.named=rule\np.named.text='two\nlines'\n\
        p.@rule[1]=rule\np.@a'b[0]=a'b\np.@a'b[0].x='1'\n";
    let package = package(FILE);
    assert_eq!(show(&package, &Show::default()), expected);
    let how = Show { generated_names: true, delimiter: "|" };
    let expected = "p.cfg01e48a=system\np.cfg01e48a.hostname='it'\\''s me'\n\
        p.cfg01e48a.server='a'|'b c'\np.named=rule\np.named.text='two\nlines'\n\
        p.cfg0392bd=rule\np.cfg0454ef=a'b\np.cfg0454ef.x='1'\n";
    assert_eq!(show(&package, &how), expected);
}

#[test]
fn one_section_is_shown_by_its_own_name() {
    let package = package(FILE);
    let address = Address::parse("p.@system[-1].server").expect("an address");
    let found = package.find(&address).expect("a good index");
    let (section, option) = (found.section.expect("there"), found.option.expect("there"));
    assert!(found.complete);
    assert_eq!(
        show_section(&package, section, &Show::default()),
        "p.cfg01e48a=system\np.cfg01e48a.hostname='it'\\''s me'\np.cfg01e48a.server='a' 'b c'\n"
    );
    assert_eq!(
        show_option(&package, section, option, &Show::default()),
        "p.cfg01e48a.server='a' 'b c'\n"
    );
    assert_eq!(get(&option.value, " "), "a 'b c'");
    assert_eq!(get(&section.options[0].value, " "), "it's me");
}

#[test]
fn extended_addresses_count_from_both_ends() {
    let package = package("config a\nconfig b n\nconfig a\nconfig a x\n");
    for (section, expected) in [
        ("@a[0]", Some("cfg01b606")),
        ("@a[1]", Some("cfg03b606")),
        ("@a[2]", Some("x")),
        ("@a[3]", None),
        ("@a[-1]", Some("x")),
        ("@a[-3]", Some("cfg01b606")),
        ("@a[-4]", None),
        ("@[1]", Some("n")),
        ("@[-1]", Some("x")),
        ("@a[]", Some("cfg01b606")),
        ("@c[0]", None),
        ("cfg03b606", Some("cfg03b606")),
        ("nothing", None),
    ] {
        let address = Address::parse(&format!("p.{section}")).expect("an address");
        let found = package.find(&address).expect(section);
        assert_eq!(found.section.map(|section| section.name.as_str()), expected, "{section}");
        assert_eq!(found.complete, expected.is_some());
    }
    for section in ["@a", "@a[x]", "@a[0", "@a[0]x", "a-b", "", "@a[ ]", "@a[1 ]"] {
        let address = Address::parse(&format!("p.{section}")).expect("an address");
        let refused = package.find(&address).expect_err(section);
        assert_eq!(refused.libuci_text(), "Invalid argument", "{section}");
    }
}

#[test]
fn an_address_has_up_to_three_parts_and_a_value_of_text() {
    let address = Address::parse("p.s.o=a.b=c").expect("an address");
    assert_eq!(address.value.as_deref(), Some("a.b=c"));
    assert!(!address.is_extended());
    assert!(Address::parse("p.s.o=two\nlines\tand\r").is_ok());
    for text in ["", "p.s.o.x", "p x", "p.s.o-x", "p.s.", "p.s.o=\x01"] {
        assert_eq!(Address::parse(text).expect_err(text).libuci_text(), "Parse error", "{text:?}");
    }
}
