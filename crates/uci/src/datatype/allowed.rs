//! What an expression allows, in plain words for the person who has to correct a value. Bounded, whatever the expression.

use super::{
    function::Function,
    number,
    parse::{Atom, Op, Text},
};

/// Letters of a description, and of a value, that are shown.
const DESCRIPTION_MAX: usize = 400;
const VALUE_SHOWN_MAX: usize = 80;

/// What the whole expression allows.
pub(super) fn describe(ops: &[Op]) -> String {
    let text = item(ops, 0);
    shorten(&text, DESCRIPTION_MAX)
}

/// A value as far as it is shown.
pub(super) fn shortened(value: &str) -> String {
    shorten(value, VALUE_SHOWN_MAX)
}

fn shorten(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

fn item(ops: &[Op], at: usize) -> String {
    match ops.get(at).map(|op| &op.atom) {
        None => "nothing".to_owned(),
        Some(Atom::Number(number)) => format!("{number}"),
        Some(Atom::Text(text)) => format!("{:?}", text.plain),
        Some(Atom::Within { low, high }) => format!("a whole number from {low} to {high}"),
        Some(Atom::Call { function, arguments }) => call(ops, at, *function, *arguments),
    }
}

fn items(ops: &[Op], at: usize, arguments: usize, between: &str) -> String {
    let mut all = Vec::new();
    let mut place = at + 1;
    for _ in 0..arguments {
        all.push(item(ops, place));
        place = ops.get(place).map_or(ops.len(), |op| op.next);
    }
    if all.is_empty() { "nothing".to_owned() } else { all.join(between) }
}

fn call(ops: &[Op], at: usize, function: Function, arguments: usize) -> String {
    let first = || item(ops, at + 1);
    let bound = |index: usize| match ops.get(at + 1 + index).map(|op| &op.atom) {
        Some(Atom::Number(number)) if index < arguments => Some(*number),
        _ => None,
    };
    let lengths = |what: &str| match (bound(0), bound(1)) {
        (None, None) => what.to_owned(),
        (Some(least), None) => format!("{what} of at least {least} bytes"),
        (None, Some(most)) => format!("{what} of at most {most} bytes"),
        (Some(least), Some(most)) => format!("{what} of {least} to {most} bytes"),
    };
    match (function, bound(0), bound(1)) {
        (Function::Or, ..) => items(ops, at, arguments, " or "),
        (Function::And, ..) => items(ops, at, arguments, " and "),
        (_, None, _) if needs_bound(function) => "nothing: the rule has no bound".to_owned(),
        (Function::Range, _, None) | (Function::RangeLength, _, None) => {
            "nothing: the rule has no upper bound".to_owned()
        }
        (Function::Not | Function::Neg | Function::List, ..) if arguments == 0 => {
            "nothing: the rule lacks an argument".to_owned()
        }
        (Function::Not, ..) => format!("anything but {}", first()),
        (Function::Neg, ..) => format!("{}, with or without \"!\" before it", first()),
        (Function::List, ..) => format!("words with blanks between them, each {}", first()),
        (Function::Min, Some(low), _) => format!("a whole number from {low}"),
        (Function::Max, Some(high), _) => format!("a whole number up to {high}"),
        (Function::Range, Some(low), Some(high)) => format!("a whole number from {low} to {high}"),
        (Function::MinLength, Some(least), _) => format!("a text of at least {least} bytes"),
        (Function::MaxLength, Some(most), _) => format!("a text of at most {most} bytes"),
        (Function::RangeLength | Function::String, ..) => lengths("a text"),
        (Function::Hexstring, ..) => lengths("an even count of hexadecimal digits"),
        (Function::Integer, base, _) => format!("a whole number{}", in_base(base)),
        (Function::Uinteger, base, _) => format!("a whole number from 0{}", in_base(base)),
        (Function::Regex, ..) => match ops.get(at + 1).map(|op| &op.atom) {
            Some(Atom::Text(Text { raw, pattern: Some(_), .. })) => {
                format!("a text that matches {raw:?}")
            }
            _ => "nothing: the pattern of the rule cannot be read".to_owned(),
        },
        (Function::Uci, ..) => uci(ops, at, arguments),
        (function, ..) => words(function).to_owned(),
    }
}

const fn needs_bound(function: Function) -> bool {
    matches!(
        function,
        Function::Min
            | Function::Max
            | Function::Range
            | Function::MinLength
            | Function::MaxLength
            | Function::RangeLength
    )
}

fn in_base(base: Option<f64>) -> String {
    match base.map(number::nearest) {
        None | Some(0) => String::new(),
        Some(base) => format!(" in base {base}"),
    }
}

fn uci(ops: &[Op], at: usize, arguments: usize) -> String {
    let text = |index: usize| match ops.get(at + 1 + index).map(|op| &op.atom) {
        Some(Atom::Text(text)) if index < arguments => Some(text.plain.as_str()),
        _ => None,
    };
    let (Some(package), Some(section)) = (text(0), text(1)) else {
        return "nothing: the rule names no package and section".to_owned();
    };
    match (section.strip_prefix('@'), text(2)) {
        (None, Some(option)) => format!("a value of {package}.{section}.{option}"),
        (None, None) => "nothing: the rule names no option".to_owned(),
        (Some(kind), None) => format!("the name of a section of type {kind:?} in {package}"),
        (Some(kind), Some(option)) => {
            format!("a value of {option:?} in a section of type {kind:?} in {package}")
        }
    }
}

const fn words(function: Function) -> &'static str {
    match function {
        Function::Float => "a number",
        Function::Ufloat => "a number from 0",
        Function::Bool => "0, off, false, no, disabled, 1, on, true, yes or enabled",
        Function::Ip4addr => "an IPv4 address",
        Function::Ip6addr => "an IPv6 address",
        Function::Ipaddr => "an IPv4 or IPv6 address",
        Function::Cidr4 => "an IPv4 address, with or without a prefix such as /24",
        Function::Cidr6 => "an IPv6 address, with or without a prefix such as /64",
        Function::Cidr => "an IPv4 or IPv6 address, with or without a prefix such as /24",
        Function::Netmask4 => "an IPv4 mask such as 255.255.255.0",
        Function::Netmask6 => "an IPv6 mask such as ffff:ffff::",
        Function::Ipmask4 => "an IPv4 address, with or without a mask such as /255.255.255.0",
        Function::Ipmask6 => "an IPv6 address, with or without a mask such as /ffff:ffff::",
        Function::Ipmask => "an IPv4 or IPv6 address, with or without a mask after a \"/\"",
        Function::Port => "a port from 0 to 65535",
        Function::Portrange => "a port from 0 to 65535, or two with \"-\" between them",
        Function::Macaddr => "a hardware address such as 00:11:22:33:44:55",
        Function::Uciname => "a name of letters, digits and \"_\"",
        Function::Wpakey => "a key of 8 to 63 bytes, or of 64 hexadecimal digits",
        Function::Wepkey => "a key of 5 or 13 bytes, or of 10 or 26 hexadecimal digits",
        Function::Hostname => "a host name",
        Function::Host => "a host name, an IPv4 or an IPv6 address",
        Function::Network => "the name of a network or host, an IPv4 or an IPv6 address",
        Function::Phonedigit => "digits, \"*\", \"#\", \"!\" and \".\"",
        Function::Directory => "the path of a folder",
        Function::Device => "the path of a device",
        Function::File => "the path of a file",
        _ => "nothing",
    }
}
