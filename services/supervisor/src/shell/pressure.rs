//! Whether the machine lacks processor, memory or input and output just now: the kernel's pressure stall information (PSI).
//!
//! Only reads; what follows from it is the machine's to decide.

use std::fs;

/// A machine on which some task waited longer than this part of the last ten seconds, in per cent, is starved.
const STARVED_ABOVE: f64 = 40.0;
const FILES: [&str; 3] = ["/proc/pressure/cpu", "/proc/pressure/io", "/proc/pressure/memory"];

/// A kernel without PSI has nothing to say: then it isn't starved.
pub(crate) fn is_starved() -> bool {
    FILES.iter().any(|file| fs::read_to_string(file).is_ok_and(|text| tells_of_need(&text)))
}

/// `some avg10=41.20 avg60=... avg300=... total=...` is the line that counts; `full` is in it already.
fn tells_of_need(text: &str) -> bool {
    let some = text.lines().find_map(|line| line.strip_prefix("some "));
    let field = some.and_then(|line| {
        line.split_ascii_whitespace().find_map(|field| field.strip_prefix("avg10="))
    });
    field.and_then(|percent| percent.parse::<f64>().ok()).is_some_and(|it| it > STARVED_ABOVE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_forty_per_cent_of_the_last_ten_seconds_is_need() {
        let text = |ten: &str| {
            format!(
                "some avg10={ten} avg60=99.00 avg300=99.00 total=131\nfull avg10=99.00 avg60=0.00 avg300=0.00 total=0\n"
            )
        };
        for (ten, need) in [("0.00", false), ("40.00", false), ("40.01", true), ("95.62", true)] {
            assert_eq!(tells_of_need(&text(ten)), need, "{ten}");
        }
    }

    #[test]
    fn a_text_that_is_not_understood_is_no_need() {
        for text in ["", "some", "some avg60=99.00", "some avg10=much", "full avg10=99.00 total=1"]
        {
            assert!(!tells_of_need(text), "{text:?}");
        }
    }
}
