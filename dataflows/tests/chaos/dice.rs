//! Chance that can be repeated.

use std::ops::Range;

/// The seed of all scenarios of this run.
pub fn base_seed() -> u64 {
    number("HIGHWATER_CHAOS_SEED").unwrap_or(1)
}

/// Whether everything is tried, and not only some of it.
pub fn is_long() -> bool {
    number("HIGHWATER_CHAOS_KILLS").is_some()
}

/// A number from the environment.
pub fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    let number = text.parse();
    Some(number.unwrap_or_else(|_| panic!("{variable} is {text:?}, and no number")))
}

/// Draws numbers: `SplitMix64`, as Steele, Lea and Flood have it.
pub struct Dice(u64);

impl Dice {
    /// Those of a scenario.
    pub fn of(scenario: &str, seed: u64) -> Self {
        // FNV-1a.
        let hash = scenario
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
            });
        Self(hash ^ seed.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    /// Any number.
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number of this range, which is not empty.
    pub fn within(&mut self, range: Range<u64>) -> u64 {
        range.start + self.roll() % (range.end - range.start)
    }

    /// Some of them, in their order: all in the long form, `few` in the short one.
    pub fn some<'a>(&mut self, few: usize, of: &[&'a str]) -> Vec<&'a str> {
        let mut left = of.to_vec();
        while !is_long() && left.len() > few {
            let at = self.within(0..left.len() as u64) as usize;
            left.remove(at);
        }
        left
    }
}
