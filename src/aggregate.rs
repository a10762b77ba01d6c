//! A small algebra of aggregates: each is a commutative monoid over records, and tuples compose.
//!
//! `merge` is associative and commutative with `empty` as its unit, and `add` is `merge` with one
//! record, so that panes can be merged into windows and partial results of workers into one, in
//! any order, with the same bits. Float sums are exact for that reason: see [`Fixed`].
//!
//! ```
//! use highwater::aggregate::{Aggregate, count, count_if, max, mean};
//!
//! struct Sample { speed: f64 }
//! let speeds = (count(), max(|s: &Sample| Some(s.speed)), mean(|s: &Sample| Some(s.speed)));
//! let mut state = speeds.empty();
//! for speed in [10.0, 30.0] {
//!     speeds.add(&mut state, &Sample { speed });
//! }
//! assert_eq!(speeds.finish(&state), (2, Some(30.0), Some(20.0)));
//! ```

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::time::EventTime;
use crate::wire::FixedLayout;

/// A way to summarize records of type `R`.
pub trait Aggregate<R>: 'static {
    /// What is kept per window and key.
    type State: FixedLayout + Serialize + DeserializeOwned;
    /// What comes out.
    type Output: Clone + PartialEq + 'static;

    /// Of no record at all.
    fn empty(&self) -> Self::State;
    /// Takes one record in.
    fn add(&self, state: &mut Self::State, record: &R);
    /// Takes in what `other` has taken in.
    fn merge(&self, state: &mut Self::State, other: &Self::State);
    /// The result.
    fn finish(&self, state: &Self::State) -> Self::Output;
}

/// A float as an integer multiple of 2^-64, so that sums do not depend on their order.
///
/// Every float between 2^-12 and 2^30 in size is exact, smaller ones are cut towards zero at
/// 2^-64. Records with larger values belong to the dead letters ([`Fixed::fits`]); 2^33 of the
/// largest values can be summed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Fixed(i128);

impl Fixed {
    /// The largest magnitude that may be summed.
    pub const LIMIT: f64 = (1_u64 << 30) as f64;
    const ONE: f64 = 18_446_744_073_709_551_616.0;

    /// Whether `value` may be summed.
    pub fn fits(value: f64) -> bool {
        value.abs() <= Self::LIMIT
    }

    /// The fixed-point form of `value`.
    pub fn from_f64(value: f64) -> Self {
        debug_assert!(Self::fits(value), "{value} was to be rejected at decoding");
        Self((value * Self::ONE) as i128)
    }

    /// The nearest float.
    pub fn to_f64(self) -> f64 {
        self.0 as f64 / Self::ONE
    }

    /// The nearest float to this sum divided by `count`: rounded once.
    fn divided_by(self, count: u64) -> f64 {
        // Shifted to all 128 bits, the quotient has at least 64, and its lowest one may stand for
        // the remainder: the conversion then rounds as if it saw all digits.
        let sum = self.0.unsigned_abs();
        let shift = sum.leading_zeros().min(127);
        let (shifted, count) = (sum << shift, u128::from(count));
        let quotient = (shifted / count) | u128::from(shifted % count != 0);
        // 2^-(64 + shift), exactly.
        let unit = f64::from_bits((1023 - 64 - u64::from(shift)) << 52);
        let mean = quotient as f64 * unit;
        if self.0 < 0 { -mean } else { mean }
    }
}

crate::fixed_layout!(Fixed { 0 });

impl std::ops::AddAssign for Fixed {
    fn add_assign(&mut self, other: Self) {
        self.0 = self.0.wrapping_add(other.0);
    }
}

/// How many records.
#[derive(Clone, Copy, Debug)]
pub struct Count;

/// How many records.
pub const fn count() -> Count {
    Count
}

impl<R> Aggregate<R> for Count {
    type State = u64;
    type Output = u64;

    fn empty(&self) -> u64 {
        0
    }

    fn add(&self, state: &mut u64, _record: &R) {
        *state += 1;
    }

    fn merge(&self, state: &mut u64, other: &u64) {
        *state += other;
    }

    fn finish(&self, state: &u64) -> u64 {
        *state
    }
}

/// How many records satisfy a predicate.
#[derive(Clone, Copy, Debug)]
pub struct CountIf<F>(F);

/// How many records satisfy `predicate`.
pub const fn count_if<R, F: Fn(&R) -> bool>(predicate: F) -> CountIf<F> {
    CountIf(predicate)
}

impl<R, F: Fn(&R) -> bool + 'static> Aggregate<R> for CountIf<F> {
    type State = u64;
    type Output = u64;

    fn empty(&self) -> u64 {
        0
    }

    fn add(&self, state: &mut u64, record: &R) {
        *state += u64::from((self.0)(record));
    }

    fn merge(&self, state: &mut u64, other: &u64) {
        *state += other;
    }

    fn finish(&self, state: &u64) -> u64 {
        *state
    }
}

/// The sum of a whole number.
#[derive(Clone, Copy, Debug)]
pub struct SumInt<F>(F);

/// The sum of `value`. One that is too large for 64 bits is the largest or smallest number.
pub const fn sum_int<R, F: Fn(&R) -> i64>(value: F) -> SumInt<F> {
    SumInt(value)
}

impl<R, F: Fn(&R) -> i64 + 'static> Aggregate<R> for SumInt<F> {
    // Wide enough for 2^64 records, so that what does not fit in between comes right in the end.
    type State = i128;
    type Output = i64;

    fn empty(&self) -> i128 {
        0
    }

    fn add(&self, state: &mut i128, record: &R) {
        *state += i128::from((self.0)(record));
    }

    fn merge(&self, state: &mut i128, other: &i128) {
        *state += other;
    }

    fn finish(&self, state: &i128) -> i64 {
        (*state).clamp(i64::MIN.into(), i64::MAX.into()) as i64
    }
}

/// The sum of a float, without nulls; `None` when all are null.
#[derive(Clone, Copy, Debug)]
pub struct Sum<F>(F);

/// The sum of `value`, without nulls.
pub const fn sum<R, F: Fn(&R) -> Option<f64>>(value: F) -> Sum<F> {
    Sum(value)
}

/// The mean of a float, without nulls; `None` when all are null.
#[derive(Clone, Copy, Debug)]
pub struct Mean<F>(F);

/// The mean of `value`, without nulls.
pub const fn mean<R, F: Fn(&R) -> Option<f64>>(value: F) -> Mean<F> {
    Mean(value)
}

/// An exact sum and how many values are in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Total {
    sum: Fixed,
    count: u64,
}

crate::fixed_layout!(Total { sum, count });

impl Total {
    fn add(&mut self, value: Option<f64>) {
        if let Some(value) = value {
            self.sum += Fixed::from_f64(value);
            self.count += 1;
        }
    }

    fn merge(&mut self, other: &Self) {
        self.sum += other.sum;
        self.count += other.count;
    }
}

macro_rules! total {
    ($name:ident, $finish:expr) => {
        impl<R, F: Fn(&R) -> Option<f64> + 'static> Aggregate<R> for $name<F> {
            type State = Total;
            type Output = Option<f64>;

            fn empty(&self) -> Total {
                Total::default()
            }

            fn add(&self, state: &mut Total, record: &R) {
                state.add((self.0)(record));
            }

            fn merge(&self, state: &mut Total, other: &Total) {
                state.merge(other);
            }

            fn finish(&self, state: &Total) -> Option<f64> {
                let finish: fn(&Total) -> f64 = $finish;
                (state.count > 0).then(|| finish(state))
            }
        }
    };
}

total!(Sum, |total| total.sum.to_f64());
total!(Mean, |total| total.sum.divided_by(total.count));

/// The largest value, without nulls; `None` when all are null.
#[derive(Clone, Copy, Debug)]
pub struct Max<F>(F);

/// The largest `value`, without nulls.
pub const fn max<R, V, F: Fn(&R) -> Option<V>>(value: F) -> Max<F> {
    Max(value)
}

/// The smallest value, without nulls; `None` when all are null.
#[derive(Clone, Copy, Debug)]
pub struct Min<F>(F);

/// The smallest `value`, without nulls.
pub const fn min<R, V, F: Fn(&R) -> Option<V>>(value: F) -> Min<F> {
    Min(value)
}

/// A value that has extremes: a number that is not NaN.
pub trait Extreme: Copy + PartialOrd + FixedLayout + Serialize + DeserializeOwned {
    /// The one that stands for all values equal to it, so that it does not matter which of them
    /// was met first: 0.0 for -0.0.
    #[must_use]
    fn plain(self) -> Self {
        self
    }
}

impl Extreme for i32 {}
impl Extreme for i64 {}
impl Extreme for u32 {}
impl Extreme for u64 {}
impl Extreme for EventTime {}

impl Extreme for f32 {
    fn plain(self) -> Self {
        self + 0.0
    }
}

impl Extreme for f64 {
    fn plain(self) -> Self {
        self + 0.0
    }
}

macro_rules! extreme {
    ($name:ident, $better:tt) => {
        impl<R, V: Extreme, F: Fn(&R) -> Option<V> + 'static> Aggregate<R> for $name<F> {
            type State = Option<V>;
            type Output = Option<V>;

            fn empty(&self) -> Option<V> {
                None
            }

            fn add(&self, state: &mut Option<V>, record: &R) {
                Aggregate::<R>::merge(self, state, &(self.0)(record).map(V::plain));
            }

            fn merge(&self, state: &mut Option<V>, other: &Option<V>) {
                if let Some(other) = other
                    && state.is_none_or(|state| *other $better state)
                {
                    *state = Some(*other);
                }
            }

            fn finish(&self, state: &Option<V>) -> Option<V> {
                *state
            }
        }
    };
}

extreme!(Max, >);
extreme!(Min, <);

macro_rules! tuple {
    ($($part:ident $index:tt),+) => {
        impl<R, $($part: Aggregate<R>),+> Aggregate<R> for ($($part,)+) {
            type State = ($($part::State,)+);
            type Output = ($($part::Output,)+);

            fn empty(&self) -> Self::State {
                ($(self.$index.empty(),)+)
            }

            fn add(&self, state: &mut Self::State, record: &R) {
                $(self.$index.add(&mut state.$index, record);)+
            }

            fn merge(&self, state: &mut Self::State, other: &Self::State) {
                $(self.$index.merge(&mut state.$index, &other.$index);)+
            }

            fn finish(&self, state: &Self::State) -> Self::Output {
                ($(self.$index.finish(&state.$index),)+)
            }
        }
    };
}

tuple!(A 0);
tuple!(A 0, B 1);
tuple!(A 0, B 1, C 2);
tuple!(A 0, B 1, C 2, D 3);
tuple!(A 0, B 1, C 2, D 3, E 4);
tuple!(A 0, B 1, C 2, D 3, E 4, F 5);
tuple!(A 0, B 1, C 2, D 3, E 4, F 5, G 6);
tuple!(A 0, B 1, C 2, D 3, E 4, F 5, G 6, H 7);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn means_are_rounded_once() {
        let mean = |values: &[f64]| {
            let mut sum = Fixed::default();
            values
                .iter()
                .for_each(|value| sum += Fixed::from_f64(*value));
            sum.divided_by(values.len() as u64)
        };
        // Rounding the sum first gives 80.15799999999999.
        assert_eq!(mean(&[89.904, 70.069, 84.594, 78.727, 77.496]), 80.158);
        assert_eq!(mean(&[1.0, 1.0, 2.0]), 4.0 / 3.0);
        assert_eq!(mean(&[-1.0, -1.0, -2.0]), -4.0 / 3.0);
        assert_eq!(mean(&[-0.5, 0.5]), 0.0);
        assert_eq!(mean(&[Fixed::LIMIT, 0.0]), Fixed::LIMIT / 2.0);
    }

    #[test]
    fn whole_numbers_are_summed_beyond_64_bits() {
        let sums = sum_int(|value: &i64| *value);
        let of = |values: &[i64]| {
            let mut state = sums.empty();
            values.iter().for_each(|value| sums.add(&mut state, value));
            sums.finish(&state)
        };
        assert_eq!(of(&[]), 0);
        assert_eq!(of(&[i64::MAX, 7, -7, -1]), i64::MAX - 1);
        assert_eq!(of(&[i64::MAX, 7]), i64::MAX, "the largest there is");
        assert_eq!(of(&[i64::MIN, -7]), i64::MIN);
    }

    type Value = Option<f64>;

    fn all() -> impl Aggregate<Value, Output = (u64, u64, Value, Value, Value, Value)> {
        (
            count(),
            count_if(|v: &Value| v.is_some_and(|v| v > 0.0)),
            sum(|v: &Value| *v),
            mean(|v: &Value| *v),
            min(|v: &Value| *v),
            max(|v: &Value| *v),
        )
    }

    #[test]
    fn nulls_count_as_records_and_nothing_else() {
        let aggregate = all();
        let mut state = aggregate.empty();
        aggregate.add(&mut state, &None);
        assert_eq!(aggregate.finish(&state), (1, 0, None, None, None, None));
        aggregate.add(&mut state, &Some(-2.0));
        let two = Some(-2.0);
        assert_eq!(aggregate.finish(&state), (2, 0, two, two, two, two));
    }

    #[test]
    fn fixed_point_is_exact_for_telemetry() {
        for value in [
            0.0,
            -0.5,
            75.123_456_789,
            1e-3,
            -Fixed::LIMIT,
            f64::from_bits(1),
        ] {
            let back = Fixed::from_f64(value).to_f64();
            assert!(
                (back - value).abs() <= 5.5e-20,
                "{value} came back as {back}"
            );
        }
        assert!(!Fixed::fits(1e18) && !Fixed::fits(f64::NAN) && !Fixed::fits(f64::INFINITY));
    }

    proptest! {
        /// However the records are split and in whatever order the parts are merged: the same bits.
        #[test]
        fn merging_is_order_free(
            values in proptest::collection::vec(prop::option::of(-1e6_f64..1e6), 1..50),
            cuts in proptest::collection::vec(0_usize..5, 50),
        ) {
            let aggregate = all();
            let mut whole = aggregate.empty();
            values.iter().for_each(|value| aggregate.add(&mut whole, value));
            let mut parts = vec![aggregate.empty(); 5];
            for (value, part) in values.iter().zip(&cuts) {
                aggregate.add(&mut parts[*part], value);
            }
            let (mut forwards, mut backwards) = (aggregate.empty(), aggregate.empty());
            parts.iter().for_each(|part| aggregate.merge(&mut forwards, part));
            parts.iter().rev().for_each(|part| aggregate.merge(&mut backwards, part));
            prop_assert_eq!(aggregate.finish(&whole), aggregate.finish(&forwards));
            prop_assert_eq!(aggregate.finish(&whole), aggregate.finish(&backwards));
        }
    }
}
