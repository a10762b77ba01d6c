//! The versions of each key in time order, and the look-up as of a record's event time.
//!
//! Notation: a key has versions `(f_1, v_1), (f_2, v_2), ...` with `f_i <= f_{i+1}`; the row as of
//! `t` is the `v_i` with the largest `f_i <= t`. Of two versions with the same `f` the greater row
//! counts (a choice, but the same one on every worker).
//!
//! State: every version in the arrangement. Cost: one hash look-up, and a walk from the newest
//! version back.

use std::hash::Hash;

use hashbrown::HashMap;

use super::Version;
use crate::time::EventTime;

/// Which version of a row a record sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// The one that was valid at the record's event time.
    #[default]
    AsOf,
    /// The newest one that is known.
    Latest,
    /// The newest one of the first load; refreshes are ignored.
    Static,
}

/// See the module.
pub struct AsOfIndex<K, V> {
    policy: Policy,
    versions: HashMap<K, Vec<(Version<V>, i64)>, foldhash::fast::FixedState>,
}

impl<K: Eq + Hash, V: Ord> AsOfIndex<K, V> {
    /// Without any row.
    pub fn new(policy: Policy) -> Self {
        Self {
            policy,
            versions: HashMap::default(),
        }
    }

    /// How look-ups choose.
    pub const fn policy(&self) -> Policy {
        self.policy
    }

    /// Adds (`diff > 0`) or removes (`diff < 0`) a version.
    pub fn update(&mut self, key: K, version: Version<V>, diff: i64) {
        let versions = self.versions.entry(key).or_default();
        match versions.binary_search_by(|(other, _)| other.cmp(&version)) {
            Ok(at) => {
                versions[at].1 += diff;
                if versions[at].1 == 0 {
                    versions.remove(at);
                }
            }
            Err(at) => versions.insert(at, (version, diff)),
        }
    }

    /// The row that a record of time `time` sees.
    pub fn get(&self, key: &K, time: EventTime) -> Option<&V> {
        let versions = self.versions.get(key)?;
        let seen = match self.policy {
            Policy::AsOf => versions.iter().rev().find(|((from, _), _)| *from <= time)?,
            Policy::Latest | Policy::Static => versions.last()?,
        };
        seen.0.1.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON: EventTime = EventTime(12);

    fn index(policy: Policy) -> AsOfIndex<u8, &'static str> {
        let mut index = AsOfIndex::new(policy);
        index.update(1, (EventTime::MIN, Some("Ada")), 1);
        index.update(1, (NOON, Some("Ben")), 1);
        index.update(1, (EventTime(20), None), 1);
        index
    }

    #[test]
    fn a_record_sees_the_row_of_its_own_time() {
        let index = index(Policy::AsOf);
        assert_eq!(
            index.get(&1, EventTime(11)),
            Some(&"Ada"),
            "also when it arrives later"
        );
        assert_eq!(index.get(&1, NOON), Some(&"Ben"));
        assert_eq!(index.get(&1, EventTime(20)), None, "deleted");
        assert_eq!(index.get(&2, NOON), None);
    }

    #[test]
    fn the_latest_row_is_seen_by_all() {
        let mut index = index(Policy::Latest);
        assert_eq!(index.get(&1, EventTime(0)), None);
        index.update(1, (EventTime(20), None), -1);
        assert_eq!(index.get(&1, EventTime(0)), Some(&"Ben"));
    }

    #[test]
    fn a_withdrawn_version_is_as_if_it_had_never_been() {
        let mut index = index(Policy::AsOf);
        index.update(1, (NOON, Some("Ben")), -1);
        assert_eq!(index.get(&1, NOON), Some(&"Ada"));
    }
}
