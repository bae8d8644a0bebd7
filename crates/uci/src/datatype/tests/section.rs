//! Whole sections: what is exported, what is said and what counts as failed. The texts of `Compatible` are upstream's.

use crate::datatype::{Mode, Report, Rules, Shown, Verdict, registration, section_report};

use super::Fake;

fn report(section: &str, rules: &[&str], mode: Mode) -> Report {
    let world = Fake::new();
    section_report(("net", Some(&world.package)), section, rules, mode, &world).expect("rules")
}

#[test]
fn a_section_is_exported_as_upstream_does() {
    let cases: [(&[&str], &str, u8); 17] = [
        (&["delay:uinteger"], "delay=50; ", 0),
        (&["name:string"], "name='it'\"'\"'s'; ", 0),
        (&["on:bool", "flag:bool"], "on=1; flag=; ", 0),
        (&["missing:string"], "unset -v missing; ", 0),
        (&["empty:string:x y"], "empty='x y'; ", 0),
        (&["missing:uinteger:5", "missing:bool:on"], "missing=5; missing=1; ", 0),
        (&["missing:uinteger:bad"], "missing='bad'; ", 0),
        (&["name:uinteger"], "unset -v name; ", 255),
        (&["name:uinteger:5"], "unset -v name; ", 255),
        (&["ports:port"], "ports=80\\ \\ 443; ", 0),
        (&["tail:port"], "tail=80\\ ; ", 255),
        (&["tail:string"], "tail='80'\\ 'x'; ", 0),
        (&["flags:bool", "void:string:z"], "flags=1\\ 0; void='z'; ", 0),
        (&["delay:nosuch"], "Syntax error, unrecognized function\nunset -v delay; ", 255),
        (&["delay", "on:bool"], "on=1; ", 255),
        (&["missing:string:a:b"], "missing='a'; ", 0),
        (&["missing::x"], "unset -v missing; ", 0),
    ];
    for (rules, stdout, code) in cases {
        let report = report("main", rules, Mode::Compatible);
        assert_eq!((report.stdout.as_str(), report.code), (stdout, code), "{rules:?}");
    }
}

#[test]
fn every_check_is_told_on_stderr() {
    let rules = ["delay:uinteger", "ports:port", "missing:string", "empty:string:x", "odd"];
    let lines = "net.main.delay=50 validates as uinteger with true\n\
        net.main.ports[0]=80 validates as port with true\n\
        net.main.ports[1]=x validates as port with false\n\
        net.main.ports[2]=443 validates as port with true\n\
        net.main.missing is unset and defaults to string (null)\n\
        net.main.empty is unset and defaults to string x\n\
        odd is not a valid option\n";
    assert_eq!(report("main", &rules, Mode::Compatible).stderr, lines);
    let strict = "net.main.name=it's validates as uinteger with false: \
        allowed is a whole number from 0\n";
    assert_eq!(report("main", &["name:uinteger"], Mode::Strict).stderr, strict);
}

#[test]
fn strict_exports_nothing_that_is_not_valid() {
    let cases: [(&[&str], &str, u8); 8] = [
        (&["flag:bool"], "flag=1; ", 0),
        (&["missing:uinteger:bad"], "unset -v missing; ", 255),
        (&["ports:port"], "unset -v ports; ", 255),
        (&["ports:or(port,'x')"], "ports=80\\ 'x'\\ 443; ", 0),
        (&["missing:string:a:b"], "missing='a:b'; ", 0),
        (&["missing:regex(\"a:b\"):a:b"], "missing='a:b'; ", 0),
        (&["delay:uinteger(1:200)"], "delay=50; ", 0),
        (&["delay:or(uinteger(1:20),'x'):5"], "unset -v delay; ", 255),
    ];
    for (rules, stdout, code) in cases {
        let report = report("main", rules, Mode::Strict);
        assert_eq!((report.stdout.as_str(), report.code), (stdout, code), "{rules:?}");
    }
}

#[test]
fn a_range_with_a_colon_is_not_cut_by_either_mode() {
    for mode in [Mode::Compatible, Mode::Strict] {
        let rule = "delay:uinteger(1:200):7";
        assert_eq!(report("main", &[rule], mode).stdout, "delay=50; ", "{mode:?}");
        assert_eq!(report("nosuch", &[rule], mode).stdout, "delay=7; ", "{mode:?}");
        let inner = "delay:or('x',or(uinteger(1:200),'y')):7";
        assert_eq!(report("main", &[inner], mode).stdout, "delay=50; ", "{mode:?}");
        let narrow = report("main", &["delay:uinteger(1:20)"], mode);
        assert_eq!((narrow.stdout.as_str(), narrow.code), ("unset -v delay; ", 255), "{mode:?}");
    }
}

#[test]
fn a_value_that_is_more_than_a_word_is_never_bare() {
    let rules = ["words:list(uinteger)"];
    for mode in [Mode::Compatible, Mode::Strict] {
        assert_eq!(report("main", &rules, mode).stdout, "words='1 2'; ");
    }
    let default = ["missing:list(or(uinteger,string)):$(reboot) 5"];
    assert_eq!(report("main", &default, Mode::Compatible).stdout, "missing='$(reboot) 5'; ");
}

#[test]
fn without_the_package_nothing_is_printed_and_without_the_section_defaults_count() {
    let world = Fake::new();
    let rules = ["delay:uinteger:9"];
    let none = section_report(("gone", None), "main", &rules, Mode::Compatible, &world);
    let silent = Report { stdout: String::new(), stderr: String::new(), code: 255 };
    assert_eq!(none.expect("rules"), silent);
    assert_eq!(report("nosuch", &rules, Mode::Compatible).stdout, "delay=9; ");
    let second = &world.package.sections[1].name;
    assert_eq!(report(second, &rules, Mode::Compatible).stdout, "delay=7; ");
}

#[test]
fn outcomes_tell_what_became_of_each_option() {
    let world = Fake::new();
    let written = ["delay:uinteger", "missing:string", "empty:port:8080", "name:uinteger(1:200)"];
    let rules = Rules::parse(&written, Mode::Strict).expect("rules");
    let outcomes = rules.check("net", "main", world.package.section("main"), &world);
    let verdicts: Vec<_> = outcomes.iter().map(|outcome| outcome.verdict).collect();
    let expected = [Verdict::Valid, Verdict::Absent, Verdict::Default, Verdict::Invalid];
    assert_eq!(verdicts, expected);
    assert_eq!(outcomes[2].shown, [Shown::Number("8080".to_owned())]);
    let refusal = &outcomes[3].refusals[0];
    assert_eq!(refusal.value, "it's");
    assert_eq!(refusal.allowed, "a whole number from 1 to 200");
    assert_eq!(outcomes[3].rule, "uinteger(1:200)");
}

#[test]
fn strict_refuses_rules_that_are_wrong_and_compatible_keeps_them() {
    let cases: [(&[&str], &str); 5] = [
        (
            &["a:bool", "b"],
            "line 2, column 1: the rule \"b\" has no expression: write option:expression",
        ),
        (&["a:bool", "b:or(nosuch)"], "line 2, column 6: \"nosuch\" is not the name of a type"),
        (&["a b:bool"], "line 1, column 1: \"a b\" is not the name of an option"),
        (&["a:bool", "a:port"], "line 2, column 1: there are two rules for the option \"a\""),
        (&["a:bool)"], "line 1, column 7: text after an item; expected is \",\""),
    ];
    for (rules, text) in cases {
        let problem = Rules::parse(rules, Mode::Strict).expect_err(text);
        assert_eq!(problem.to_string(), text);
        assert!(Rules::parse(rules, Mode::Compatible).is_ok());
    }
    let many = vec!["a:bool"; 257];
    let text = "line 257, column 1: more than 256 rules for one section";
    let problem = Rules::parse(&many, Mode::Compatible).expect_err("too many");
    assert_eq!(problem.to_string(), text);
}

#[test]
fn rules_of_a_message_have_no_colons_to_split_at() {
    let world = Fake::new();
    let rules = Rules::of([("delay", "regex(\"[0-9:]+\")")], Mode::Strict).expect("rules");
    let outcomes = rules.check("net", "main", world.package.section("main"), &world);
    assert_eq!(outcomes[0].verdict, Verdict::Valid);
    let problem = Rules::of([("delay", "or(x)")], Mode::Strict).expect_err("no type x");
    assert_eq!((problem.line, problem.column), (1, 4));
}

#[test]
fn rules_are_registered_with_the_commands_of_jshn() {
    let rules = ["delay:uinteger(1:200):5", "odd", "mode:or(\"a\",\"b\")"];
    let compatible = "json_add_object; json_add_string \"package\" \"hello\"; \
        json_add_string \"type\" \"system\"; json_add_object \"data\"; \
        json_add_string \"delay\" \"uinteger(1:200)\"; \
        json_add_string \"mode\" \"or(\"a\",\"b\")\"; json_close_object; json_close_object; ";
    let text = registration("hello", "system", &rules, Mode::Compatible);
    assert_eq!(text.expect("rules"), compatible);
    let strict = "json_add_object; json_add_string 'package' 'hello'; \
        json_add_string 'type' 'system'; json_add_object \"data\"; \
        json_add_string 'mode' 'or(\"a\",\"b\")'; json_close_object; json_close_object; ";
    let text = registration("hello", "system", &rules[2..], Mode::Strict);
    assert_eq!(text.expect("rules"), strict);
}
