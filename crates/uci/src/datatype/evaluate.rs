//! Whether a value follows the operations of an expression, and how it is shown. Arguments are looked for where upstream
//! looks for them: right behind their type in the list. It always ends: every step goes forward in the list, and only
//! `list` goes through its part once for each word.

use super::{
    FileKind, Mode, Shown, World, address,
    function::{Function, Kind},
    number,
    parse::{Atom, Op, Text},
    word,
};

/// Longest value that a pattern looks at, in bytes: the time is the product of both.
const MATCHED_MAX: usize = 4096;

/// One evaluation.
pub(super) struct Walk<'a> {
    ops: &'a [Op],
    mode: Mode,
    world: &'a dyn World,
    /// As what the last match would be shown.
    kind: Option<Kind>,
}

impl<'a> Walk<'a> {
    pub(super) fn new(ops: &'a [Op], mode: Mode, world: &'a dyn World) -> Self {
        Self { ops, mode, world, kind: None }
    }

    /// The value as it is shown, if it follows the expression.
    pub(super) fn run(mut self, value: &str) -> Option<Shown> {
        if !self.step(0, value) {
            return None;
        }
        let kind = match self.mode {
            Mode::Compatible => self.kind?,
            Mode::Strict => self.kind.unwrap_or(Kind::Text),
        };
        Some(match kind {
            Kind::Bool if self.mode == Mode::Strict && !word::is_bool(value) => {
                Shown::Text(value.to_owned())
            }
            Kind::Bool => Shown::Bool(word::shown_bool(value, self.mode)),
            Kind::Number => Shown::Number(value.to_owned()),
            Kind::Text => Shown::Text(value.to_owned()),
        })
    }

    fn step(&mut self, at: usize, value: &str) -> bool {
        let Some(op) = self.ops.get(at) else { return false };
        let (matches, kind) = match &op.atom {
            Atom::Number(wanted) => (self.is_number(*wanted, value), Some(Kind::Number)),
            Atom::Text(text) => (self.is_text(text, value), Some(Kind::Text)),
            Atom::Within { low, high } => {
                let within = number::strict_whole(value, None)
                    .is_some_and(|value| (*low..=*high).contains(&value));
                (within, Some(Kind::Number))
            }
            Atom::Call { function, arguments } => {
                (self.call(*function, at, *arguments, value), function.kind())
            }
        };
        if matches && kind.is_some() {
            self.kind = kind;
        }
        matches
    }

    #[expect(clippy::float_cmp, reason = "a number atom means exactly this number")]
    fn is_number(&self, wanted: f64, value: &str) -> bool {
        let found = match self.mode {
            Mode::Compatible => number::strtod(value.as_bytes()).whole(value),
            Mode::Strict => number::strict_float(value),
        };
        found.is_some_and(|found| found == wanted)
    }

    /// Upstream looks one byte too far, so that the closing quote may be part of the value.
    fn is_text(&self, text: &Text, value: &str) -> bool {
        match value.strip_prefix(text.plain.as_str()) {
            Some("") => true,
            Some(rest) => {
                self.mode == Mode::Compatible && rest.strip_prefix(text.quote) == Some("")
            }
            None => false,
        }
    }

    fn call(&mut self, function: Function, at: usize, arguments: usize, value: &str) -> bool {
        match function {
            Function::Or => self.first_that(true, at, arguments, value),
            Function::And => !self.first_that(false, at, arguments, value),
            Function::Not => self.not(at, arguments, value),
            Function::Neg => arguments > 0 && self.step(at + 1, word::without_bang(value)),
            Function::List => self.list(at, arguments, value),
            Function::Min
            | Function::Max
            | Function::Range
            | Function::Integer
            | Function::Uinteger
            | Function::Float
            | Function::Ufloat => self.numeric(function, at, arguments, value),
            Function::MinLength
            | Function::MaxLength
            | Function::RangeLength
            | Function::String
            | Function::Hexstring => self.length(function, at, arguments, value),
            Function::Regex => self
                .text(at, arguments, 0)
                .and_then(|text| text.pattern.as_ref())
                .is_some_and(|pattern| value.len() <= MATCHED_MAX && pattern.is_match(value)),
            Function::Uci => self.uci(at, arguments, value),
            Function::Directory => self.world.kind(value) == Some(FileKind::Directory),
            Function::Device => self.world.kind(value) == Some(FileKind::Device),
            Function::File => self.world.kind(value) == Some(FileKind::Regular),
            function => plain(function, value, self.mode),
        }
    }

    /// Whether one of the arguments gives `wanted`; those after it are not looked at.
    fn first_that(&mut self, wanted: bool, at: usize, arguments: usize, value: &str) -> bool {
        let mut place = at + 1;
        for _ in 0..arguments {
            if self.step(place, value) == wanted {
                return true;
            }
            place = self.ops.get(place).map_or(self.ops.len(), |op| op.next);
        }
        false
    }

    fn not(&mut self, at: usize, arguments: usize, value: &str) -> bool {
        let before = self.kind;
        let refused = arguments > 0 && !self.step(at + 1, value);
        if self.mode == Mode::Strict {
            self.kind = before;
        }
        refused
    }

    fn list(&mut self, at: usize, arguments: usize, value: &str) -> bool {
        let mut words = value.split([' ', '\t']).filter(|word| !word.is_empty()).peekable();
        if arguments == 0 || (self.mode == Mode::Strict && words.peek().is_none()) {
            return false;
        }
        words.all(|word| self.step(at + 1, word))
    }

    /// The number that is argument `index`.
    fn number(&self, at: usize, arguments: usize, index: usize) -> Option<f64> {
        match self.ops.get(at + 1 + index)?.atom {
            Atom::Number(number) if index < arguments => Some(number),
            _ => None,
        }
    }

    fn text(&self, at: usize, arguments: usize, index: usize) -> Option<&'a Text> {
        match &self.ops.get(at + 1 + index)?.atom {
            Atom::Text(text) if index < arguments => Some(text),
            _ => None,
        }
    }

    fn numeric(&self, function: Function, at: usize, arguments: usize, value: &str) -> bool {
        let first = self.number(at, arguments, 0);
        let second = self.number(at, arguments, 1);
        if self.mode == Mode::Strict {
            return strict_numeric(function, first, second, value);
        }
        let bytes = value.as_bytes();
        let whole = || number::strtol(bytes, 0).whole(value).map(number::low_bits);
        let low = first.map(number::nearest);
        let high = second.map(number::nearest);
        let digit = bytes.first().is_some_and(u8::is_ascii_hexdigit);
        let minus = bytes.first() == Some(&b'-');
        match function {
            Function::Min => low.zip(whole()).is_some_and(|(low, value)| value >= low),
            Function::Max => low.zip(whole()).is_some_and(|(most, value)| value <= most),
            Function::Range => low
                .zip(high)
                .zip(whole())
                .is_some_and(|((low, high), value)| (low..=high).contains(&value)),
            Function::Integer | Function::Uinteger => {
                (digit || (minus && function == Function::Integer))
                    && u32::try_from(low.unwrap_or(0))
                        .is_ok_and(|base| number::strtol(bytes, base).whole(value).is_some())
            }
            _ => number::strtod(bytes)
                .whole(value)
                .is_some_and(|number| function == Function::Float || number::nearest(number) >= 0),
        }
    }

    fn length(&self, function: Function, at: usize, arguments: usize, value: &str) -> bool {
        let length = i64::try_from(value.len()).unwrap_or(i64::MAX);
        let bound = |index| {
            self.number(at, arguments, index).map(|bound| match self.mode {
                Mode::Compatible => i64::from(number::nearest(bound)),
                Mode::Strict => number::exact(bound),
            })
        };
        let (first, second) = (bound(0), bound(1));
        match function {
            // A negative bound becomes the largest number upstream.
            Function::MinLength => first.is_some_and(|least| least >= 0 && length >= least),
            Function::MaxLength => first.is_some_and(|most| most < 0 || length <= most),
            Function::RangeLength => {
                first.zip(second).is_some_and(|(least, most)| (least..=most).contains(&length))
            }
            function => {
                first.is_none_or(|least| length >= least)
                    && second.is_none_or(|most| length <= most)
                    && (function == Function::String || (length % 2 == 0 && word::is_hex(value)))
            }
        }
    }

    fn uci(&self, at: usize, arguments: usize, value: &str) -> bool {
        let text = |index| {
            self.text(at, arguments, index).map(|text| match self.mode {
                Mode::Compatible => text.raw.as_str(),
                Mode::Strict => text.plain.as_str(),
            })
        };
        let (Some(package), Some(section)) = (text(0), text(1)) else { return false };
        let holds = |section: &str, option: &str| {
            self.world.values(package, section, option).iter().any(|one| one == value)
        };
        match (section.strip_prefix('@'), text(2)) {
            (None, None) => false,
            (None, Some(option)) => holds(section, option),
            (Some(kind), None) => {
                self.world.sections(package, kind).iter().any(|name| name == value)
            }
            (Some(kind), Some(option)) => {
                self.world.sections(package, kind).iter().any(|name| holds(name, option))
            }
        }
    }
}

fn strict_numeric(
    function: Function,
    first: Option<f64>,
    second: Option<f64>,
    value: &str,
) -> bool {
    let low = first.map(number::exact);
    let whole = number::strict_whole(value, None);
    match function {
        Function::Min => low.zip(whole).is_some_and(|(low, value)| value >= low),
        Function::Max => low.zip(whole).is_some_and(|(most, value)| value <= most),
        Function::Range => low
            .zip(second.map(number::exact))
            .zip(whole)
            .is_some_and(|((low, high), value)| (low..=high).contains(&value)),
        Function::Integer | Function::Uinteger => {
            let base = low.and_then(|base| u32::try_from(base).ok());
            number::strict_whole(value, base)
                .is_some_and(|value| value >= 0 || function == Function::Integer)
        }
        _ => number::strict_float(value).is_some_and(|number| {
            function == Function::Float || (number >= 0.0 && !value.starts_with('-'))
        }),
    }
}

/// The types that need nothing but the value.
fn plain(function: Function, value: &str, mode: Mode) -> bool {
    let empty = mode == Mode::Strict && value.is_empty();
    match function {
        Function::Bool => word::is_bool(value),
        Function::Ip4addr => address::is_ip4(value),
        Function::Ip6addr => address::is_ip6(value),
        Function::Ipaddr => address::is_ip4(value) || address::is_ip6(value),
        Function::Cidr4 => address::is_cidr4(value, mode),
        Function::Cidr6 => address::is_cidr6(value, mode),
        Function::Cidr => address::is_cidr4(value, mode) || address::is_cidr6(value, mode),
        Function::Netmask4 => address::is_netmask4(value),
        Function::Netmask6 => address::is_netmask6(value, mode),
        Function::Ipmask4 => address::is_ipmask4(value),
        Function::Ipmask6 => address::is_ipmask6(value, mode),
        Function::Ipmask => address::is_ipmask4(value) || address::is_ipmask6(value, mode),
        Function::Port => address::is_port(value, mode),
        Function::Portrange => address::is_portrange(value, mode),
        Function::Macaddr => address::is_macaddr(value),
        Function::Uciname => !empty && word::is_uciname(value),
        Function::Wpakey => word::is_wpakey(value),
        Function::Wepkey => word::is_wepkey(value),
        Function::Hostname => word::is_hostname(value, mode),
        Function::Host => is_host(value, mode),
        Function::Network => !empty && (word::is_uciname(value) || is_host(value, mode)),
        Function::Phonedigit => !empty && word::is_phonedigit(value),
        _ => false,
    }
}

fn is_host(value: &str, mode: Mode) -> bool {
    word::is_hostname(value, mode) || address::is_ip4(value) || address::is_ip6(value)
}
