//! Names, keys and other words. Lengths are in bytes.

use super::{Mode, parse::is_space};

/// What `bool` takes, in any case: those that are shown as 0, and as 1.
pub(super) const FALSE: [&str; 5] = ["0", "off", "false", "no", "disabled"];
pub(super) const TRUE: [&str; 5] = ["1", "on", "true", "yes", "enabled"];

pub(super) fn is_bool(text: &str) -> bool {
    FALSE.iter().chain(&TRUE).any(|word| word.eq_ignore_ascii_case(text))
}

/// `0` or `1`; upstream does not know the words in capitals here and shows nothing for them.
pub(super) fn shown_bool(text: &str, mode: Mode) -> &'static str {
    let same = |word: &&str| match mode {
        Mode::Compatible => *word == text,
        Mode::Strict => word.eq_ignore_ascii_case(text),
    };
    if FALSE.iter().any(same) {
        "0"
    } else if TRUE.iter().any(same) {
        "1"
    } else {
        ""
    }
}

pub(super) fn is_hex(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

pub(super) fn is_uciname(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

pub(super) fn is_hostname(text: &str, mode: Mode) -> bool {
    let letter = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    let most_last = match mode {
        Mode::Strict if text.len() > 253 => return false,
        Mode::Strict => 63,
        Mode::Compatible => 255,
    };
    let mut labels = text.split('.').rev();
    let last = labels.next().unwrap_or_default();
    text.bytes().all(|byte| letter(byte) || byte == b'.')
        && (1..=most_last).contains(&last.len())
        && labels.all(|label| (1..=63).contains(&label.len()))
}

pub(super) fn is_wpakey(text: &str) -> bool {
    match text.len() {
        64 => is_hex(text),
        length => (8..=63).contains(&length),
    }
}

pub(super) fn is_wepkey(text: &str) -> bool {
    let key = text.strip_prefix("s:").unwrap_or(text);
    match key.len() {
        10 | 26 => is_hex(key),
        length => length == 5 || length == 13,
    }
}

pub(super) fn is_phonedigit(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'*' | b'#' | b'!' | b'.'))
}

/// What `neg` looks at: the text after a `!` and blanks, or all of it.
pub(super) fn without_bang(text: &str) -> &str {
    match text.strip_prefix('!') {
        Some(rest) => {
            let blanks = rest.bytes().take_while(|&byte| is_space(byte)).count();
            &rest[blanks..]
        }
        None => text,
    }
}
