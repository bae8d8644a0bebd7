//! Numbers as C's `strtol` and `strtod` read them, and as they should be read. Total over any bytes.

use super::parse::is_space;

/// What was at the beginning of a text.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Reading<T> {
    /// The number and how many bytes it took, blanks before it included.
    Number(T, usize),
    Nothing,
}

impl<T> Reading<T> {
    /// The number, if it took all of the text.
    pub(super) fn whole(self, text: &str) -> Option<T> {
        match self {
            Self::Number(value, length) if length == text.len() => Some(value),
            _ => None,
        }
    }
}

/// The sign and the digits of a whole number: negative, magnitude (the largest one where it does not fit), length.
fn digits(text: &[u8], base: u32) -> Reading<(bool, u64)> {
    if base == 1 || base > 36 {
        return Reading::Nothing;
    }
    let byte = |place: usize| text.get(place).copied().unwrap_or(0);
    let digit = |place: usize, base: u32| char::from(byte(place)).to_digit(base);
    let mut place = text.iter().take_while(|&&byte| is_space(byte)).count();
    let negative = byte(place) == b'-';
    if matches!(byte(place), b'-' | b'+') {
        place += 1;
    }
    let prefixed =
        byte(place) == b'0' && byte(place + 1) | 0x20 == b'x' && digit(place + 2, 16).is_some();
    let base = match base {
        0 | 16 if prefixed => {
            place += 2;
            16
        }
        0 if byte(place) == b'0' => 8,
        0 => 10,
        base => base,
    };
    let start = place;
    let mut magnitude = Some(0_u64);
    while let Some(value) = digit(place, base) {
        magnitude = magnitude
            .and_then(|sum| sum.checked_mul(u64::from(base)))
            .and_then(|sum| sum.checked_add(u64::from(value)));
        place += 1;
    }
    if place == start {
        return Reading::Nothing;
    }
    Reading::Number((negative, magnitude.unwrap_or(u64::MAX)), place)
}

/// As `strtol`: cut to 64 bits.
pub(super) fn strtol(text: &[u8], base: u32) -> Reading<i64> {
    match digits(text, base) {
        Reading::Number((false, magnitude), length) => {
            Reading::Number(i64::try_from(magnitude).unwrap_or(i64::MAX), length)
        }
        Reading::Number((true, magnitude), length) => {
            Reading::Number(0_i64.checked_sub_unsigned(magnitude).unwrap_or(i64::MIN), length)
        }
        Reading::Nothing => Reading::Nothing,
    }
}

/// As an `int` that is given what `strtoul` returns for base 10, and the length; no digits are 0 and no length.
pub(super) fn strtoul_int(text: &[u8]) -> (i32, usize) {
    match digits(text, 10) {
        Reading::Number((_, u64::MAX), length) => (-1, length),
        Reading::Number((negative, magnitude), length) => {
            let value = if negative { magnitude.wrapping_neg() } else { magnitude };
            (low_bits(value.cast_signed()), length)
        }
        Reading::Nothing => (0, 0),
    }
}

/// As an `int` that is given a `long`.
#[expect(clippy::cast_possible_truncation, reason = "upstream keeps the low 32 bits")]
pub(super) const fn low_bits(value: i64) -> i32 {
    value as i32
}

/// As an `int` that is given a `double`: the nearest one.
#[expect(clippy::cast_possible_truncation, reason = "the cast takes the nearest, as ARM does")]
pub(super) const fn nearest(value: f64) -> i32 {
    value as i32
}

/// The whole number that a bound of a strict rule is.
#[expect(
    clippy::cast_possible_truncation,
    reason = "whole and below 2^53, the reader has seen to it"
)]
pub(super) const fn exact(value: f64) -> i64 {
    value as i64
}

/// As `strtod` in the C locale.
pub(super) fn strtod(text: &[u8]) -> Reading<f64> {
    let spaces = text.iter().take_while(|&&byte| is_space(byte)).count();
    let signed = &text[spaces..];
    let negative = signed.first() == Some(&b'-');
    let sign = usize::from(matches!(signed.first(), Some(b'-' | b'+')));
    let unsigned = &signed[sign..];
    let (value, length) = match special(unsigned).or_else(|| hexadecimal(unsigned)) {
        Some(found) => found,
        None => match decimal(unsigned) {
            Some(found) => found,
            None => return Reading::Nothing,
        },
    };
    Reading::Number(if negative { -value } else { value }, spaces + sign + length)
}

fn starts(text: &[u8], word: &str) -> bool {
    text.get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word.as_bytes()))
}

fn special(text: &[u8]) -> Option<(f64, usize)> {
    if starts(text, "infinity") {
        return Some((f64::INFINITY, 8));
    }
    if starts(text, "inf") {
        return Some((f64::INFINITY, 3));
    }
    if !starts(text, "nan") {
        return None;
    }
    let word = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
    let tail = text.get(4..).filter(|_| text.get(3) == Some(&b'(')).unwrap_or(&[]);
    let inner = tail.iter().take_while(|byte| word(byte)).count();
    let length = if tail.get(inner) == Some(&b')') { 5 + inner } else { 3 };
    Some((f64::NAN, length))
}

/// How many digits there are, with at most one point among them: digits, length.
fn mantissa(text: &[u8], is_digit: impl Fn(u8) -> bool) -> Option<usize> {
    let (mut point, mut digits, mut length) = (false, 0, 0);
    for &byte in text {
        match byte {
            b'.' if !point => point = true,
            byte if is_digit(byte) => digits += 1,
            _ => break,
        }
        length += 1;
    }
    (digits > 0).then_some(length)
}

/// The length of an exponent with that letter, and its value, cut to what no number needs.
fn exponent(text: &[u8], letter: u8) -> Option<(i32, usize)> {
    if text.first()? | 0x20 != letter {
        return None;
    }
    let negative = text.get(1) == Some(&b'-');
    let sign = usize::from(matches!(text.get(1), Some(b'-' | b'+')));
    let digits = text[1 + sign..].iter().take_while(|byte| byte.is_ascii_digit());
    let (count, value) = digits.fold((0, 0_i32), |(count, value), byte| {
        (count + 1, value.saturating_mul(10).saturating_add(i32::from(byte - b'0')).min(100_000))
    });
    (count > 0).then_some((if negative { -value } else { value }, 1 + sign + count))
}

fn decimal(text: &[u8]) -> Option<(f64, usize)> {
    let length = mantissa(text, |byte| byte.is_ascii_digit())?;
    let length = length + exponent(&text[length..], b'e').map_or(0, |(_, length)| length);
    let value = std::str::from_utf8(&text[..length]).ok()?.parse().ok()?;
    Some((value, length))
}

fn hexadecimal(text: &[u8]) -> Option<(f64, usize)> {
    if !starts(text, "0x") {
        return None;
    }
    let tail = &text[2..];
    let length = mantissa(tail, |byte| byte.is_ascii_hexdigit())?;
    let (power, more) = exponent(&tail[length..], b'p').unwrap_or((0, 0));
    let (mut value, mut scale, mut point) = (0.0_f64, power, false);
    for &byte in &tail[..length] {
        let Some(digit) = char::from(byte).to_digit(16) else {
            point = true;
            continue;
        };
        value = value * 16.0 + f64::from(digit);
        if point {
            scale -= 4;
        }
    }
    // In two halves, so that the power itself stays a number.
    let half = scale / 2;
    Some((value * 2_f64.powi(half) * 2_f64.powi(scale - half), 2 + length + more))
}

/// A whole number in decimal, without blanks, `+` or zeros before it.
pub(super) fn decimal_whole(text: &str) -> Option<i64> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let plain = digits == "0" || (!digits.starts_with('0') && !digits.starts_with('+'));
    if plain { text.parse().ok() } else { None }
}

/// A whole number in decimal or with `0x`; in `base` where one is given.
pub(super) fn strict_whole(text: &str, base: Option<u32>) -> Option<i64> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text),
    };
    let hexadecimal = digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X"));
    let (digits, base) = match (base, hexadecimal) {
        (None, None) => return decimal_whole(text),
        (None | Some(16), Some(digits)) => (digits, 16),
        (Some(base), _) => (digits, base),
    };
    if digits.is_empty() || !digits.chars().all(|digit| digit.is_digit(base)) {
        return None;
    }
    let magnitude = i128::from(u64::from_str_radix(digits, base).ok()?);
    i64::try_from(if negative { -magnitude } else { magnitude }).ok()
}

/// A decimal number that is finite.
pub(super) fn strict_float(text: &str) -> Option<f64> {
    let numeric =
        |byte: u8| byte.is_ascii_digit() || matches!(byte, b'.' | b'-' | b'+' | b'e' | b'E');
    if text.starts_with('+') || !text.bytes().all(numeric) {
        return None;
    }
    text.parse().ok().filter(|value: &f64| value.is_finite())
}
