//! Whatever the text: nothing panics, everything ends, and what one part prints the other part understands.

use proptest::prelude::*;

use crate::datatype::{
    EmptyWorld, Mode, Rule, Rules, Shown, ere::Pattern, exercise, shell_value, value_report,
};

/// Texts that look like expressions.
fn expression() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("or("),
        Just("and("),
        Just("not("),
        Just("neg("),
        Just("list("),
        Just("range("),
        Just("integer("),
        Just("uinteger(1:200"),
        Just("regex("),
        Just("uci("),
        Just("string("),
        Just("bool"),
        Just("port"),
        Just("hostname"),
        Just("float"),
        Just("'a'"),
        Just("\"[a-c]+\""),
        Just("5"),
        Just("-1"),
        Just("1e400"),
        Just(")"),
        Just(","),
        Just(" "),
        Just("\\"),
        Just("'"),
        Just("\""),
        Just("é"),
        Just(":"),
        Just("inf"),
        Just("0x1p9"),
    ];
    proptest::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

fn value() -> impl Strategy<Value = String> {
    prop_oneof![any::<String>(), "[-+ 0-9a-fx.:/!,']{0,20}", "[a-z .-]{0,300}"]
}

proptest! {
    #[test]
    fn no_expression_and_no_value_panics(rule in expression(), any in any::<String>(), value in value()) {
        let _ = exercise(&rule, &value);
        let _ = exercise(&any, &value);
        let both = format!("{any}:{rule}:{value}");
        for mode in [Mode::Compatible, Mode::Strict] {
            let _ = Rules::parse(&[&both, &any, &rule], mode)
                .map(|rules| rules.check("p", "s", None, &EmptyWorld));
        }
    }

    #[test]
    fn no_pattern_panics(pattern in r"[ab(){}\[\]^$|*+?.,0-9\\:=é-]{0,30}", value in value()) {
        let _ = Pattern::whole(&pattern).map(|pattern| pattern.is_match(&value));
    }

    #[test]
    fn a_quoted_text_matches_itself_and_nothing_else(text in "[^\0]{1,40}", other in "[^\0]{1,40}") {
        let escaped: String =
            text.chars().flat_map(|letter| ['\\', letter]).collect();
        let rule = Rule::parse(&format!("'{escaped}'"), Mode::Strict).expect("a text in quotes");
        prop_assert!(rule.check(&text, &EmptyWorld).is_ok());
        prop_assert_eq!(rule.check(&other, &EmptyWorld).is_ok(), text == other);
    }

    #[test]
    fn whole_numbers_are_in_a_range_or_not(low: i32, high: i32, value: i64) {
        prop_assume!(low <= high);
        let rule = format!("range({low},{high})");
        let within = (i64::from(low)..=i64::from(high)).contains(&value);
        let strict = Rule::parse(&rule, Mode::Strict).expect("a range");
        prop_assert_eq!(strict.check(&value.to_string(), &EmptyWorld).is_ok(), within);
        if i32::try_from(value).is_ok() {
            let code = value_report(&rule, &value.to_string(), Mode::Compatible, &EmptyWorld).code;
            prop_assert_eq!(code == 0, within);
        }
    }

    #[test]
    fn a_value_for_the_shell_is_one_word(text in any::<String>()) {
        for shown in [Shown::Text(text.clone()), Shown::Number(text.clone())] {
            prop_assert_eq!(&unquoted(&shell_value(&shown)), &text);
        }
    }
}

/// What a shell makes of one word; anything outside of quotes must be harmless.
fn unquoted(word: &str) -> String {
    let mut text = String::new();
    let mut quote = None;
    for letter in word.chars() {
        match quote {
            Some(end) if letter == end => quote = None,
            Some(_) => text.push(letter),
            None if letter == '\'' || letter == '"' => quote = Some(letter),
            None => {
                assert!(letter.is_ascii_alphanumeric() || "._+-".contains(letter), "{word}");
                text.push(letter);
            }
        }
    }
    assert_eq!(quote, None);
    text
}
