//! The rows of the table of types, with what each mode accepts and refuses. `BOTH` and `COMPATIBLE` were compared with
//! upstream's program; ranges with a colon and numbers past 32 bits are the only rows in which it answers differently.

mod pattern;
mod property;
mod reading;
mod section;

use super::{FileKind, Mode, Rule, Shown, World};
use crate::{Package, Value};

/// A small world: some paths and one package `net`.
#[derive(Debug)]
struct Fake {
    package: Package,
}

const NET: &str = "\
config globe 'main'
	option delay '50'
	option name 'it'\"'\"'s'
	option flag 'TRUE'
	option on 'yes'
	option empty ''
	option port '-1'
	option words '1 2'
	list ports '80'
	list ports 'x'
	list ports '443'
	list tail '80'
	list tail 'x'
	list flags 'on'
	list flags 'off'
	list void ''
config globe
	option delay '7'
";

impl Fake {
    fn new() -> Self {
        let parsed = crate::parse("net", NET.as_bytes(), crate::Mode::Strict);
        Self { package: parsed.expect("the package is valid").package }
    }

    fn valid(&self, rule: &str, value: &str, mode: Mode) -> bool {
        Rule::parse(rule, mode).expect(rule).check(value, self).is_ok()
    }
}

impl World for Fake {
    fn kind(&self, path: &str) -> Option<FileKind> {
        match path {
            "/etc" => Some(FileKind::Directory),
            "/etc/passwd" => Some(FileKind::Regular),
            "/dev/null" => Some(FileKind::Device),
            "/run/socket" => Some(FileKind::Other),
            _ => None,
        }
    }

    fn values(&self, package: &str, section: &str, option: &str) -> Vec<String> {
        let section = self.package.section(section).filter(|_| package == self.package.name);
        match section.and_then(|section| section.option(option)).map(|option| &option.value) {
            None => Vec::new(),
            Some(Value::Text(text)) => vec![text.clone()],
            Some(Value::List(all)) => all.clone(),
        }
    }

    fn sections(&self, package: &str, kind: &str) -> Vec<String> {
        let all = self.package.sections.iter().filter(|_| package == self.package.name);
        all.filter(|section| section.kind == kind).map(|section| section.name.clone()).collect()
    }
}

/// A rule, values that follow it and values that don't; separated by `|`.
type Row = (&'static str, &'static str, &'static str);

fn check(rows: &[Row], mode: Mode) {
    let world = Fake::new();
    let mut wrong = Vec::new();
    for (rule, valid, invalid) in rows {
        for (values, expected) in [(valid, true), (invalid, false)] {
            let values = values.split('|').filter(|value| !value.is_empty());
            for value in values {
                if world.valid(rule, value, mode) != expected {
                    wrong.push(format!("{mode:?}: {rule} with {value:?} must be {expected}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

const BOTH: &[Row] = &[
    ("5", "5|5.0|5e0", "6|x|5x"),
    ("-1.5", "-1.5", "1.5|-1"),
    ("'abc'", "abc", "ab|abcd|ABC"),
    ("\"a'b\"", "a'b", "ab"),
    (r"'a\'b'", "a'b", r"a\'b"),
    ("port,'auto'", "80|auto", "x|autox"),
    ("or(bool,'x')", "on|x", "y"),
    ("or(or('a','b'),and(uinteger,max(5)))", "a|b|5", "c|6"),
    ("and(string(3),'abc')", "abc", "ab|abcd"),
    ("list(uinteger)", "1|1 2|1\t2| 1 ", "1 x|x"),
    ("neg(uinteger)", "5|!5|! 5|!\t5", "!x|!!5|!"),
    ("min(3)", "3|4|0x10", "2|x|-5"),
    ("max(3)", "3|-4", "4|x"),
    ("range(1,200)", "1|200|0xc8", "0|201|1.5|x"),
    ("minlength(3)", "abc|abcd|é1", "ab|é"),
    ("maxlength(3)", "abc|a", "abcd|éé"),
    ("rangelength(2,3)", "ab|abc", "a|abcd"),
    ("string", "x|1 2|é", ""),
    ("string(2)", "ab", "a"),
    ("string(2,3)", "ab|abc", "a|abcd"),
    ("integer", "0|-5|0x1f", "x|1.5|-|08"),
    ("integer(16)", "ff|-FF|0xff", "fg"),
    ("integer(10)", "08|-8", "ff|0x8"),
    ("uinteger", "0|5|0x1f", "-5|x|08|1 "),
    ("uinteger(8)", "17", "8|-1"),
    ("uinteger(1:200)", "1|200|50", "0|201|-1|x"),
    ("integer(-5:5)", "-5|5|0", "-6|6"),
    ("or(uinteger( 1 : 9 ),'auto')", "9|auto", "10|1:9"),
    ("float", "1|-1.5|.5|5.|1e3", "x|1e|--1"),
    ("ufloat", "1|0.5|3e2", "-1|x"),
    ("bool", "0|off|false|no|disabled|1|on|true|yes|enabled|TRUE|Off", "2|y|onn"),
    ("hexstring", "ff|00FF", "f|fg|0x00|fff"),
    ("hexstring(4,6)", "ffff|ffffff", "ff|ffffffff"),
    ("ip4addr", "1.2.3.4|255.255.255.255", "1.2.3|1.2.3.256|01.2.3.4|::1|1.2.3.4 "),
    (
        "ip6addr",
        "::|::1|1:2:3:4:5:6:7::|::1.2.3.4|FE80::1",
        "1:2|1:2:3:4:5:6:7:8:9|fe80::1%lo|1.2.3.4",
    ),
    ("ipaddr", "1.2.3.4|::1", "lan|1.2.3.4/24"),
    ("cidr4", "1.2.3.4|1.2.3.4/0|1.2.3.4/32", "1.2.3.4/33|1.2.3.4/x|::/0"),
    ("cidr6", "::|::/128|fe80::/10", "::/129|1.2.3.4/8"),
    ("cidr", "1.2.3.4/8|::/8", "lan/8|1.2.3.4/40"),
    ("netmask4", "255.255.255.0|0.0.0.0|128.0.0.0|255.255.255.255", "255.0.255.0|0.0.0.1|24"),
    ("netmask6", "ffff::|ffff:ff00::|::|ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "ff::|::1|64"),
    ("ipmask4", "1.2.3.4|1.2.3.4/255.255.0.0", "1.2.3.4/24|1.2.3.4/255.0.255.0"),
    ("ipmask6", "::1|::1/ffff::", "::1/64|::1/::1"),
    ("ipmask", "1.2.3.4/255.0.0.0|::1/ffff::", "1.2.3.4/8|::1/8"),
    ("port", "0|80|65535", "65536|x|80x|0x50"),
    ("portrange", "80|80-90|80-80", "90-80|5-|80-65536|x-80|80-90-95"),
    (
        "macaddr",
        "00:11:22:33:44:55|0:1:2:3:4:F",
        "00-11-22-33-44-55|0:1:2:3:4|0:1:2:3:4:g|0:1:2:3:4:5:6|0:1:2:3::5",
    ),
    ("uciname", "lan|wan_6|0", "a-b|a.b|é"),
    ("hostname", "a|a.b|a-b_c.d0", ".a|a.|a..b|a b|é|a/b"),
    ("host", "a.b|1.2.3.4|::1", "a b|::g"),
    ("network", "lan|a.b|1.2.3.4|::1", "a b|a/b"),
    ("wpakey", "12345678", "1234567"),
    ("wepkey", "12345|s:12345|1234567890|s:1234567890|1234567890abc", "1234|123456789g|s:1234"),
    ("phonedigit", "0123456789*#!.", "12a|+49"),
    ("directory", "/etc", "/etc/passwd|/dev/null|/none|etc"),
    ("device", "/dev/null", "/etc|/run/socket"),
    ("file", "/etc/passwd", "/etc|/dev/null|/none"),
    (r#"regex("[a-z]+")"#, "abc", "abc1|1abc|ABC"),
    (r#"uci("net","main","delay")"#, "50", "7|delay"),
    (r#"uci("net","main","ports")"#, "80|x|443", "8|80 x"),
    (r#"uci("net","@globe")"#, "main", "globe|lan"),
    (r#"uci("net","@globe","delay")"#, "50|7", "main"),
    (r#"uci("none","@globe")"#, "", "main"),
];

const COMPATIBLE: &[Row] = &[
    ("'abc'", "abc'", "abc\""),
    ("not(bool)", "", "on|x"),
    ("and(string,not(bool))", "x", "on"),
    ("not(and(bool,'x'))", "on", "x"),
    ("list(uinteger)", "", " |\t"),
    ("range(1,200)", " 5|+5|010|4294967297", "5 |08"),
    ("min(3)", "4294967299", "2147483648"),
    ("max(4294967295)", "5|2147483647", ""),
    ("minlength(-1)", "", "a"),
    ("maxlength(-1)", "a|abc", ""),
    ("min(bool)", "", "5"),
    ("min()", "", "5"),
    ("string(or(3),4)", "abc|a", "abcde"),
    ("integer", "010|99999999999999999999999|-0x10", " 5|+5"),
    ("uinteger", "010|99999999999999999999999", " 5"),
    ("integer(99)", "", "5"),
    ("5", "0x5| 5|5e0", "5 "),
    ("float", "inf|nan|nan(1)|0x1p3| 1", "0x1p|infx"),
    ("ufloat", "-0.5|1e30", "-1.5"),
    ("port", "-1|-80|99999999999999999999| 80|+80|4294967296|2147483648", "65536| "),
    ("portrange", "-1|0-|-3-5| 1- 5", "5--1"),
    ("cidr4", "1.2.3.4/|1.2.3.4/-1|1.2.3.4/ 8", ""),
    ("netmask6", "", "ffff:fe00::|8000::"),
    ("ipmask6", "", "::1/ffff:fe00::"),
    ("neg(uciname)", "!|a", "!-"),
    ("neg(phonedigit)", "!", "!a"),
    (r#"regex("a|b")"#, "a|b|ax|xb", "xa|bx"),
    (r#"regex("a{1\,2}")"#, "a|aa", "aaa"),
    (r#"regex("a(")"#, "", "a|a("),
    (r#"uci("n\et","main","delay")"#, "", "50"),
    // What is not closed, or follows a backslash, is dropped.
    ("or(bool", "", "on|bool"),
    ("bool\\", "", "on"),
    (",,bool,", "on", "x"),
    ("", "", "x"),
];

const STRICT: &[Row] = &[
    ("'abc'", "abc", "abc'"),
    ("'a,b(','c'", "a,b(|c", "a"),
    ("not(bool)", "x|2", "on|0"),
    ("and(uinteger,not(range(5,6)))", "4|7", "5|6|x"),
    ("list(uinteger)", "", " |\t"),
    ("list(list(uinteger))", "1 2", "1 x"),
    ("range(1,200)", "", " 5|+5|010|4294967297|08"),
    ("max(4294967295)", "4294967295", "4294967296"),
    ("integer", "9223372036854775807|-9223372036854775808", "010|9223372036854775808|+5| 5|0x|-0x"),
    ("uinteger", "9223372036854775807", "010|-0x1|18446744073709551615"),
    ("integer(2)", "101", "2|0b1"),
    ("5", "", "0x5| 5"),
    ("float", "", "inf|nan|0x1p3| 1|1e999|+1"),
    ("ufloat", "0|1e30", "-0.5|-0|inf"),
    ("port", "", "-1|99999999999999999999| 80|+80|4294967296|080"),
    ("portrange", "", "-1|0-|-3-5|5--1"),
    ("cidr4", "", "1.2.3.4/|1.2.3.4/-1|1.2.3.4/08"),
    ("netmask6", "ffff:fe00::|8000::", ""),
    ("ipmask6", "::1/ffff:fe00::", ""),
    ("neg(uciname)", "!a", "!"),
    ("neg(network)", "! lan", "!"),
    (r#"regex("a|b")"#, "a|b", "ax|xb|ab"),
    (r#"regex("a{1,2}(,b)?")"#, "a|aa|a,b", "aaa|a,"),
    (r#"uci("n\et","main","delay")"#, "50", ""),
];

#[test]
fn both_modes_agree_on_what_a_type_means() {
    check(BOTH, Mode::Compatible);
    check(BOTH, Mode::Strict);
}

#[test]
fn every_type_has_a_row() {
    for name in super::function::Function::NAMES {
        let named = |row: &Row| {
            row.0.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('('))
        };
        let rows = BOTH.iter().chain(STRICT);
        assert!(rows.clone().any(named), "{name} is not tested");
    }
}

#[test]
fn compatible_has_the_quirks_of_upstream() {
    check(COMPATIBLE, Mode::Compatible);
}

#[test]
fn strict_has_none_of_them() {
    check(STRICT, Mode::Strict);
}

#[test]
fn an_alternative_of_a_pattern_is_anchored_at_one_end_only_as_upstream() {
    let world = Fake::new();
    for (value, expected) in [("ax", true), ("xb", true), ("xa", false)] {
        assert_eq!(world.valid("regex(\"a|b\")", value, Mode::Compatible), expected, "{value}");
    }
}

#[test]
fn lengths_of_keys_and_names_end_where_they_should() {
    let world = Fake::new();
    let cases = [
        ("wpakey", "x".repeat(63), true, true),
        ("wpakey", "x".repeat(64), false, false),
        ("wpakey", "0".repeat(64), true, true),
        ("wpakey", "0".repeat(65), false, false),
        ("hostname", "a".repeat(63), true, true),
        ("hostname", "a".repeat(64), true, false),
        ("hostname", "a".repeat(255), true, false),
        ("hostname", "a".repeat(256), false, false),
        ("hostname", format!("{}.b", "a".repeat(64)), false, false),
        ("hostname", "a.".repeat(126) + "a", true, true),
        ("hostname", "a.".repeat(127) + "a", true, false),
        ("cidr4", format!("1.2.3.4/{}8", "0".repeat(12)), false, false),
        ("string", "x".repeat(super::VALUE_MAX), true, true),
        ("string", "x".repeat(super::VALUE_MAX + 1), false, false),
        ("string", "a\0b".to_owned(), false, false),
        ("regex(\"x*\")", "x".repeat(4096), true, true),
        ("regex(\"x*\")", "x".repeat(4097), false, false),
    ];
    for (rule, value, compatible, strict) in cases {
        let length = value.len();
        assert_eq!(world.valid(rule, &value, Mode::Compatible), compatible, "{rule}, {length}");
        assert_eq!(world.valid(rule, &value, Mode::Strict), strict, "{rule}, {length}");
    }
}

#[test]
fn an_empty_value_follows_no_rule() {
    for name in super::function::Function::NAMES {
        let rule = format!("{name}()");
        let Ok(rule) = Rule::parse(&rule, Mode::Compatible) else { panic!("{rule}") };
        assert!(rule.check("", &Fake::new()).is_err(), "{name}");
    }
    assert!(!Fake::new().valid("''", "", Mode::Strict));
}

#[test]
fn a_valid_value_is_shown_by_the_type_that_matched_last() {
    let text = |text: &str| Shown::Text(text.to_owned());
    let number = |text: &str| Shown::Number(text.to_owned());
    let cases = [
        ("bool", "on", Shown::Bool("1"), Shown::Bool("1")),
        ("bool", "TRUE", Shown::Bool(""), Shown::Bool("1")),
        ("bool", "Disabled", Shown::Bool(""), Shown::Bool("0")),
        ("or(uinteger,string)", "5", number("5"), number("5")),
        ("or(uinteger,string)", "x", text("x"), text("x")),
        ("and(uinteger,string)", "5", text("5"), text("5")),
        ("5", "5", number("5"), number("5")),
        ("'5'", "5", text("5"), text("5")),
        ("uinteger(1:9)", "5", number("5"), number("5")),
        ("and(string,not(bool))", "x", text("x"), text("x")),
        ("list(bool)", "on off", Shown::Bool(""), text("on off")),
    ];
    for (rule, value, compatible, strict) in cases {
        let shown = |mode| Rule::parse(rule, mode).expect(rule).check(value, &Fake::new());
        assert_eq!(shown(Mode::Compatible), Ok(compatible), "{rule} {value}");
        assert_eq!(shown(Mode::Strict), Ok(strict), "{rule} {value}");
    }
}

#[test]
fn a_refusal_says_what_would_be_allowed() {
    let cases = [
        ("uinteger(1:200)", "a whole number from 1 to 200"),
        ("range(1,200)", "a whole number from 1 to 200"),
        ("or(port,'auto')", "a port from 0 to 65535 or \"auto\""),
        ("and(uinteger,max(5))", "a whole number from 0 and a whole number up to 5"),
        (
            "list(macaddr)",
            "words with blanks between them, each a hardware address such as 00:11:22:33:44:55",
        ),
        ("neg(ipaddr)", "an IPv4 or IPv6 address, with or without \"!\" before it"),
        ("not(bool)", "anything but 0, off, false, no, disabled, 1, on, true, yes or enabled"),
        ("string(2,3)", "a text of 2 to 3 bytes"),
        ("hexstring(4)", "an even count of hexadecimal digits of at least 4 bytes"),
        ("integer(16)", "a whole number in base 16"),
        ("regex(\"[a-z]+\")", "a text that matches \"[a-z]+\""),
        ("uci(\"net\",\"@globe\")", "the name of a section of type \"globe\" in net"),
        ("uci(\"net\",\"main\",\"delay\")", "a value of net.main.delay"),
    ];
    for (rule, allowed) in cases {
        assert_eq!(Rule::parse(rule, Mode::Strict).expect(rule).allowed(), allowed);
    }
    let refusal = Rule::parse("uinteger(1:200)", Mode::Strict)
        .expect("the rule is right")
        .check("300", &Fake::new())
        .expect_err("300 is above 200");
    let text = "\"300\" is not allowed; allowed is a whole number from 1 to 200";
    assert_eq!(refusal.to_string(), text);
}
