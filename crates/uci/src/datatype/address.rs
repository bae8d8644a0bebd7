//! Addresses, masks, ports and hardware addresses. Pure functions over texts; only `evaluate` knows which type asks.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::{Mode, number};

/// Upstream copies into buffers of these sizes and refuses what does not fit.
const CIDR4_MAX: usize = 19;
const CIDR6_MAX: usize = 50;
const IPMASK4_MAX: usize = 32;
const IPMASK6_MAX: usize = 92;

pub(super) fn is_ip4(text: &str) -> bool {
    text.parse::<Ipv4Addr>().is_ok()
}

pub(super) fn is_ip6(text: &str) -> bool {
    text.parse::<Ipv6Addr>().is_ok()
}

pub(super) fn is_cidr4(text: &str, mode: Mode) -> bool {
    text.len() <= CIDR4_MAX && with_prefix(text, 32, mode, is_ip4)
}

pub(super) fn is_cidr6(text: &str, mode: Mode) -> bool {
    text.len() <= CIDR6_MAX && with_prefix(text, 128, mode, is_ip6)
}

fn with_prefix(text: &str, most: i32, mode: Mode, is_address: fn(&str) -> bool) -> bool {
    let Some((address, prefix)) = text.split_once('/') else {
        return is_address(text);
    };
    let fits = match mode {
        Mode::Strict => number::decimal_whole(prefix)
            .is_some_and(|prefix| (0..=i64::from(most)).contains(&prefix)),
        Mode::Compatible => {
            let (value, length) = number::strtoul_int(prefix.as_bytes());
            length == prefix.len() && value <= most
        }
    };
    fits && is_address(address)
}

pub(super) fn is_ipmask4(text: &str) -> bool {
    match text.split_once('/') {
        _ if text.len() > IPMASK4_MAX => false,
        Some((address, mask)) => is_ip4(address) && is_netmask4(mask),
        None => is_ip4(text),
    }
}

pub(super) fn is_ipmask6(text: &str, mode: Mode) -> bool {
    match text.split_once('/') {
        _ if text.len() > IPMASK6_MAX => false,
        Some((address, mask)) => is_ip6(address) && is_netmask6(mask, mode),
        None => is_ip6(text),
    }
}

pub(super) fn is_netmask4(text: &str) -> bool {
    text.parse::<Ipv4Addr>().is_ok_and(|mask| {
        let bits = mask.to_bits();
        bits.leading_ones() + bits.trailing_zeros() >= 32
    })
}

pub(super) fn is_netmask6(text: &str, mode: Mode) -> bool {
    text.parse::<Ipv6Addr>().is_ok_and(|mask| {
        let bits = mask.to_bits();
        let contiguous = bits.leading_ones() + bits.trailing_zeros() >= 128;
        contiguous && (mode == Mode::Strict || bits.leading_ones() % 8 == 0)
    })
}

pub(super) fn is_port(text: &str, mode: Mode) -> bool {
    match mode {
        Mode::Strict => strict_port(text).is_some(),
        Mode::Compatible => {
            let (value, length) = number::strtoul_int(text.as_bytes());
            length > 0 && length == text.len() && value <= 65_535
        }
    }
}

pub(super) fn is_portrange(text: &str, mode: Mode) -> bool {
    if mode == Mode::Strict {
        let Some((from, to)) = text.split_once('-') else {
            return is_port(text, mode);
        };
        return matches!((strict_port(from), strict_port(to)), (Some(from), Some(to)) if from <= to);
    }
    let (from, length) = number::strtoul_int(text.as_bytes());
    if length == 0 || text.as_bytes().get(length) != Some(&b'-') {
        return is_port(text, mode);
    }
    let rest = &text.as_bytes()[length + 1..];
    let (to, length) = number::strtoul_int(rest);
    length == rest.len() && from <= 65_535 && to <= 65_535 && from <= to
}

fn strict_port(text: &str) -> Option<u16> {
    number::decimal_whole(text).and_then(|port| u16::try_from(port).ok())
}

pub(super) fn is_macaddr(text: &str) -> bool {
    let group = |group: &str| {
        matches!(group.len(), 1..=2) && group.bytes().all(|digit| digit.is_ascii_hexdigit())
    };
    text.split(':').count() == 6 && text.split(':').all(group)
}
