//! What holds for any text that is given to the applets' readers.

use proptest::prelude::*;

use super::{
    json::{Json, document, spaced},
    jsonfilter, uci,
};

/// Any JSON that can be written and read again.
fn json() -> impl Strategy<Value = Json> {
    let leaf = prop_oneof![
        Just(Json::Null),
        any::<bool>().prop_map(Json::Bool),
        any::<i64>().prop_map(|number| Json::Int(number.into())),
        "\\PC{0,8}".prop_map(|text| Json::Text(text.into_bytes())),
        "[a-c/\"\\\\\n\t'\u{1}]{0,8}".prop_map(|text| Json::Text(text.into_bytes())),
    ];
    leaf.prop_recursive(4, 32, 4, |inner| {
        let members = prop::collection::btree_map("[a-c]{1,3}", inner.clone(), 0..4);
        let members = members.prop_map(|members| {
            Json::Object(
                members.into_iter().map(|(name, value)| (name.into_bytes(), value)).collect(),
            )
        });
        prop_oneof![prop::collection::vec(inner, 0..4).prop_map(Json::Array), members]
    })
}

/// Texts that are nearly expressions.
const NEARLY: &str = "[@$.\\[\\]()!=<>~&|,*'\"/a-c0-9 \\\\-]{0,40}";

proptest! {
    #[test]
    fn json_that_is_printed_is_read_as_the_same(value in json()) {
        prop_assert_eq!(document(&spaced(&value)), Ok(value));
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = document(&bytes);
        let _ = jsonfilter::exercise(&bytes, &Json::Null);
        uci::exercise(&bytes);
    }

    #[test]
    fn anything_like_an_expression_is_read_or_refused_and_matched(text in NEARLY, value in json()) {
        let _ = jsonfilter::exercise(format!("@{text}").as_bytes(), &value);
        let _ = jsonfilter::exercise(text.as_bytes(), &value);
    }

    #[test]
    fn every_member_is_found_by_its_name(value in json()) {
        if let Json::Object(members) = &value {
            for (name, member) in members {
                let name = String::from_utf8_lossy(name);
                let found = jsonfilter::exercise(format!("@['{name}']").as_bytes(), &value);
                prop_assert_eq!(found, Some(vec![member.clone()]));
            }
        }
    }

    #[test]
    fn any_address_is_taken_or_refused(text in "\\PC{0,30}", nearly in "[a-c@.=/\\[\\]0-9-]{0,30}") {
        uci::exercise_address(&text);
        uci::exercise_address(&nearly);
    }
}
