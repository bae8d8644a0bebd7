//! Patterns in the notation of POSIX.

use crate::datatype::ere::Pattern;

#[test]
fn patterns_mean_what_posix_says() {
    let cases = [
        ("", "", "a"),
        ("abc", "abc", "ab abcd"),
        ("a.c", "abc a\nc a*c", "ac abbc"),
        ("é", "é", "e"),
        ("..", "é", "e"),
        ("a*b+c?", "b ab aabbc", "a ac"),
        ("a{2}", "aa", "a aaa"),
        ("a{2,}", "aa aaaa", "a"),
        ("a{,2}b", "b ab aab", "aaab"),
        ("a{1,2}", "a aa", "aaa"),
        ("a+?b", "b ab aab", "a"),
        ("a**", "a aaa", "b"),
        ("(ab|c)*d", "d abcd cd", "ad"),
        ("(|a)b", "b ab", "a"),
        ("a||b", "a b", "ab"),
        ("[abc]", "a c", "d ab"),
        ("[^abc]", "d \n", "a"),
        ("[]a]", "] a", "b"),
        ("[^]a]", "b", "] a"),
        ("[a-c-]", "b -", "d"),
        ("[+--]", "+ , -", "."),
        ("[\\n]", "\\ n", "\n"),
        ("[[:alpha:]_][[:digit:]]", "a1 _1", "1a a"),
        ("[[:xdigit:][:blank:]]+", "fF09\t", "g"),
        ("[^[:space:]]", "x", "\n"),
        ("[[.-.]x]", "- x", "."),
        ("[[=a=]]", "a", "="),
        ("\\.\\*\\(\\[\\\\", ".*([\\", "x"),
        ("a)", "a)", "a"),
        ("a^b|$a|^c$", "c", "a^b $a ab"),
        ("\\w+\\s\\d", "a_1\n1", "- 1"),
        ("\\W\\S\\D", "-xx", "axx -x1"),
        ("\\<ab\\>", "ab", "abc"),
        ("a\\bc|a\\Bc", "ac", "a-c"),
        ("a}b-c&d~e", "a}b-c&d~e", "ab"),
    ];
    for (pattern, matching, other) in cases {
        let read = Pattern::whole(pattern).unwrap_or_else(|why| panic!("{pattern}: {why}"));
        for (texts, expected) in [(matching, true), (other, false)] {
            for text in texts.split(' ') {
                assert_eq!(read.is_match(text), expected, "{pattern:?} with {text:?}");
            }
        }
    }
}

#[test]
fn a_pattern_that_cannot_be_read_says_why() {
    let cases = [
        ("*a", "byte 1: there is nothing to repeat"),
        ("^*", "byte 2: there is nothing to repeat"),
        ("a|+", "byte 3: there is nothing to repeat"),
        ("(?", "byte 2: there is nothing to repeat"),
        ("{1}", "byte 3: there is nothing to repeat"),
        ("a{", "byte 2: expected is {a,b}"),
        ("a{x}", "byte 2: expected is {a,b}"),
        ("a{+1}", "byte 2: expected is {a,b}"),
        ("a{2,1}", "byte 2: expected is {a,b}"),
        ("a{256}", "byte 2: expected is {a,b}"),
        ("(a", "a group is not closed"),
        ("[a", "a bracket is not closed"),
        ("[z-a]", "a range in brackets ends before it begins"),
        ("[[:nosuch:]]", "there is no class of that name"),
        ("[[:alpha:", "a class in brackets is not closed"),
        ("[[.ab.]]", "a collating element is not a single letter"),
        ("a\\", "nothing follows the last backslash"),
        ("(a)\\1", "back-references are not known"),
        ("(a{100}){100}", "is too large: repeat or nest less"),
        ("((((a{255}){255}){255}){255})", "is too large: repeat or nest less"),
    ];
    for (pattern, text) in cases {
        let why = Pattern::parse(pattern).expect_err(pattern);
        assert!(why.contains(text), "{pattern}: {why}");
    }
    assert!(Pattern::parse(&"(".repeat(60)).is_err());
    assert!(Pattern::parse(&"a".repeat(5000)).is_err());
    assert!(Pattern::parse(&format!("a{}", "*".repeat(4000))).is_err());
}

#[test]
fn a_pattern_without_anchors_matches_anywhere() {
    let pattern = Pattern::parse("b[0-9]").expect("the pattern is right");
    assert!(pattern.is_match("ab1c"));
    assert!(!pattern.is_match("abc1"));
}
