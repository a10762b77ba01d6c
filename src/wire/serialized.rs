//! Values that hold texts of any length, by way of serde: their length, then their bytes.

use std::io::{self, Write};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Codec, Input, WireError};

/// Lets a type with serde travel whose values are of different lengths. For rare ones: each is
/// encoded twice, the first time for its length.
#[macro_export]
macro_rules! serde_wire {
    ($value:ty) => {
        impl $crate::wire::Wire for $value {
            const LEAST: usize = 8;

            fn size(&self) -> usize {
                $crate::wire::serialized_size(self)
            }

            fn write<C: $crate::wire::Codec, W: std::io::Write>(
                &self,
                writer: &mut W,
            ) -> std::io::Result<()> {
                $crate::wire::write_serialized::<C, Self, W>(self, writer)
            }

            fn read<C: $crate::wire::Codec>(
                input: &mut $crate::wire::Input<'_>,
            ) -> Result<Self, $crate::wire::WireError> {
                $crate::wire::read_serialized::<C, Self>(input)
            }
        }
    };
}

/// How many bytes [`write_serialized`] writes.
#[doc(hidden)]
pub fn serialized_size<T: Serialize>(value: &T) -> usize {
    // What cannot be encoded fails when it is written.
    8 + postcard::to_stdvec(value).map_or(0, |bytes| bytes.len())
}

#[doc(hidden)]
pub fn write_serialized<C: Codec, T: Serialize, W: Write>(
    value: &T,
    writer: &mut W,
) -> io::Result<()> {
    let bytes = postcard::to_stdvec(value).map_err(io::Error::other)?;
    C::write(&(bytes.len() as u64), writer)?;
    writer.write_all(&bytes)
}

#[doc(hidden)]
pub fn read_serialized<C: Codec, T: DeserializeOwned>(
    input: &mut Input<'_>,
) -> Result<T, WireError> {
    let count = input.count::<C>(1)?;
    let bytes = input.take(count)?;
    match postcard::take_from_bytes(bytes) {
        Ok((value, [])) => Ok(value),
        _ => Err(WireError::invalid::<T>()),
    }
}
