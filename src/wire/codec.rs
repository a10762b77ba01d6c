//! How a raw value becomes bytes and back.

use std::io::{self, Write};

use bytemuck::Pod;

/// A way to write raw values as they stand in memory. What one codec writes any other reads.
pub trait Codec: Send + 'static {
    /// Writes the bytes of `raw`.
    ///
    /// # Errors
    /// Those of `writer`.
    fn write<P: Pod, W: Write>(raw: &P, writer: &mut W) -> io::Result<()>;

    /// The value whose bytes these are, wherever they lie; `None` unless it has so many.
    fn read<P: Pod>(bytes: &[u8]) -> Option<P>;
}

/// The codec of this build.
#[cfg(not(feature = "abomonation"))]
pub type ChosenCodec = Bytemuck;
/// The codec of this build.
#[cfg(feature = "abomonation")]
pub type ChosenCodec = super::Abomonation;

/// Copies memory, checked by the compiler.
#[derive(Clone, Copy, Debug)]
pub struct Bytemuck;

impl Codec for Bytemuck {
    #[inline]
    fn write<P: Pod, W: Write>(raw: &P, writer: &mut W) -> io::Result<()> {
        writer.write_all(bytemuck::bytes_of(raw))
    }

    #[inline]
    fn read<P: Pod>(bytes: &[u8]) -> Option<P> {
        bytemuck::try_pod_read_unaligned(bytes).ok()
    }
}
