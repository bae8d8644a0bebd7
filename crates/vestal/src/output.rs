//! Standard output: JSON or text, and a reader who left is no error.

use std::io::{self, Write as _};

use serde::Serialize;

use crate::error::Error;

/// How results are printed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    pub(crate) json: bool,
}

impl Output {
    /// Prints one or the other.
    pub(crate) fn either<T: Serialize>(
        self,
        value: &T,
        text: impl FnOnce() -> String,
    ) -> Result<(), Error> {
        if !self.json {
            return write(&text());
        }
        let mut json = serde_json::to_string_pretty(value)
            .map_err(|error| Error::failed(format!("write the result as JSON: {error}")))?;
        json.push('\n');
        write(&json)
    }
}

pub(crate) fn write(text: &str) -> Result<(), Error> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        // `vestal bundle inspect | head -1`: who reads has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(|error| Error::failed(format!("write to standard output: {error}"))),
    }
}

/// What came out of a file is shown, never obeyed: control characters come out escaped, but line ends.
pub(crate) fn clean(text: &str) -> String {
    let escape = |c: char| match c {
        '\n' => vec![c],
        c if c.is_control() => c.escape_default().collect(),
        c => vec![c],
    };
    text.chars().flat_map(escape).collect()
}

/// Bytes for people.
pub(crate) fn size(bytes: u64) -> String {
    let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
    let found = units.into_iter().find(|(shift, _)| bytes >> shift > 0);
    match found {
        Some((shift, unit)) => {
            // In tenths, and in 128 bits, so that nothing overflows.
            let tenths = (u128::from(bytes) * 10) >> shift;
            format!("{}.{} {unit}", tenths / 10, tenths % 10)
        }
        None => format!("{bytes} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_short() {
        assert_eq!(size(1023), "1023 B");
        assert_eq!(size(1536), "1.5 KiB");
        assert_eq!(size(5 << 30), "5.0 GiB");
        assert_eq!(size(u64::MAX), "17179869183.9 GiB");
    }

    #[test]
    fn control_characters_are_shown() {
        assert_eq!(clean("a\u{1b}[2Jb\nc"), "a\\u{1b}[2Jb\nc");
    }
}
