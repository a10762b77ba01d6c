//! The hash that decides which shard a key belongs to.
//!
//! It is part of the format of state and output: FNV-1a over the key's bytes in little-endian
//! order, finished by `MurmurHash3`'s 64-bit mixer (FNV alone has weak high bits).

use std::hash::{Hash, Hasher};

use crate::time::Shard;

/// FNV-1a, 64 bits.
struct Fnv(u64);

impl Hasher for Fnv {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    fn finish(&self) -> u64 {
        let mut hash = self.0;
        hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
        hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
        hash ^ (hash >> 33)
    }
}

/// The hash of `key`: the same on every machine and in every version.
pub fn stable_hash<K: Hash>(key: &K) -> u64 {
    let mut hasher = Fnv(0xcbf2_9ce4_8422_2325);
    key.hash(&mut hasher);
    hasher.finish()
}

/// The shard of a keyed row among `shards`.
pub fn shard_of<K: Hash>(key: &K, shards: u32) -> Shard {
    Shard((stable_hash(key) % u64::from(shards)) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_part_of_the_format() {
        assert_eq!(stable_hash(&()), 0xefd0_1f60_ba99_2926);
        assert_eq!(stable_hash(&1_u64), stable_hash(&1_u64));
        let spread: std::collections::BTreeSet<_> = (0_u64..64).map(|k| shard_of(&k, 8)).collect();
        assert_eq!(spread.len(), 8);
    }
}
