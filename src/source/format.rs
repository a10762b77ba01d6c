//! What stands between the payloads of a source and the decoders of a pipeline: formats whose
//! bytes need more than themselves to be understood, such as a schema that a registry has.

use std::sync::Arc;

use crate::decode::Rejection;

use super::RawBatch;

/// Wakes a worker; cheap, and never blocks.
pub type Waker = Box<dyn Fn() + Send + Sync>;

/// The format of a source's payloads.
pub trait Format: Send + Sync {
    /// For one partition. `wake` is called when what [`Unpack::prepare`] waits for is there.
    fn unpacker(&self, wake: Waker) -> Box<dyn Unpack>;
}

/// A shared format.
pub type SharedFormat = Arc<dyn Format>;

/// Makes the payloads of one partition what decoders know.
///
/// Nothing here blocks: what a batch needs from a server is asked for by `prepare`, and the batch
/// waits in its partition until it is there.
pub trait Unpack {
    /// Whether every payload of `batch` can be unpacked now. If not, this is to be asked again,
    /// with the same batch, once the worker is woken; nothing of it is unpacked before.
    fn prepare(&mut self, batch: &RawBatch) -> bool;

    /// The payload as the decoder knows it.
    ///
    /// # Errors
    /// When its bytes are not of this format.
    fn unpack<'a>(&'a mut self, payload: &'a [u8]) -> Result<&'a [u8], Rejection>;
}

/// Makes an event of a generator a message: the other way round.
pub trait Pack {
    /// Appends the message of `event` to `out`.
    ///
    /// # Errors
    /// When the format cannot hold it, with the reason.
    fn pack(&self, event: &[u8], out: &mut Vec<u8>) -> Result<(), String>;
}
