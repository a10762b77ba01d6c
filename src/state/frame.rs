//! The frame around every object of a state: what is torn, damaged, foreign or too new is found
//! out before a byte of it is believed.
//!
//! ```text
//! magic    8 bytes   89 'H' 'W' 'S' 0d 0a 1a 0a
//! format   u16       of the payload; this version reads one
//! kind     u16       what the payload is
//! length   u64       of the payload
//! header   u32       checksum of the bytes before it
//! payload
//! checksum u64       XXH3 of all bytes before it
//! ```
//!
//! Numbers are little-endian. The first 24 bytes mean the same in every format to come.

use serde::Serialize;
use serde::de::DeserializeOwned;
use thiserror::Error;
use twox_hash::XxHash3_64;

/// Neither text nor UTF-8, and changed by whatever changes line ends.
const MAGIC: [u8; 8] = *b"\x89HWS\r\n\x1a\n";
/// The format that this version writes and reads.
pub const FORMAT: u16 = 1;
const HEADER_BYTES: usize = 24;
const CHECKSUM_BYTES: usize = 8;

/// What an object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Kind {
    /// An object of the epoch log.
    Log = 1,
    /// The state of one worker's operators.
    Checkpoint = 2,
    /// Objects of the epoch log that are kept for a replay only.
    History = 3,
    /// A manifest from which a replay can start.
    Base = 4,
    /// A load of dimension tables.
    Dimensions = 5,
    /// A schema of messages.
    Schema = 6,
}

/// What is wrong with an object.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum FrameError {
    /// It has no bytes.
    #[error("it is empty")]
    Empty,
    /// It ends too early.
    #[error("it is cut off: {found} of {expected} bytes are there")]
    Torn {
        /// How many bytes it says that it has, or at least must have.
        expected: u64,
        /// How many there are.
        found: u64,
    },
    /// Some of its bytes have changed.
    #[error("it is damaged: its checksum is wrong")]
    Damaged,
    /// Something else wrote it.
    #[error("it was not written by highwater")]
    Foreign,
    /// A later version wrote it.
    #[error("it has format {found}, this version reads format {FORMAT}; use the newer highwater")]
    Newer {
        /// Its format.
        found: u16,
    },
    /// It is whole, but stands where another kind of object should.
    #[error("it is another kind of object ({found})")]
    Kind {
        /// What it says that it is.
        found: u16,
    },
    /// It is whole, but its payload makes no sense.
    #[error("it makes no sense: {0}")]
    Content(String),
}

/// Begins an object; the payload is appended to the result.
pub fn begin(kind: Kind, capacity: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_BYTES + capacity + CHECKSUM_BYTES);
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&FORMAT.to_le_bytes());
    bytes.extend_from_slice(&(kind as u16).to_le_bytes());
    bytes.resize(HEADER_BYTES, 0);
    bytes
}

/// Ends an object that was begun with [`begin`].
///
/// # Panics
/// When `bytes` does not begin with what [`begin`] made.
pub fn finish(mut bytes: Vec<u8>) -> Vec<u8> {
    let length = (bytes.len() - HEADER_BYTES) as u64;
    bytes[12..20].copy_from_slice(&length.to_le_bytes());
    let header = header_checksum(&bytes);
    bytes[20..24].copy_from_slice(&header.to_le_bytes());
    let checksum = checksum(&bytes);
    bytes.extend_from_slice(&checksum.to_le_bytes());
    bytes
}

/// The payload of an object, after everything about it was checked.
///
/// # Errors
/// When it is not a whole object of this kind in a format that is known.
pub fn payload(kind: Kind, bytes: &[u8]) -> Result<&[u8], FrameError> {
    let found = bytes.len() as u64;
    let torn = |expected: u64| FrameError::Torn { expected, found };
    let least = (HEADER_BYTES + CHECKSUM_BYTES) as u64;
    if bytes.is_empty() {
        return Err(FrameError::Empty);
    }
    if !bytes.starts_with(&MAGIC[..bytes.len().min(MAGIC.len())]) {
        return Err(FrameError::Foreign);
    }
    if bytes.len() < HEADER_BYTES {
        return Err(torn(least));
    }
    if number(&bytes[20..24]) != u64::from(header_checksum(bytes)) {
        return Err(FrameError::Damaged);
    }
    let format = number(&bytes[8..10]) as u16;
    if format != FORMAT {
        return Err(FrameError::Newer { found: format });
    }
    let expected = number(&bytes[12..20]).saturating_add(least);
    if found < expected {
        return Err(torn(expected));
    }
    let (rest, end) = bytes.split_at(bytes.len() - CHECKSUM_BYTES);
    if found > expected || number(end) != checksum(rest) {
        return Err(FrameError::Damaged);
    }
    let is = number(&bytes[10..12]) as u16;
    if is != kind as u16 {
        return Err(FrameError::Kind { found: is });
    }
    Ok(&rest[HEADER_BYTES..])
}

/// A whole object with JSON in it, for what people look at.
pub(super) fn encode_json(kind: Kind, value: &impl Serialize) -> Vec<u8> {
    let mut bytes = begin(kind, 1024);
    bytes.extend_from_slice(&json(value));
    finish(bytes)
}

/// What [`encode_json`] was given.
pub(super) fn decode_json<T: DeserializeOwned>(kind: Kind, bytes: &[u8]) -> Result<T, FrameError> {
    let payload = payload(kind, bytes)?;
    serde_json::from_slice(payload).map_err(|error| FrameError::Content(error.to_string()))
}

/// As text. The types of a state have texts or numbers as the keys of their maps, and nothing else
/// can fail in memory.
pub(super) fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("what a state holds is JSON")
}

/// The checksum that manifests note of objects and inputs.
pub fn checksum(bytes: &[u8]) -> u64 {
    XxHash3_64::oneshot(bytes)
}

fn header_checksum(bytes: &[u8]) -> u32 {
    XxHash3_64::oneshot(&bytes[..20]) as u32
}

/// Up to eight bytes as a number.
fn number(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .rev()
        .fold(0, |number, byte| (number << 8) | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object() -> Vec<u8> {
        let mut bytes = begin(Kind::Log, 0);
        bytes.extend_from_slice(b"{\"run\":1}");
        finish(bytes)
    }

    #[test]
    fn what_goes_in_comes_out() {
        assert_eq!(payload(Kind::Log, &object()).unwrap(), b"{\"run\":1}");
        let empty = finish(begin(Kind::Checkpoint, 0));
        assert_eq!(payload(Kind::Checkpoint, &empty).unwrap(), b"");
    }

    #[test]
    fn the_format_is_fixed() {
        let object = object();
        assert_eq!(object.len(), 24 + 9 + 8);
        assert_eq!(object[..12], *b"\x89HWS\r\n\x1a\n\x01\0\x01\0");
        assert_eq!(checksum(b"highwater"), 0xf4de_2bb0_9a3d_eca9);
    }

    #[test]
    fn each_flipped_bit_is_found() {
        let whole = object();
        for bit in 0..whole.len() * 8 {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let error = payload(Kind::Log, &bytes).unwrap_err();
            let expected = if bit < 64 {
                FrameError::Foreign
            } else {
                FrameError::Damaged
            };
            assert_eq!(error, expected, "bit {bit}");
        }
    }

    #[test]
    fn each_cut_is_found() {
        let whole = object();
        assert_eq!(payload(Kind::Log, b""), Err(FrameError::Empty));
        for length in 1..whole.len() {
            let error = payload(Kind::Log, &whole[..length]).unwrap_err();
            assert!(
                matches!(error, FrameError::Torn { found, .. } if found == length as u64),
                "{length}: {error}"
            );
        }
        let longer = [&whole[..], b"x"].concat();
        assert_eq!(payload(Kind::Log, &longer), Err(FrameError::Damaged));
    }

    #[test]
    fn foreign_newer_and_misplaced_objects_are_told_apart() {
        assert_eq!(
            payload(Kind::Log, b"{\"a\":1} and more"),
            Err(FrameError::Foreign)
        );
        let mut newer = begin(Kind::Log, 0);
        newer[8] = 2;
        assert_eq!(
            payload(Kind::Log, &finish(newer)),
            Err(FrameError::Newer { found: 2 })
        );
        assert_eq!(
            payload(Kind::Checkpoint, &object()),
            Err(FrameError::Kind { found: 1 })
        );
    }
}
