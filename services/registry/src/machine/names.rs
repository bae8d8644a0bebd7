//! Which texts are names of objects and topics.

use protocol::{
    failure::{Code, Failure},
    hello::OBJECT_NAME_MAX,
    message::TOPIC_MAX,
    policy::PATTERN_MAX,
};

/// A name: `NAME` or `NAME/FEATURE`, printable, without blanks and stars.
pub(super) fn check_name(name: &str) -> Result<(), Failure> {
    let wrong = |why: String| {
        Err(Failure::new(Code::InvalidArgument, format!("the name {name:.140?} {why}")))
    };
    if name.is_empty() || name.len() > OBJECT_NAME_MAX {
        return wrong(format!("has {} bytes, allowed are 1 to {OBJECT_NAME_MAX}", name.len()));
    }
    if let Some(other) = name.chars().find(|c| !c.is_ascii_graphic() || *c == '*') {
        return wrong(format!("holds {other:?}; allowed are printable ASCII letters without '*'"));
    }
    if name.split('/').any(|part| part.is_empty() || part.chars().all(|c| c == '.')) {
        return wrong("has an empty part; write NAME or NAME/FEATURE".to_owned());
    }
    Ok(())
}

/// A topic: like a name, with dots.
pub(super) fn check_topic(topic: &str) -> Result<(), Failure> {
    let wrong = |why: String| {
        Err(Failure::new(Code::InvalidArgument, format!("the topic {topic:.140?} {why}")))
    };
    if topic.is_empty() || topic.len() > TOPIC_MAX {
        return wrong(format!("has {} bytes, allowed are 1 to {TOPIC_MAX}", topic.len()));
    }
    match topic.chars().find(|c| !c.is_ascii_graphic() || *c == '*') {
        Some(other) => {
            wrong(format!("holds {other:?}; allowed are printable ASCII letters without '*'"))
        }
        None => Ok(()),
    }
}

/// A pattern: `*` is any number of letters.
pub(super) fn check_pattern(pattern: &str) -> Result<(), Failure> {
    match pattern.len() {
        1..=PATTERN_MAX => Ok(()),
        length => Err(Failure::new(
            Code::InvalidArgument,
            format!("a pattern has {length} bytes, allowed are 1 to {PATTERN_MAX}"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_and_topics_are_what_they_say() {
        for name in ["camera", "camera/zoom", "driver/can0", "a.b", &"x".repeat(128)] {
            assert!(check_name(name).is_ok(), "{name}");
        }
        for name in ["", "a b", "a*", "/a", "a/", "a//b", "a/../b", "ü", &"x".repeat(129)] {
            let failure = check_name(name).unwrap_err();
            assert_eq!(failure.code, Code::InvalidArgument, "{name}");
        }
        assert!(check_topic("camera.frame").is_ok());
        assert!(check_topic("").is_err() && check_topic("a\nb").is_err());
        assert!(check_pattern("").is_err() && check_pattern("*").is_ok());
    }

    proptest! {
        #[test]
        fn no_text_makes_the_checks_panic(text in "\\PC{0,300}") {
            let _ = (check_name(&text), check_topic(&text), check_pattern(&text));
        }
    }
}
