//! The types of the language: their names, how a valid value is shown, and which arguments `Strict` accepts. What they
//! accept is decided in `evaluate`.

/// How a valid value is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Bool,
    Number,
    Text,
}

/// The arguments a type takes, with the least and the largest count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Takes {
    Nothing,
    Rules(usize, usize),
    /// Whole numbers of any sign.
    Numbers(usize, usize),
    /// Whole numbers from 0.
    Lengths(usize, usize),
    /// A base of digits, or nothing.
    Base,
    Texts(usize, usize),
}

macro_rules! functions {
    ($($name:literal $variant:ident $kind:expr, $takes:expr;)*) => {
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(super) enum Function { $($variant,)* }

        impl Function {
            #[cfg(test)]
            pub(super) const NAMES: &'static [&'static str] = &[$($name,)*];

            pub(super) fn by_name(name: &str) -> Option<Self> {
                match name {
                    $($name => Some(Self::$variant),)*
                    _ => None,
                }
            }

            pub(super) const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// `None` leaves what the last match below has said.
            pub(super) const fn kind(self) -> Option<Kind> {
                match self { $(Self::$variant => $kind,)* }
            }

            pub(super) const fn takes(self) -> Takes {
                match self { $(Self::$variant => $takes,)* }
            }
        }
    };
}

const ANY: usize = usize::MAX;
const BOOL: Option<Kind> = Some(Kind::Bool);
const NUMBER: Option<Kind> = Some(Kind::Number);
const TEXT: Option<Kind> = Some(Kind::Text);

functions! {
    "or" Or None, Takes::Rules(1, ANY);
    "and" And None, Takes::Rules(1, ANY);
    "not" Not None, Takes::Rules(1, 1);
    "neg" Neg None, Takes::Rules(1, 1);
    "list" List None, Takes::Rules(1, 1);
    "min" Min NUMBER, Takes::Numbers(1, 1);
    "max" Max NUMBER, Takes::Numbers(1, 1);
    "range" Range NUMBER, Takes::Numbers(2, 2);
    "minlength" MinLength TEXT, Takes::Lengths(1, 1);
    "maxlength" MaxLength TEXT, Takes::Lengths(1, 1);
    "rangelength" RangeLength TEXT, Takes::Lengths(2, 2);
    "integer" Integer NUMBER, Takes::Base;
    "uinteger" Uinteger NUMBER, Takes::Base;
    "float" Float NUMBER, Takes::Nothing;
    "ufloat" Ufloat NUMBER, Takes::Nothing;
    "bool" Bool BOOL, Takes::Nothing;
    "string" String TEXT, Takes::Lengths(0, 2);
    "hexstring" Hexstring TEXT, Takes::Lengths(0, 2);
    "ip4addr" Ip4addr TEXT, Takes::Nothing;
    "ip6addr" Ip6addr TEXT, Takes::Nothing;
    "ipaddr" Ipaddr TEXT, Takes::Nothing;
    "cidr4" Cidr4 TEXT, Takes::Nothing;
    "cidr6" Cidr6 TEXT, Takes::Nothing;
    "cidr" Cidr TEXT, Takes::Nothing;
    "netmask4" Netmask4 TEXT, Takes::Nothing;
    "netmask6" Netmask6 TEXT, Takes::Nothing;
    "ipmask4" Ipmask4 TEXT, Takes::Nothing;
    "ipmask6" Ipmask6 TEXT, Takes::Nothing;
    "ipmask" Ipmask TEXT, Takes::Nothing;
    "port" Port NUMBER, Takes::Nothing;
    "portrange" Portrange TEXT, Takes::Nothing;
    "macaddr" Macaddr TEXT, Takes::Nothing;
    "uciname" Uciname TEXT, Takes::Nothing;
    "wpakey" Wpakey TEXT, Takes::Nothing;
    "wepkey" Wepkey TEXT, Takes::Nothing;
    "hostname" Hostname TEXT, Takes::Nothing;
    "host" Host TEXT, Takes::Nothing;
    "network" Network TEXT, Takes::Nothing;
    "phonedigit" Phonedigit TEXT, Takes::Nothing;
    "directory" Directory TEXT, Takes::Nothing;
    "device" Device TEXT, Takes::Nothing;
    "file" File TEXT, Takes::Nothing;
    "regex" Regex TEXT, Takes::Texts(1, 1);
    "uci" Uci TEXT, Takes::Texts(2, 3);
}
