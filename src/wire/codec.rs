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

    /// Writes the bytes of all of `raws`, one behind the other.
    ///
    /// # Errors
    /// Those of `writer`.
    fn write_all<P: Pod, W: Write>(raws: &[P], writer: &mut W) -> io::Result<()> {
        raws.iter().try_for_each(|raw| Self::write(raw, writer))
    }

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
    fn write_all<P: Pod, W: Write>(raws: &[P], writer: &mut W) -> io::Result<()> {
        writer.write_all(bytemuck::cast_slice(raws))
    }

    #[inline]
    fn read<P: Pod>(bytes: &[u8]) -> Option<P> {
        bytemuck::try_pod_read_unaligned(bytes).ok()
    }
}
