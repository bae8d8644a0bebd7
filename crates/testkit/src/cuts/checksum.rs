//! CRC-32C, which the suite's own records end with. (The CRC-32 of U-Boot and of the log is `crc32fast`'s.)
//!
//! Not the daemons' own code: what checks a record must not share a mistake with what wrote it.

/// Castagnoli's polynomial, reflected.
const POLYNOMIAL: u32 = 0x82f6_3b78;

pub(super) fn crc32c(bytes: &[u8]) -> u32 {
    let shift = |crc: u32, _| if crc & 1 == 1 { crc >> 1 ^ POLYNOMIAL } else { crc >> 1 };
    let step = |crc: u32, octet: &u8| (0..8).fold(crc ^ u32::from(*octet), shift);
    !bytes.iter().fold(u32::MAX, step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_is_that_of_rfc_3720() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
    }
}
