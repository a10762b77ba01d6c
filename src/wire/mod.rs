//! How records travel between processes: as copies of their memory.
//!
//! * [`FixedLayout`]: a value with a raw form of fixed size, in which each bit pattern is valid.
//!   Records get it with one line, [`fixed_layout!`](crate::fixed_layout).
//! * [`Wire`]: what can travel: all of a fixed layout, blocks of such, and by way of serde what
//!   holds texts of any length ([`serde_wire!`](crate::serde_wire)).
//! * [`Codec`]: how a raw form becomes bytes: [`Bytemuck`], or `Abomonation` behind the feature
//!   of that name. Both write the same bytes.
//! * [`Batch`]: a message of items, as timely sends it.
//! * [`Exchange`]: sends items to the worker that a route names. Between the threads of a process
//!   vectors are moved and nothing is encoded.
//!
//! ```text
//! message  = magic, least size of an item (u32 each); number of items (u64); items; zeroes up to
//!            a multiple of eight
//! ```
//!
//! Integers have the byte order of the machine, and the layout belongs to the build: all processes
//! of a run are the same program on the same kind of machine, which their handshake sees to. What
//! arrives is checked nevertheless: lengths before anything is read, and each value that not every
//! bit pattern can be (texts, options, enumerations). What is accepted is exactly what would be
//! sent for it; everything else is a [`WireError`].

#[cfg(feature = "abomonation")]
pub use self::abomonation::Abomonation;
pub use self::batch::Batch;
pub use self::codec::{Bytemuck, ChosenCodec, Codec};
pub use self::exchange::Exchange;
pub use self::layout::FixedLayout;
#[doc(hidden)]
pub use self::layout::{Raw3, Raw6, RawReader, RawWriter, raw_size};
#[doc(hidden)]
pub use self::serialized::{read_serialized, serialized_size, write_serialized};

use std::io::{self, Write};

#[cfg(feature = "abomonation")]
mod abomonation;
mod batch;
mod codec;
mod exchange;
mod layout;
mod serialized;
#[cfg(test)]
mod tests;

/// A value that can travel between processes.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot travel between processes",
    note = "name its fields in `highwater::fixed_layout!({Self} {{ .. }})`; if it holds texts of \
            any length: `highwater::serde_wire!({Self})`"
)]
pub trait Wire: Sized + Send + 'static {
    /// The fewest bytes that one takes; not 0.
    const LEAST: usize;

    /// How many bytes this one takes.
    fn size(&self) -> usize;

    /// Writes exactly [`Wire::size`] bytes.
    ///
    /// # Errors
    /// Those of `writer`.
    fn write<C: Codec, W: Write>(&self, writer: &mut W) -> io::Result<()>;

    /// Takes a value from the front of `input`.
    ///
    /// # Errors
    /// When the bytes are none that [`Wire::write`] writes.
    fn read<C: Codec>(input: &mut Input<'_>) -> Result<Self, WireError>;

    /// Writes all of `values`, one behind the other.
    ///
    /// # Errors
    /// Those of `writer`.
    fn write_many<'a, C: Codec, W: Write>(
        mut values: impl Iterator<Item = &'a Self>,
        writer: &mut W,
    ) -> io::Result<()> {
        values.try_for_each(|value| value.write::<C, W>(writer))
    }

    /// Takes `count` values from the front of `input`; [`Input::count`] has compared it with what
    /// is there.
    ///
    /// # Errors
    /// As [`Wire::read`].
    fn read_many<C: Codec>(count: usize, input: &mut Input<'_>) -> Result<Vec<Self>, WireError> {
        let mut values = Vec::with_capacity(count);
        for _ in 0..count {
            values.push(Self::read::<C>(input)?);
        }
        Ok(values)
    }
}

/// So many raw forms are made before they are copied: a copy right after its parts were written
/// would have to wait for them.
const CHUNK: usize = 64;

impl<T: FixedLayout> Wire for T {
    const LEAST: usize = size_of::<T::Raw>();

    #[inline]
    fn size(&self) -> usize {
        Self::LEAST
    }

    #[inline]
    fn write<C: Codec, W: Write>(&self, writer: &mut W) -> io::Result<()> {
        C::write(&self.to_raw(), writer)
    }

    #[inline]
    fn read<C: Codec>(input: &mut Input<'_>) -> Result<Self, WireError> {
        let raw = input.raw::<C, T::Raw>()?;
        Self::from_raw(raw).ok_or_else(WireError::invalid::<Self>)
    }

    fn write_many<'a, C: Codec, W: Write>(
        mut values: impl Iterator<Item = &'a Self>,
        writer: &mut W,
    ) -> io::Result<()> {
        let mut raws = Vec::with_capacity(CHUNK);
        loop {
            raws.clear();
            raws.extend(values.by_ref().take(CHUNK).map(Self::to_raw));
            if raws.is_empty() {
                return Ok(());
            }
            C::write_all(&raws, writer)?;
        }
    }

    fn read_many<C: Codec>(count: usize, input: &mut Input<'_>) -> Result<Vec<Self>, WireError> {
        const { assert!(Self::LEAST > 0, "values without a size cannot be counted") }
        let bytes = input.take(count.saturating_mul(Self::LEAST))?;
        let raws = bytes.chunks_exact(Self::LEAST);
        let mut values = Vec::with_capacity(count);
        values.extend(raws.map_while(|raw| Self::from_raw(C::read(raw)?)));
        if values.len() < count {
            return Err(WireError::invalid::<Self>());
        }
        Ok(values)
    }
}

/// Bytes that came from another process, as far as they are not read yet.
#[derive(Debug)]
pub struct Input<'a> {
    bytes: &'a [u8],
}

impl<'a> Input<'a> {
    /// All of `bytes`.
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    /// What is left.
    pub const fn rest(&self) -> &'a [u8] {
        self.bytes
    }

    /// Takes the first `count` bytes.
    ///
    /// # Errors
    /// When there are fewer.
    #[inline]
    pub fn take(&mut self, count: usize) -> Result<&'a [u8], WireError> {
        let (taken, rest) = self.bytes.split_at_checked(count).ok_or({
            WireError::Short {
                needed: count,
                left: self.bytes.len(),
            }
        })?;
        self.bytes = rest;
        Ok(taken)
    }

    /// Takes a raw value.
    ///
    /// # Errors
    /// When there are fewer bytes than it has.
    #[inline]
    pub fn raw<C: Codec, P: bytemuck::Pod>(&mut self) -> Result<P, WireError> {
        let bytes = self.take(size_of::<P>())?;
        C::read(bytes).ok_or_else(WireError::invalid::<P>)
    }

    /// Takes a number of items that follow, each of which takes at least `least` bytes.
    ///
    /// # Errors
    /// When so many do not fit into what is left.
    pub fn count<C: Codec>(&mut self, least: usize) -> Result<usize, WireError> {
        let count = self.raw::<C, u64>()?;
        let most = self.bytes.len() / least.max(1);
        match usize::try_from(count) {
            Ok(count) if count <= most => Ok(count),
            _ => Err(WireError::Count { count, most }),
        }
    }
}

/// Why bytes are no message of this program.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// It ends in the middle of a value.
    #[error("{needed} bytes are needed where {left} are left")]
    Short {
        /// For the value.
        needed: usize,
        /// In the message.
        left: usize,
    },
    /// It begins otherwise.
    #[error("it begins with {found:08x?}, not with {expected:08x?}")]
    Foreign {
        /// Magic number and size of an item, as they are here.
        expected: [u32; 2],
        /// The same, as they came.
        found: [u32; 2],
    },
    /// It cannot hold so many items.
    #[error("it is said to hold {count} items, but there is room for {most}")]
    Count {
        /// What it says.
        count: u64,
        /// What fits.
        most: usize,
    },
    /// A value has a bit pattern that the program never makes.
    #[error("its bytes are no {kind}")]
    Invalid {
        /// The type of the value.
        kind: &'static str,
    },
    /// Something follows the last item.
    #[error("{left} bytes follow its last item")]
    Trailing {
        /// How many bytes.
        left: usize,
    },
}

impl WireError {
    /// For a value of type `T`.
    pub fn invalid<T>() -> Self {
        let kind = std::any::type_name::<T>();
        Self::Invalid { kind }
    }
}
