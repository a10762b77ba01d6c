//! What processes say to each other, apart from data.
//!
//! A message on the wire is its length in bytes (four, the highest first) and its contents.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Part, Plan, Share};

/// No message is longer: whoever says so is out of step.
const LONGEST: usize = 1 << 30;

/// A message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// To process 0: the configuration of a process, which must be that of process 0.
    Join(BTreeMap<String, String>),
    /// From process 0: where the run goes on.
    Plan(Box<Plan>),
    /// To all: this process is ready for this run.
    Ready(Uuid),
    /// To all, now and then.
    Beat(Beat),
    /// To process 0, now and then: what this process has done.
    Share(Box<Share>),
    /// To process 0: end at the next border.
    Stop,
    /// To process 0: this process has done all of it.
    Part(Box<Part>),
    /// To all: this process ends with this exit code, because of this.
    Ended {
        /// The exit code.
        code: u8,
        /// Why.
        why: String,
    },
    /// To all: this process ends, and all is well.
    Bye,
}

/// A sign of life.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beat {
    /// The run, once it is known.
    pub run: Option<Uuid>,
    /// How many steps each worker has made; 0: it has not begun, [`u64::MAX`]: it is done.
    pub steps: Vec<u64>,
}

impl Message {
    /// As it goes over the wire.
    pub fn encode(&self) -> Vec<u8> {
        // Plain data of known length always can; no bytes are no message, and end the connection.
        let contents = postcard::to_stdvec(self).unwrap_or_default();
        let length = u32::try_from(contents.len()).unwrap_or(u32::MAX);
        let mut bytes = length.to_be_bytes().to_vec();
        bytes.extend_from_slice(&contents);
        bytes
    }

    /// Reads one; `None`: the connection was closed between two messages.
    ///
    /// # Errors
    /// When reading fails, or what was read is no message.
    pub fn read(reader: &mut impl Read) -> io::Result<Option<Self>> {
        let mut length = [0; 4];
        if reader.read(&mut length[..1])? == 0 {
            return Ok(None);
        }
        reader.read_exact(&mut length[1..])?;
        let length = u32::from_be_bytes(length) as usize;
        if length > LONGEST {
            return Err(invalid("a message is too long to be one"));
        }
        let mut bytes = Vec::new();
        // Not all at once: the length is only what was said.
        if reader.take(length as u64).read_to_end(&mut bytes)? < length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let read = postcard::from_bytes(&bytes);
        read.map(Some)
            .map_err(|_| invalid("it said something that is no message"))
    }

    /// Writes one.
    ///
    /// # Errors
    /// When writing fails.
    pub fn write(&self, writer: &mut impl Write) -> io::Result<()> {
        writer.write_all(&self.encode())
    }
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_back_as_they_were() {
        let beat = Message::Beat(Beat {
            run: Some(Uuid::from_u128(7)),
            steps: vec![0, 5, u64::MAX],
        });
        let ended = Message::Ended {
            code: 4,
            why: "fenced".to_owned(),
        };
        let mut wire = Vec::new();
        for message in [&beat, &ended, &Message::Bye] {
            message.write(&mut wire).expect("written");
        }
        let mut reader = &wire[..];
        for message in [beat, ended, Message::Bye] {
            assert_eq!(Message::read(&mut reader).expect("whole"), Some(message));
        }
        assert_eq!(Message::read(&mut reader).expect("the end"), None);
    }

    #[test]
    fn what_is_no_message_is_an_error() {
        let whole = Message::Stop.encode();
        let mut torn = &Message::Join([("a".to_owned(), "b".to_owned())].into()).encode()[..7];
        assert!(Message::read(&mut torn).is_err());
        assert!(Message::read(&mut &whole[..3]).is_err());
        assert!(Message::read(&mut &[0, 0, 0, 1, 200][..]).is_err());
        assert!(Message::read(&mut &[255; 8][..]).is_err());
    }
}
