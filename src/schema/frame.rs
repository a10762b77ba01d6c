//! The frame of a message whose schema a registry has, as Confluent's clients write it: a zero
//! byte, the id of the schema as four bytes (big-endian), then the payload.

use crate::decode::{Reason, Rejection};

const MAGIC: u8 = 0;
const BYTES: usize = 5;

/// The number under which a registry has a schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SchemaId(pub u32);

impl std::fmt::Display for SchemaId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// The schema's id, and what is behind the frame.
///
/// # Errors
/// When there is no frame, or only a part of one.
pub fn split(message: &[u8]) -> Result<(SchemaId, &[u8]), Rejection> {
    match message {
        [MAGIC, a, b, c, d, payload @ ..] => {
            Ok((SchemaId(u32::from_be_bytes([*a, *b, *c, *d])), payload))
        }
        [] => Err(wrong("no schema frame: the message is empty".to_owned())),
        [MAGIC, ..] => Err(wrong(format!(
            "a torn schema frame: it has {BYTES} bytes, and the message {}",
            message.len()
        ))),
        [first, ..] => Err(wrong(format!(
            "no schema frame: the first byte is {first:#04x} and not 0"
        ))),
    }
}

/// Appends the frame of a message with this schema.
pub fn push(id: SchemaId, out: &mut Vec<u8>) {
    out.push(MAGIC);
    out.extend_from_slice(&id.0.to_be_bytes());
}

fn wrong(detail: String) -> Rejection {
    Rejection::new(Reason::Undecodable, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_a_zero_and_four_bytes() {
        let mut message = Vec::new();
        push(SchemaId(0x0102_0304), &mut message);
        assert_eq!(message, [0, 1, 2, 3, 4]);
        message.extend_from_slice(b"{}");
        assert_eq!(split(&message), Ok((SchemaId(0x0102_0304), &b"{}"[..])));
        assert_eq!(
            split(&[0, 0xff, 0, 0, 1]),
            Ok((SchemaId(0xff00_0001), &[][..]))
        );
    }

    #[test]
    fn what_has_no_whole_frame_is_rejected() {
        let detail = |message: &[u8]| split(message).expect_err("no frame").detail;
        assert!(detail(b"").contains("empty"));
        assert!(detail(b"{\"a\":1}").contains("0x7b"));
        assert!(detail(&[0, 0, 0, 1]).contains("torn") && detail(&[0]).contains("torn"));
    }
}
