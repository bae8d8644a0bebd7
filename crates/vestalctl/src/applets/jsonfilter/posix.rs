//! Regular expressions of POSIX, basic and extended, put into the words of the `regex-lite` crate. Back references are
//! not known: an expression with one matches nothing.

use regex_lite::RegexBuilder;

use super::matcher::Operand;

/// What a compiled expression may take up.
const SIZE_MAX: usize = 1 << 20;

/// Whether one operand matches the other: the regular expression where there is one, else the right one as one.
pub(super) fn matches(left: &Operand<'_>, right: &Operand<'_>) -> Option<bool> {
    let (text, pattern) = match (left, right) {
        (Operand::Regex { .. }, _) => (right, left),
        _ => (left, right),
    };
    let text = plain(text)?;
    let (pattern, extended, any_case, lines) = match pattern {
        Operand::Regex { pattern, extended, any_case, lines } => {
            (String::from_utf8_lossy(pattern).into_owned(), *extended, *any_case, *lines)
        }
        other => (plain(other)?, false, false, true),
    };
    let regex = RegexBuilder::new(&translated(&pattern, extended, lines)?)
        .case_insensitive(any_case)
        .multi_line(lines)
        .dot_matches_new_line(!lines)
        .size_limit(SIZE_MAX)
        .build()
        .ok()?;
    Some(regex.is_match(&text))
}

fn plain(operand: &Operand<'_>) -> Option<String> {
    match operand {
        Operand::Bool(value) => Some(value.to_string()),
        Operand::Number(number) => Some(number.to_string()),
        Operand::Text(text) => Some(String::from_utf8_lossy(text).into_owned()),
        Operand::Regex { .. } => None,
    }
}

/// The same expression for `regex-lite`; `lines`: neither `.` nor `[^x]` matches the end of a line.
fn translated(pattern: &str, extended: bool, lines: bool) -> Option<String> {
    let letters: Vec<char> = pattern.chars().collect();
    let mut text = String::with_capacity(pattern.len() * 2);
    let mut at = 0;
    // Whether an expression begins here: there `*` is a star, and `^` an anchor.
    let mut begins = true;
    while let Some(letter) = letters.get(at).copied() {
        let escaped = letter == '\\';
        let letter = if escaped { *letters.get(at + 1)? } else { letter };
        at += if escaped { 2 } else { 1 };
        // What one kind writes with a backslash, the other writes without.
        let operator =
            matches!(letter, '(' | ')' | '{' | '}' | '|' | '+' | '?') && escaped != extended;
        let (began, ends) = (std::mem::take(&mut begins), at == letters.len());
        match letter {
            '(' | '|' if operator => {
                text.push(letter);
                begins = true;
            }
            '+' | '?' if operator && began => literal(&mut text, letter),
            ')' | '{' | '}' | '+' | '?' if operator => text.push(letter),
            'w' | 'W' | 's' | 'S' | 'b' | 'B' if escaped => text.extend(['\\', letter]),
            '<' | '>' if escaped => text.push_str("\\b"),
            '1'..='9' if escaped => return None,
            _ if escaped => literal(&mut text, letter),
            '*' if began && !extended => literal(&mut text, letter),
            '*' | '.' => text.push(letter),
            '^' if extended || began => {
                text.push('^');
                begins = true;
            }
            '$' if extended
                || ends
                || letters[at..].starts_with(&['\\', ')'])
                || letters[at..].starts_with(&['\\', '|']) =>
            {
                text.push('$');
            }
            '[' => at = bracket(&mut text, &letters, at, lines)?,
            _ => literal(&mut text, letter),
        }
    }
    Some(text)
}

/// Takes what follows a `[`; answers where it ends.
fn bracket(text: &mut String, letters: &[char], mut at: usize, lines: bool) -> Option<usize> {
    let negated = letters.get(at) == Some(&'^');
    at += usize::from(negated);
    text.push_str(if negated { "[^" } else { "[" });
    if negated && lines {
        text.push_str("\\n");
    }
    let first = at;
    let mut in_range = false;
    loop {
        let letter = *letters.get(at)?;
        at += 1;
        match letter {
            ']' if at > first + 1 => break,
            '[' if letters.get(at) == Some(&':') => {
                let length = letters[at + 1..].iter().position(|letter| *letter == ':')?;
                let name: String = letters[at + 1..at + 1 + length].iter().collect();
                text.push_str(&format!("[:{name}:]"));
                at += length + 2;
                (letters.get(at) == Some(&']')).then_some(())?;
                at += 1;
            }
            // A range, unless it stands first or last.
            '-' if at > first + 1 && !in_range && letters.get(at) != Some(&']') => {
                text.push('-');
                in_range = true;
                continue;
            }
            _ => literal(text, letter),
        }
        in_range = false;
    }
    text.push(']');
    Some(at)
}

fn literal(text: &mut String, letter: char) {
    text.push_str(&regex_lite::escape(letter.encode_utf8(&mut [0; 4])));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(pattern: &str, flags: &str, text: &str) -> Option<bool> {
        let has = |flag| flags.contains(flag);
        let (extended, any_case, lines) = (has('e'), has('i'), !has('s'));
        let pattern = Operand::Regex { pattern: pattern.as_bytes(), extended, any_case, lines };
        matches(&Operand::Text(text.as_bytes()), &pattern)
    }

    #[test]
    fn basic_expressions_write_groups_with_backslashes() {
        assert_eq!(found("^a\\(b\\|c\\)\\{2\\}$", "", "abc"), Some(true));
        assert_eq!(found("a(b)+", "", "a(b)+"), Some(true));
        assert_eq!(found("*a", "", "*a"), Some(true));
        assert_eq!(found("a^b$c", "", "a^b$c"), Some(true));
        assert_eq!(found("a\\.c", "", "abc"), Some(false));
    }

    #[test]
    fn extended_expressions_write_them_without() {
        assert_eq!(found("^eth[0-9]+$", "e", "eth12"), Some(true));
        assert_eq!(found("^(a|b){2}$", "e", "ab"), Some(true));
        assert_eq!(found("a\\+", "e", "a+"), Some(true));
        assert_eq!(found("ETH", "ei", "eth0"), Some(true));
    }

    #[test]
    fn brackets_are_those_of_posix() {
        assert_eq!(found("^[]x]*$", "", "]x]"), Some(true));
        assert_eq!(found("^[^]x]$", "", "]"), Some(false));
        assert_eq!(found("^[[:alpha:]_-]*$", "", "a-b_"), Some(true));
        assert_eq!(found("^[\\.]$", "", "\\"), Some(true));
        assert_eq!(found("^[[&&~~+--]*$", "", "[&~+,-"), Some(true));
    }

    #[test]
    fn lines_end_matches_unless_told_otherwise() {
        assert_eq!(found("^b$", "", "a\nb"), Some(true));
        assert_eq!(found("^b$", "s", "a\nb"), Some(false));
        assert_eq!(found("a.b", "", "a\nb"), Some(false));
        assert_eq!(found("a[^x]b", "", "a\nb"), Some(false));
        assert_eq!(found("a[^x]b", "s", "a\nb"), Some(true));
    }

    #[test]
    fn what_is_no_expression_matches_nothing() {
        for pattern in ["\\(a\\)\\1", "[a", "\\(", "a\\"] {
            assert_eq!(found(pattern, "", "a"), None, "{pattern}");
        }
    }
}
