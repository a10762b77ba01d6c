//! The random numbers of one event.
//!
//! Event `i` is a pure function of the seed and `i`, so that any partition, thread or process can
//! make it without making the events before it. The generator of event `i` is a `SplitMix64` whose
//! state begins at `mix(mix(seed ^ STREAM) + i)`, where `mix` is the finaliser of `SplitMix64`
//! itself (Stafford's variant 13) and `STREAM` separates the draws of a model from those of the
//! log around it. `mix` is a bijection: no two events of a seed and stream begin alike.
//!
//! Everything here is value-stable: integer arithmetic, exact float operations, and `libm` where a
//! transcendental function is needed. A change of any value breaks the golden tests of the models.

use rand_core::{RngCore, SeedableRng};
use rand_xoshiro::SplitMix64;

/// What the draws of an event are for; each stream is independent of the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// The values of the event.
    Values,
    /// When it is stamped, and whether it is repeated or followed by garbage.
    Log,
    /// What the garbage is.
    Garbage,
    /// Dimension rows, by row.
    Dims,
}

impl Stream {
    const fn constant(self) -> u64 {
        match self {
            Self::Values => 0,
            Self::Log => 0x6c6f_675f_6c6f_675f,
            Self::Garbage => 0x6761_7262_6167_655f,
            Self::Dims => 0x6469_6d73_6469_6d73,
        }
    }
}

/// The random numbers of one event; see the module.
#[derive(Clone, Debug)]
pub struct EventRng(SplitMix64);

impl EventRng {
    /// The generator of event (or row) `index`.
    pub fn new(seed: u64, index: u64, stream: Stream) -> Self {
        let start = mix(mix(seed ^ stream.constant()).wrapping_add(index));
        Self(SplitMix64::from_seed(start.to_le_bytes()))
    }

    /// 64 random bits.
    #[inline]
    pub fn bits(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// Uniform in [0, 1): a multiple of 2^-53.
    #[inline]
    pub fn unit(&mut self) -> f64 {
        const SCALE: f64 = 1.0 / (1_u64 << 53) as f64;
        (self.bits() >> 11) as f64 * SCALE
    }

    /// Uniform in 0..n by multiply and shift (Lemire); 0 when `n` is 0. A value is more likely
    /// than another by a factor of at most `1 + n / 2^64`.
    #[inline]
    pub fn below(&mut self, n: u64) -> u64 {
        ((u128::from(self.bits()) * u128::from(n)) >> 64) as u64
    }

    /// Uniform among `low..=high`, which must not be empty.
    #[inline]
    pub fn between(&mut self, low: i64, high: i64) -> i64 {
        debug_assert!(low <= high, "an empty range");
        low.wrapping_add(self.below((high.wrapping_sub(low) as u64).wrapping_add(1)) as i64)
    }

    /// True with probability `p`; always one draw, so that `p` does not shift later draws.
    #[inline]
    pub fn bernoulli(&mut self, p: f64) -> bool {
        self.unit() < p
    }

    /// Normal, by Box and Muller's transform of two draws (its second value is not used).
    pub fn normal(&mut self, mean: f64, deviation: f64) -> f64 {
        // 1 - unit() is in (0, 1]: the logarithm is finite.
        let radius = libm::sqrt(-2.0 * libm::log(1.0 - self.unit()));
        let angle = std::f64::consts::TAU * self.unit();
        mean + deviation * (radius * libm::cos(angle))
    }

    /// A UUID of version 4, from two draws.
    #[inline]
    pub fn uuid(&mut self) -> u128 {
        let high = self.bits() & 0xffff_ffff_ffff_0fff | 0x4000;
        let low = self.bits() & 0x3fff_ffff_ffff_ffff | 0x8000_0000_0000_0000;
        u128::from(high) << 64 | u128::from(low)
    }
}

/// The finaliser of `SplitMix64` (Stafford's variant 13), a bijection.
const fn mix(mut z: u64) -> u64 {
    z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Changing any of these changes every generated data set.
    #[test]
    fn values_are_stable() {
        let mut rng = EventRng::new(1, 0, Stream::Values);
        assert_eq!(rng.bits(), 12_793_040_940_332_582_595);
        assert_eq!(rng.unit().to_bits(), 0.971_766_839_855_231_3_f64.to_bits());
        assert_eq!(rng.below(1000), 426);
        assert_eq!(
            rng.normal(75.0, 4.0).to_bits(),
            70.415_670_536_078_03_f64.to_bits()
        );
        assert_eq!(rng.uuid(), 0xd869_e8a3_2c14_4e9e_93ca_f315_ad9b_f56e);
    }

    #[test]
    fn streams_and_events_differ() {
        let first = |seed, index, stream| EventRng::new(seed, index, stream).bits();
        let base = first(1, 0, Stream::Values);
        assert_ne!(base, first(2, 0, Stream::Values));
        assert_ne!(base, first(1, 1, Stream::Values));
        assert_ne!(base, first(1, 0, Stream::Log));
        assert_ne!(base, first(1, 0, Stream::Garbage));
    }

    #[test]
    fn ranges_are_kept_and_filled() {
        let mut rng = EventRng::new(7, 7, Stream::Values);
        let mut seen = [0_u32; 7];
        for _ in 0..7000 {
            seen[(rng.between(-3, 3) + 3) as usize] += 1;
            assert!((0.0..1.0).contains(&rng.unit()));
        }
        assert!(
            seen.iter().all(|count| (800..1200).contains(count)),
            "{seen:?}"
        );
        assert_eq!(rng.below(0), 0);
        // The whole range of i64 has 2^64 values: the width wraps to 0 and the draw to `low`.
        assert_eq!(rng.between(i64::MIN, i64::MAX), i64::MIN);
    }

    #[test]
    fn normal_values_have_their_mean_and_deviation() {
        let mut rng = EventRng::new(3, 0, Stream::Values);
        let values: Vec<f64> = (0..20_000).map(|_| rng.normal(75.0, 4.0)).collect();
        let mean = values.iter().sum::<f64>() / 20_000.0;
        let variance = values.iter().map(|v| (v - mean) * (v - mean)).sum::<f64>() / 20_000.0;
        assert!((mean - 75.0).abs() < 0.15, "{mean}");
        assert!((variance - 16.0).abs() < 0.8, "{variance}");
    }

    #[test]
    fn uuids_are_of_version_4() {
        let uuid = EventRng::new(1, 1, Stream::Values).uuid();
        assert_eq!(uuid >> 76 & 0xf, 4);
        assert_eq!(uuid >> 62 & 0b11, 0b10);
    }
}
