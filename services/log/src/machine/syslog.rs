//! Reads a syslog datagram, as syslog(3), RFC 3164 and RFC 5424 write it. Whatever it is, it has a text; nothing is refused.

/// Longest tag that is believed to be one.
const TAG_MAX: usize = 64;
/// What a datagram without a priority has: notice, as syslogd says.
const NO_PRIORITY: u8 = 5;

/// A datagram, read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Message<'a> {
    /// 0 to 7.
    pub(crate) priority: u8,
    pub(crate) tag: Option<&'a str>,
    /// As the sender says; the kernel may know better.
    pub(crate) pid: Option<i32>,
    /// May hold line ends, and bytes that are no text.
    pub(crate) text: &'a [u8],
}

/// Takes a datagram apart.
pub(crate) fn parse(datagram: &[u8]) -> Message<'_> {
    let datagram = trim_end(datagram);
    let (priority, rest) = priority(datagram).unwrap_or((NO_PRIORITY, datagram));
    if let Some(message) = structured(rest) {
        return Message { priority, ..message };
    }
    let rest = behind_time(rest);
    let (tag, pid, text) = match tagged(rest) {
        Some(found) => found,
        // With a host's name before the tag, as it comes over a network.
        None => match word(rest).and_then(|(_host, rest)| tagged(rest)) {
            Some(found) => found,
            None => (None, None, rest),
        },
    };
    Message { priority, tag, pid, text }
}

/// `<N>`, of which only the lower three bits are the priority.
fn priority(datagram: &[u8]) -> Option<(u8, &[u8])> {
    let rest = datagram.strip_prefix(b"<")?;
    let end = rest.iter().take(4).position(|byte| *byte == b'>')?;
    let number: u16 = ascii(&rest[..end])?.parse().ok()?;
    let priority = u8::try_from(number & 7).ok().filter(|_| number <= 191)?;
    Some((priority, &rest[end + 1..]))
}

/// RFC 5424: `1 TIME HOST APP PID ID DATA TEXT`.
fn structured(rest: &[u8]) -> Option<Message<'_>> {
    let rest = rest.strip_prefix(b"1 ")?;
    let (_time, rest) = word(rest)?;
    let (_host, rest) = word(rest)?;
    let (app, rest) = word(rest)?;
    let (pid, rest) = word(rest)?;
    let (_id, rest) = word(rest)?;
    let rest = behind_data(rest)?;
    let text = rest.strip_prefix(b"\xef\xbb\xbf").unwrap_or(rest);
    let pid = ascii(pid).and_then(|pid| pid.parse().ok());
    Some(Message { priority: 0, tag: tag(app).filter(|tag| *tag != "-"), pid, text })
}

/// Behind the structured data: `-`, or elements in brackets, in whose values `]` is written `\]`.
fn behind_data(rest: &[u8]) -> Option<&[u8]> {
    let end = if rest.starts_with(b"-") {
        1
    } else {
        let (mut inside, mut quoted, mut escaped) = (false, false, false);
        let mut end = None;
        for (at, byte) in rest.iter().enumerate() {
            match byte {
                _ if escaped => escaped = false,
                b'\\' if quoted => escaped = true,
                b'"' if inside => quoted = !quoted,
                b'[' if !quoted => inside = true,
                b']' if !quoted => inside = false,
                b' ' if !inside => {
                    end = Some(at);
                    break;
                }
                _ if inside => {}
                _ => return None,
            }
        }
        match end {
            Some(end) => end,
            None if !inside && !rest.is_empty() => rest.len(),
            None => return None,
        }
    };
    let rest = &rest[end..];
    Some(rest.strip_prefix(b" ").unwrap_or(rest))
}

/// `Mmm dd hh:mm:ss `, or a time as RFC 3339 writes it.
fn behind_time(rest: &[u8]) -> &[u8] {
    const MONTHS: &[u8] = b"JanFebMarAprMayJunJulAugSepOctNovDec";
    let is_time = rest.len() >= 16
        && MONTHS.chunks(3).any(|month| rest.starts_with(month))
        && [rest[3], rest[6], rest[15]] == *b"   "
        && [rest[9], rest[12]] == *b"::";
    if is_time {
        return &rest[16..];
    }
    match word(rest) {
        Some((first, behind))
            if first.len() >= 19
                && first[..4].iter().all(u8::is_ascii_digit)
                && first[10] == b'T' =>
        {
            behind
        }
        _ => rest,
    }
}

/// `TAG: TEXT` or `TAG[PID]: TEXT`.
fn tagged(rest: &[u8]) -> Option<(Option<&str>, Option<i32>, &[u8])> {
    let colon = rest.iter().take(TAG_MAX + 16).position(|byte| *byte == b':')?;
    let (head, text) = (&rest[..colon], &rest[colon + 1..]);
    let (name, pid) = match head.strip_suffix(b"]") {
        Some(head) => {
            let open = head.iter().rposition(|byte| *byte == b'[')?;
            (&head[..open], ascii(&head[open + 1..]).and_then(|pid| pid.parse().ok()))
        }
        None => (head, None),
    };
    Some((Some(tag(name)?), pid, text.strip_prefix(b" ").unwrap_or(text)))
}

/// A word, and what follows the blank behind it.
fn word(rest: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = rest.iter().position(|byte| *byte == b' ')?;
    Some((&rest[..end], &rest[end + 1..]))
}

fn tag(name: &[u8]) -> Option<&str> {
    let good = !name.is_empty() && name.len() <= TAG_MAX && name.iter().all(u8::is_ascii_graphic);
    good.then(|| ascii(name)).flatten()
}

fn ascii(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok().filter(|text| text.is_ascii())
}

fn trim_end(mut datagram: &[u8]) -> &[u8] {
    while let [rest @ .., b'\n' | b'\r' | 0] = datagram {
        datagram = rest;
    }
    datagram
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message<'a>(priority: u8, tag: &'a str, pid: Option<i32>, text: &'a str) -> Message<'a> {
        let tag = (!tag.is_empty()).then_some(tag);
        Message { priority, tag, pid, text: text.as_bytes() }
    }

    #[test]
    fn what_syslog_3_sends_is_read() {
        let glibc = parse(b"<14>Nov 22 04:34:42 dhcp[812]: lease of 10.0.0.7\0");
        assert_eq!(glibc, message(6, "dhcp", Some(812), "lease of 10.0.0.7"));
        let musl = parse(b"<11>Nov  2 04:34:42 cron: no such user\n");
        assert_eq!(musl, message(3, "cron", None, "no such user"));
        let host = parse(b"<34>Oct 11 22:14:15 mymachine su: 'su root' failed");
        assert_eq!(host, message(2, "su", None, "'su root' failed"));
        let rfc3339 = parse(b"<13>2026-11-22T04:34:42.5+00:00 host app[7]: x");
        assert_eq!(rfc3339, message(5, "app", Some(7), "x"));
    }

    #[test]
    fn rfc_5424_is_read() {
        let plain = parse(b"<165>1 2003-10-11T22:14:15.003Z host app 33 ID47 - \xef\xbb\xbftext");
        assert_eq!(plain, message(5, "app", Some(33), "text"));
        let data = parse(br#"<30>1 - - cam - - [a@1 k="v\"]" b="c d"][b@2] frame [lost] late"#);
        assert_eq!(data, message(6, "cam", None, "frame [lost] late"));
        assert_eq!(parse(b"<30>1 - - - - - -"), message(6, "", None, ""));
    }

    #[test]
    fn what_is_anything_else_is_a_text() {
        assert_eq!(parse(b"only words"), message(5, "", None, "only words"));
        assert_eq!(parse(b"<999>x"), message(5, "", None, "<999>x"));
        assert_eq!(parse(b""), message(5, "", None, ""));
        assert_eq!(
            parse(b"<6>10 o'clock: all is well"),
            message(6, "o'clock", None, "all is well")
        );
    }

    proptest! {
        #[test]
        fn no_datagram_does_harm(datagram in prop::collection::vec(any::<u8>(), 0..120)) {
            prop_assert!(parse(&datagram).priority <= 7);
        }

        #[test]
        fn nothing_near_a_datagram_does_harm(text in "<[0-9]{0,4}>1? ?[-A-Za-z0-9 \\[\\]\"\\\\:]{0,60}") {
            prop_assert!(parse(text.as_bytes()).priority <= 7);
        }
    }
}
