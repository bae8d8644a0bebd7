//! Cuts a stream of bytes into lines of JSON. A line that never ends is an error, not a growing buffer.

use serde::de::DeserializeOwned;

use crate::error::Error;

/// Longest line; the log's own limit is far below.
const LINE_MAX: usize = 1 << 20;

/// What came and is not a whole line yet.
#[derive(Default)]
pub(crate) struct Lines {
    rest: Vec<u8>,
}

impl Lines {
    /// Takes the next piece and gives the lines that are whole now. What is no JSON of this shape is an error.
    pub(crate) fn push<T: DeserializeOwned>(&mut self, piece: &[u8]) -> Result<Vec<T>, Error> {
        self.rest.extend_from_slice(piece);
        let Some(end) = self.rest.iter().rposition(|byte| *byte == b'\n') else {
            return self.check().map(|()| Vec::new());
        };
        let rest = self.rest.split_off(end + 1);
        let whole = std::mem::replace(&mut self.rest, rest);
        self.check()?;
        let lines = whole.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        let parsed: Result<Vec<T>, _> = lines.map(serde_json::from_slice).collect();
        parsed.map_err(|error| {
            Error::failed(format!(
                "a line of the answer is not understood: {error}; is the daemon newer than vestalctl?"
            ))
        })
    }

    fn check(&self) -> Result<(), Error> {
        if self.rest.len() <= LINE_MAX {
            return Ok(());
        }
        Err(Error::failed(format!("a line of the answer exceeds the limit of {LINE_MAX} bytes")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_put_together_wherever_they_were_cut() {
        let whole = b"1\n22\n\n333\n4";
        for cut in 0..whole.len() {
            let mut lines = Lines::default();
            let mut got: Vec<u32> = lines.push(&whole[..cut]).unwrap();
            got.extend(lines.push::<u32>(&whole[cut..]).unwrap());
            assert_eq!(got, [1, 22, 333], "cut at {cut}");
            assert_eq!(lines.push::<u32>(b"4\n").unwrap(), [44]);
        }
    }

    #[test]
    fn a_line_without_an_end_has_a_limit() {
        let mut lines = Lines::default();
        let piece = vec![b' '; LINE_MAX];
        assert!(lines.push::<u32>(&piece).unwrap().is_empty());
        assert!(lines.push::<u32>(b"  ").unwrap_err().text.contains("limit"));
    }

    #[test]
    fn what_is_no_json_is_an_error() {
        assert!(Lines::default().push::<u32>(b"x\n").unwrap_err().text.contains("newer"));
    }
}
