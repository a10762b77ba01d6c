//! A message of items, as timely sends it.

use std::io::{self, Write};
use std::marker::PhantomData;

use bytemuck::{Pod, Zeroable};
use timely::bytes::arc::Bytes;
use timely::dataflow::channels::ContainerBytes;

use super::{ChosenCodec, Codec, Input, Wire, WireError};

/// `HWB` and the version of the layout. Its bytes stand in another order on a machine of another
/// byte order.
const MAGIC: u32 = u32::from_be_bytes(*b"HWB\x01");

/// What a message begins with; the number of items follows.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct Head {
    magic: u32,
    /// The least size of an item: a first guard against items of another type.
    least: u32,
}

impl Head {
    const fn of<T: Wire>() -> Self {
        Self {
            magic: MAGIC,
            least: T::LEAST as u32,
        }
    }

    const fn numbers(self) -> [u32; 2] {
        [self.magic, self.least]
    }
}

/// Head and number of items.
const PREFIX: usize = size_of::<Head>() + size_of::<u64>();

/// Items on their way to another worker: moved between threads, encoded between processes.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch<T, C = ChosenCodec> {
    /// The items.
    pub items: Vec<T>,
    codec: PhantomData<fn() -> C>,
}

impl<T, C> From<Vec<T>> for Batch<T, C> {
    fn from(items: Vec<T>) -> Self {
        let codec = PhantomData;
        Self { items, codec }
    }
}

impl<T: Wire, C: Codec> Batch<T, C> {
    /// Without the zeroes at the end.
    fn length(&self) -> usize {
        PREFIX + self.items.iter().map(Wire::size).sum::<usize>()
    }

    /// Encodes the items, zeroes up to a multiple of eight bytes behind them.
    ///
    /// # Errors
    /// Those of `writer`.
    pub fn encode<W: Write>(&self, writer: &mut W) -> io::Result<()> {
        C::write(&Head::of::<T>(), writer)?;
        C::write(&(self.items.len() as u64), writer)?;
        T::write_many::<C, W>(self.items.iter(), writer)?;
        let length = self.length();
        writer.write_all(&[0; 8][..length.next_multiple_of(8) - length])
    }

    /// Decodes what [`Batch::encode`] wrote.
    ///
    /// # Errors
    /// When it is anything else.
    pub fn decode(bytes: &[u8]) -> Result<Self, WireError> {
        const { assert!(T::LEAST > 0, "items without a size cannot be counted") }
        let mut input = Input::new(bytes);
        let found = input.raw::<C, Head>()?.numbers();
        let expected = Head::of::<T>().numbers();
        if found != expected {
            return Err(WireError::Foreign { expected, found });
        }
        let count = input.count::<C>(T::LEAST)?;
        let items = T::read_many::<C>(count, &mut input)?;
        let left = input.rest();
        if left.len() >= 8 || !bytes.len().is_multiple_of(8) || left.iter().any(|byte| *byte != 0) {
            return Err(WireError::Trailing { left: left.len() });
        }
        Ok(items.into())
    }
}

impl<T: Wire, C: Codec> ContainerBytes for Batch<T, C> {
    /// # Panics
    /// When the bytes are no batch of this kind. The trait leaves no other way; the run that meets
    /// the panic ends with it as its error.
    fn from_bytes(bytes: Bytes) -> Self {
        Self::decode(&bytes).unwrap_or_else(|error| {
            panic!(
                "a message from another worker cannot be read: {error}; all processes of a run \
                 must be the same build of the program"
            )
        })
    }

    fn length_in_bytes(&self) -> usize {
        self.length().next_multiple_of(8)
    }

    /// # Panics
    /// When `writer` takes fewer bytes than [`ContainerBytes::length_in_bytes`] says.
    fn into_bytes<W: Write>(&self, writer: &mut W) {
        // Invariant: timely reserves the length that was asked for before.
        self.encode(writer)
            .expect("timely's buffer has room for the batch");
    }
}
