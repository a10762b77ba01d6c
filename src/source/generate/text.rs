//! Numbers as text, appended to a buffer without allocation and without float formatting.

/// All two-digit numbers, back to back.
const PAIRS: [u8; 200] = {
    let mut pairs = [0; 200];
    let mut n = 0;
    while n < 100 {
        pairs[2 * n] = b'0' + (n / 10) as u8;
        pairs[2 * n + 1] = b'0' + (n % 10) as u8;
        n += 1;
    }
    pairs
};

/// Appends `value` in decimal, with zeros in front up to `width` digits (at most 20).
#[inline]
pub fn push_padded(mut value: u64, width: usize, out: &mut Vec<u8>) {
    let mut buffer = [b'0'; 20];
    let mut start = 20;
    while value >= 100 {
        start -= 2;
        let pair = (value % 100) as usize * 2;
        buffer[start..start + 2].copy_from_slice(&PAIRS[pair..pair + 2]);
        value /= 100;
    }
    if value >= 10 {
        start -= 2;
        let pair = value as usize * 2;
        buffer[start..start + 2].copy_from_slice(&PAIRS[pair..pair + 2]);
    } else {
        start -= 1;
        buffer[start] = b'0' + value as u8;
    }
    out.extend_from_slice(&buffer[start.min(20 - width.min(20))..]);
}

/// Appends `value` in decimal.
#[inline]
pub fn push_uint(value: u64, out: &mut Vec<u8>) {
    push_padded(value, 1, out);
}

/// Appends `scaled / 10^decimals` with exactly `decimals` digits after the point:
/// `push_fixed(-205, 2)` is `-2.05`.
#[inline]
pub fn push_fixed(scaled: i64, decimals: u32, out: &mut Vec<u8>) {
    if scaled < 0 {
        out.push(b'-');
    }
    let unit = 10_u64.pow(decimals);
    let magnitude = scaled.unsigned_abs();
    push_uint(magnitude / unit, out);
    if decimals > 0 {
        out.push(b'.');
        push_padded(magnitude % unit, decimals as usize, out);
    }
}

/// Appends a UUID in its usual form: 8-4-4-4-12 lower-case hexadecimal digits.
#[inline]
pub fn push_uuid(uuid: u128, out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let mut text = [b'-'; 36];
    let mut at = 0;
    for (index, byte) in uuid.to_be_bytes().into_iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            at += 1;
        }
        text[at] = HEX[usize::from(byte >> 4)];
        text[at + 1] = HEX[usize::from(byte & 15)];
        at += 2;
    }
    out.extend_from_slice(&text);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).expect("UTF-8")
    }

    #[test]
    fn fixed_decimals() {
        assert_eq!(text(|out| push_fixed(12_345, 2, out)), "123.45");
        assert_eq!(text(|out| push_fixed(5, 2, out)), "0.05");
        assert_eq!(text(|out| push_fixed(-205, 2, out)), "-2.05");
        assert_eq!(text(|out| push_fixed(-7, 0, out)), "-7");
        assert_eq!(
            text(|out| push_fixed(i64::MIN, 3, out)),
            "-9223372036854775.808"
        );
    }

    #[test]
    fn uuids() {
        let uuid = 0x0123_4567_89ab_4def_8123_4567_89ab_cdef;
        assert_eq!(
            text(|out| push_uuid(uuid, out)),
            "01234567-89ab-4def-8123-456789abcdef"
        );
    }

    proptest! {
        #[test]
        fn digits_are_those_of_format(value: u64, shift in 0_u32..64, width in 1_usize..=20) {
            let value = value >> shift;
            prop_assert_eq!(text(|out| push_padded(value, width, out)), format!("{value:0width$}"));
        }
    }
}
