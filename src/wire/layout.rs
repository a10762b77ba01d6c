//! Values with a raw form of fixed size.

#![allow(
    clippy::multiple_bound_locations,
    reason = "bytemuck's derive adds its bounds to those of the tuples' raw forms"
)]

use bytemuck::{Pod, Zeroable};

use crate::time::{Epoch, EventTime, Offset, PartitionId};

/// A value with a raw form of fixed size, without padding and with no invalid bit pattern.
///
/// The two directions belong together: `from_raw` accepts exactly what `to_raw` makes, so that
/// what is accepted from another process is what it had.
pub trait FixedLayout: Clone + Send + 'static {
    /// The raw form.
    type Raw: Pod;

    /// The raw form of this value.
    fn to_raw(&self) -> Self::Raw;

    /// The value of a raw form; `None` when it is that of no value.
    fn from_raw(raw: Self::Raw) -> Option<Self>;
}

macro_rules! plain {
    ($($plain:ty),+) => {
        $(impl FixedLayout for $plain {
            type Raw = Self;

            #[inline(always)]
            fn to_raw(&self) -> Self {
                *self
            }

            #[inline(always)]
            fn from_raw(raw: Self) -> Option<Self> {
                Some(raw)
            }
        })+
    };
}

plain!(
    u8,
    u16,
    u32,
    u64,
    u128,
    i8,
    i16,
    i32,
    i64,
    i128,
    f32,
    f64,
    ()
);

macro_rules! number {
    ($($number:ident: $plain:ty),+) => {
        $(impl FixedLayout for $number {
            type Raw = $plain;

            #[inline(always)]
            fn to_raw(&self) -> $plain {
                self.0
            }

            #[inline(always)]
            fn from_raw(raw: $plain) -> Option<Self> {
                Some(Self(raw))
            }
        })+
    };
}

number!(Epoch: u64, EventTime: i64, Offset: u64, PartitionId: u32);

impl FixedLayout for bool {
    type Raw = u8;

    #[inline(always)]
    fn to_raw(&self) -> u8 {
        u8::from(*self)
    }

    #[inline(always)]
    fn from_raw(raw: u8) -> Option<Self> {
        match raw {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }
}

/// A null is all zeroes.
impl<T: FixedLayout> FixedLayout for Option<T> {
    type Raw = Raw2<u8, T::Raw>;

    #[inline(always)]
    fn to_raw(&self) -> Self::Raw {
        match self {
            None => Zeroable::zeroed(),
            Some(value) => Raw2(1, value.to_raw()),
        }
    }

    #[inline(always)]
    fn from_raw(Raw2(tag, raw): Self::Raw) -> Option<Self> {
        match tag {
            0 if bytemuck::bytes_of(&raw).iter().all(|byte| *byte == 0) => Some(None),
            1 => T::from_raw(raw).map(Some),
            _ => None,
        }
    }
}

macro_rules! tuple {
    ($raw:ident: $($part:ident $index:tt),+) => {
        /// The raw form of a tuple: its parts, one right behind the other.
        #[derive(Clone, Copy, Pod, Zeroable)]
        #[repr(C, packed)]
        pub struct $raw<$($part: Pod),+>($(pub $part),+);

        impl<$($part: FixedLayout),+> FixedLayout for ($($part,)+) {
            type Raw = $raw<$($part::Raw),+>;

            #[inline(always)]
            fn to_raw(&self) -> Self::Raw {
                $raw($(self.$index.to_raw()),+)
            }

            #[inline(always)]
            fn from_raw(raw: Self::Raw) -> Option<Self> {
                Some(($($part::from_raw(raw.$index)?,)+))
            }
        }
    };
}

tuple!(Raw1: A 0);
tuple!(Raw2: A 0, B 1);
tuple!(Raw3: A 0, B 1, C 2);
tuple!(Raw4: A 0, B 1, C 2, D 3);
tuple!(Raw5: A 0, B 1, C 2, D 3, E 4);
tuple!(Raw6: A 0, B 1, C 2, D 3, E 4, F 5);
tuple!(Raw7: A 0, B 1, C 2, D 3, E 4, F 5, G 6);
tuple!(Raw8: A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7);

/// Gives a record a fixed layout: its fields, in this order, one right behind the other.
///
/// All fields must be named, and each must have a fixed layout.
///
/// ```
/// struct Sample { car: u64, speed: Option<f64> }
/// # impl Clone for Sample { fn clone(&self) -> Self { Sample { ..*self } } }
/// highwater::fixed_layout!(Sample { car, speed });
/// ```
#[macro_export]
macro_rules! fixed_layout {
    ($record:ty { $($field:tt),+ $(,)? }) => {
        impl $crate::wire::FixedLayout for $record {
            type Raw = [u8; 0 $(+ $crate::wire::raw_size(|record: &$record| &record.$field))+];

            #[inline(always)]
            fn to_raw(&self) -> Self::Raw {
                let mut raw = $crate::wire::RawWriter::default();
                $(raw.put(&self.$field);)+
                raw.into_bytes()
            }

            #[inline(always)]
            fn from_raw(raw: Self::Raw) -> Option<Self> {
                let mut raw = $crate::wire::RawReader::new(&raw);
                Some(Self { $($field: raw.take()?),+ })
            }
        }
    };
}

/// The size of the raw form of a field, which `_field` shows.
#[doc(hidden)]
pub const fn raw_size<R, F: FixedLayout>(_field: fn(&R) -> &F) -> usize {
    size_of::<F::Raw>()
}

/// Puts the fields of a record one behind the other; together they have `N` bytes.
#[doc(hidden)]
pub struct RawWriter<const N: usize> {
    bytes: [u8; N],
    at: usize,
}

impl<const N: usize> Default for RawWriter<N> {
    fn default() -> Self {
        Self {
            bytes: [0; N],
            at: 0,
        }
    }
}

impl<const N: usize> RawWriter<N> {
    #[inline(always)]
    pub fn put<F: FixedLayout>(&mut self, field: &F) {
        let end = self.at + size_of::<F::Raw>();
        self.bytes[self.at..end].copy_from_slice(bytemuck::bytes_of(&field.to_raw()));
        self.at = end;
    }

    #[inline(always)]
    pub fn into_bytes(self) -> [u8; N] {
        debug_assert_eq!(self.at, N, "each field once");
        self.bytes
    }
}

/// Takes the fields of a record again.
#[doc(hidden)]
pub struct RawReader<'a> {
    bytes: &'a [u8],
}

impl<'a> RawReader<'a> {
    #[inline(always)]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    #[inline(always)]
    pub fn take<F: FixedLayout>(&mut self) -> Option<F> {
        let (field, rest) = self.bytes.split_at_checked(size_of::<F::Raw>())?;
        self.bytes = rest;
        F::from_raw(bytemuck::try_pod_read_unaligned(field).ok()?)
    }
}
