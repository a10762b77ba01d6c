//! The codec by way of the crate `abomonation`, with all the `unsafe` that it needs.
//!
//! The crate is unsound for types in general (RUSTSEC-2021-0120): it writes padding, follows
//! pointers that came over the wire, and makes references to misaligned memory. None of that can
//! happen here:
//!
//! 1. only [`Raw`] is ever encoded or decoded, and it holds a `Pod`: no padding, no pointer, no
//!    reference, and each bit pattern is a value;
//! 2. the length is compared before anything is decoded;
//! 3. what is decoded lies in a `P` of our own, and is aligned as a `P` for that reason.

#![allow(unsafe_code)]

use std::io::{self, Write};

use abomonation::{decode, encode};
use bytemuck::Pod;

use super::Codec;

/// Copies memory by way of `abomonation`.
#[derive(Clone, Copy, Debug)]
pub struct Abomonation;

/// The only type that `abomonation` sees; it owns nothing beyond its own bytes, so the methods
/// that would take care of that do nothing, as is their default.
#[repr(transparent)]
struct Raw<P>(P);

impl<P: Pod> abomonation::Abomonation for Raw<P> {}

impl Codec for Abomonation {
    #[inline]
    fn write<P: Pod, W: Write>(raw: &P, writer: &mut W) -> io::Result<()> {
        // SAFETY: 1 of the module; all bytes of a `Pod` are initialized, so they may be read.
        unsafe { encode(&Raw(*raw), writer) }
    }

    #[inline]
    fn read<P: Pod>(bytes: &[u8]) -> Option<P> {
        let mut raw = P::zeroed();
        let place = bytemuck::bytes_of_mut(&mut raw);
        // 2 of the module.
        if bytes.len() != place.len() {
            return None;
        }
        place.copy_from_slice(bytes);
        // SAFETY: 1 and 3 of the module; `place` has exactly the bytes of a `Raw<P>`, which is
        // laid out as a `P`.
        let (decoded, _) = unsafe { decode::<Raw<P>>(place) }?;
        Some(decoded.0)
    }
}
