//! Reads one record of /dev/kmsg, as Documentation/ABI/testing/dev-kmsg describes it.

/// What the kernel said.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Message<'a> {
    /// 0 to 7.
    pub(crate) priority: u8,
    /// Counts messages since the boot.
    pub(crate) number: u64,
    /// Microseconds since the boot.
    pub(crate) monotonic_us: u64,
    pub(crate) text: &'a [u8],
}

/// `PRIORITY,NUMBER,MICROSECONDS,FLAGS[,...];TEXT`, then lines that begin with a blank and name devices. `None`: it is no record.
pub(crate) fn parse(record: &[u8]) -> Option<Message<'_>> {
    let end = record.iter().position(|byte| *byte == b';')?;
    let head = std::str::from_utf8(&record[..end]).ok()?;
    let mut fields = head.split(',').map(|field| field.parse::<u64>().ok());
    let [priority, number, monotonic_us] = [fields.next()??, fields.next()??, fields.next()??];
    let text = record[end + 1..].split(|byte| *byte == b'\n').next()?;
    // The upper bits are who said it; another program may write to /dev/kmsg too.
    let priority = u8::try_from(priority & 7).ok()?;
    Some(Message { priority, number, monotonic_us, text })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_without_what_it_says_of_devices() {
        let record = b"6,339,5140900,-;NET: Registered PF_INET6\n SUBSYSTEM=net\n DEVICE=n3\n";
        let text = &b"NET: Registered PF_INET6"[..];
        let expected = Message { priority: 6, number: 339, monotonic_us: 5_140_900, text };
        assert_eq!(parse(record), Some(expected));
        let of_a_program = parse(b"12,1,2,-,caller=T1;a;b").unwrap();
        assert_eq!((of_a_program.priority, of_a_program.text), (4, &b"a;b"[..]));
    }

    #[test]
    fn what_is_no_record_is_none() {
        for record in [&b""[..], b";", b"6,1;text", b"6,x,2,-;text", b"6,1,2,-", b"-1,1,2,-;x"] {
            assert_eq!(parse(record), None, "{record:?}");
        }
    }
}
