//! How much memory this process has.

const STATUS: &str = "/proc/self/status";

/// Bytes in memory; 0 where the kernel doesn't tell.
pub(super) fn resident() -> u64 {
    let text = std::fs::read_to_string(STATUS).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kilobytes.unwrap_or(0) << 10
}

#[cfg(test)]
mod tests {
    #[test]
    fn this_process_has_some() {
        assert!(super::resident() > 100 << 10);
    }
}
