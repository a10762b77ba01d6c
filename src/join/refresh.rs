//! What has changed in dimension tables between two loads, and when it counts.
//!
//! A row with a `valid_from` of its own is taken as it stands. A row without one is valid from
//! always when it comes with the first load, and from the wall time of the load that found the
//! change otherwise (from the time of the change itself, where the place knows it); a key that
//! disappears has no row from that time on.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use super::{DimError, DimValue, Load, TableSource, Version};
use crate::time::EventTime;

/// The rows of all tables at one load: per key its rows, with their own `valid_from` if they have
/// one.
pub type Snapshot<K, V> = BTreeMap<K, BTreeSet<(Option<EventTime>, V)>>;

/// A change of the arrangement: a version of a key, added or withdrawn.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Change<K, V> {
    /// The key.
    pub key: K,
    /// The version.
    pub version: Version<V>,
    /// +1 or -1.
    pub diff: i64,
}

/// The changes of the first load.
pub fn first<K: DimValue, V: DimValue>(snapshot: &Snapshot<K, V>) -> Vec<Change<K, V>> {
    let rows = snapshot
        .iter()
        .flat_map(|(key, rows)| rows.iter().map(move |row| (key, row)));
    let change = |(key, (from, row)): (&K, &(Option<EventTime>, V))| Change {
        key: key.clone(),
        version: (from.unwrap_or(EventTime::MIN), Some(row.clone())),
        diff: 1,
    };
    rows.map(change).collect()
}

/// What has changed from `old` to `new`, which was loaded at wall time `now`.
pub fn between<K: DimValue, V: DimValue>(
    old: &Snapshot<K, V>,
    new: &Load<K, V>,
    now: EventTime,
) -> Vec<Change<K, V>> {
    let (times, new) = (&new.times, &new.rows);
    let none = BTreeSet::new();
    let mut changes = Vec::new();
    let keys: BTreeSet<&K> = old.keys().chain(new.keys()).collect();
    for key in keys {
        let (before, after) = (old.get(key).unwrap_or(&none), new.get(key).unwrap_or(&none));
        let now = times.get(key).copied().unwrap_or(now);
        let mut push = |version, diff| {
            changes.push(Change {
                key: key.clone(),
                version,
                diff,
            });
        };
        for (from, row) in before.difference(after) {
            if let Some(from) = from {
                push((*from, Some(row.clone())), -1);
            }
        }
        for (from, row) in after.difference(before) {
            push((from.unwrap_or(now), Some(row.clone())), 1);
        }
        let undated =
            |rows: &BTreeSet<(Option<EventTime>, V)>| rows.iter().any(|row| row.0.is_none());
        // A key whose rows have got times of their own has not disappeared.
        let is_dated = after
            .iter()
            .any(|(from, _)| from.is_some_and(|from| from <= now));
        if undated(before) && !undated(after) && !is_dated {
            push((now, None), 1);
        }
    }
    changes
}

/// The loads of a run, numbered from 0, shared by its workers.
pub struct DimStore<K, V>(Mutex<BTreeMap<u64, Arc<Vec<Change<K, V>>>>>);

impl<K, V> Default for DimStore<K, V> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K, V> DimStore<K, V> {
    /// Keeps the changes of load `number`.
    pub fn put(&self, number: u64, changes: Vec<Change<K, V>>) {
        self.lock().insert(number, Arc::new(changes));
    }

    /// The changes of the loads after `after` (all, with `None`) up to `number`.
    pub fn up_to(&self, after: Option<u64>, number: u64) -> Vec<Arc<Vec<Change<K, V>>>> {
        let first = after.map_or(0, |after| after + 1);
        self.lock()
            .range(first..=number)
            .map(|(_, changes)| Arc::clone(changes))
            .collect()
    }

    fn get(&self, number: u64) -> Option<Arc<Vec<Change<K, V>>>> {
        self.lock().get(&number).cloned()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, Arc<Vec<Change<K, V>>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Loads dimension tables for a run: once before it starts, and again while it goes on.
pub trait DimLoader: Send + Sync {
    /// Reads what the next [`DimLoader::first`] takes, before the number of that load is known.
    ///
    /// # Errors
    /// When a table is missing or wrong.
    fn read_ahead(&self) -> Result<(), DimError>;

    /// The first load of a job, with this number.
    ///
    /// # Errors
    /// When a table is missing or wrong, unless it was read ahead.
    fn first(&self, number: u64) -> Result<(), DimError>;

    /// Puts back the loads of earlier runs, as [`DimLoader::stored`] gave them, in their order;
    /// later ones get numbers from `next` on.
    ///
    /// # Errors
    /// When one of them cannot be read.
    fn restore(&self, loads: &[Vec<u8>], next: u64) -> Result<(), DimError>;

    /// The last load, for the state: its number, that of the load which it changes, and its
    /// contents.
    fn stored(&self) -> StoredLoad;

    /// What other processes of the run have to know of the last load: the changes, without the
    /// tables.
    fn told(&self) -> Vec<u8>;

    /// Takes what [`DimLoader::told`] gave in another process; the second time it changes nothing.
    ///
    /// # Errors
    /// When it cannot be read.
    fn hear(&self, told: &[u8]) -> Result<(), DimError>;

    /// Loads again, at wall time `now`; the number of the load if something has changed.
    ///
    /// # Errors
    /// When a table is missing or wrong: the rows known before stay in use.
    fn again(&self, now: EventTime) -> Result<Option<u64>, DimError>;

    /// Checks that the tables are there, in one line for people.
    ///
    /// # Errors
    /// When one is missing or wrong.
    fn check(&self) -> Result<String, DimError>;
}

/// A load as a state keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredLoad {
    /// Its number.
    pub number: u64,
    /// The load before it, whose changes it goes on from.
    pub previous: Option<u64>,
    /// Its contents.
    pub bytes: Vec<u8>,
}

/// What a state keeps of a load: what has changed, and what all tables were then.
type Contents<K, V> = (u64, Vec<Change<K, V>>, Snapshot<K, V>);

/// The last load.
struct Last<K, V> {
    number: u64,
    previous: Option<u64>,
    next: u64,
    snapshot: Snapshot<K, V>,
}

/// Tables of one source, loaded into a [`DimStore`].
pub struct StoreLoader<K, V> {
    source: Box<dyn TableSource<K, V>>,
    store: Arc<DimStore<K, V>>,
    last: Mutex<Last<K, V>>,
    /// What was read ahead.
    ahead: Mutex<Option<Snapshot<K, V>>>,
}

impl<K: DimValue, V: DimValue> StoreLoader<K, V> {
    /// A loader that has loaded nothing yet.
    pub fn new(source: Box<dyn TableSource<K, V>>) -> Self {
        Self {
            source,
            store: Arc::default(),
            last: Mutex::new(Last {
                number: 0,
                previous: None,
                next: 0,
                snapshot: Snapshot::new(),
            }),
            ahead: Mutex::new(None),
        }
    }

    fn last(&self) -> std::sync::MutexGuard<'_, Last<K, V>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ahead(&self) -> std::sync::MutexGuard<'_, Option<Snapshot<K, V>>> {
        self.ahead.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the loads go.
    pub fn store(&self) -> Arc<DimStore<K, V>> {
        Arc::clone(&self.store)
    }
}

impl<K: DimValue, V: DimValue> DimLoader for StoreLoader<K, V> {
    fn read_ahead(&self) -> Result<(), DimError> {
        let load = self.source.load(&Snapshot::new())?;
        *self.ahead() = Some(load.rows);
        Ok(())
    }

    fn first(&self, number: u64) -> Result<(), DimError> {
        let ahead = self.ahead().take();
        let read = || self.source.load(&Snapshot::new()).map(|load| load.rows);
        let snapshot = ahead.map_or_else(read, Ok)?;
        self.store.put(number, first(&snapshot));
        *self.last() = Last {
            number,
            previous: None,
            next: number + 1,
            snapshot,
        };
        Ok(())
    }

    fn restore(&self, loads: &[Vec<u8>], next: u64) -> Result<(), DimError> {
        *self.ahead() = None;
        let mut last = self.last();
        for load in loads {
            let read: Result<Contents<K, V>, _> = postcard::from_bytes(load);
            let (number, changes, snapshot) = read.map_err(|error| {
                DimError(format!(
                    "a stored load of the tables cannot be read: {error}"
                ))
            })?;
            self.store.put(number, changes);
            *last = Last {
                number,
                previous: None,
                next,
                snapshot,
            };
        }
        Ok(())
    }

    fn stored(&self) -> StoredLoad {
        let last = self.last();
        let number = last.number;
        let changes = self.store.get(number).unwrap_or_default();
        let contents = postcard::to_stdvec(&(number, &*changes, &last.snapshot));
        StoredLoad {
            number,
            previous: last.previous,
            // Invariant: keys and rows are plain data of known length; memory takes all of it.
            bytes: contents.expect("tables can be encoded"),
        }
    }

    fn told(&self) -> Vec<u8> {
        let number = self.last().number;
        let changes = self.store.get(number).unwrap_or_default();
        let contents = postcard::to_stdvec(&(number, &*changes));
        // Invariant: keys and rows are plain data of known length; memory takes all of it.
        contents.expect("changes can be encoded")
    }

    fn hear(&self, told: &[u8]) -> Result<(), DimError> {
        let read: Result<(u64, Vec<Change<K, V>>), _> = postcard::from_bytes(told);
        let (number, changes) = read.map_err(|error| {
            DimError(format!(
                "what process 0 says of the tables cannot be read: {error}"
            ))
        })?;
        self.store.put(number, changes);
        Ok(())
    }

    fn again(&self, now: EventTime) -> Result<Option<u64>, DimError> {
        // A place may take long to answer, and nobody else loads meanwhile.
        let known = self.last().snapshot.clone();
        let load = self.source.load(&known)?;
        let changes = between(&known, &load, now);
        let mut last = self.last();
        if changes.is_empty() {
            return Ok(None);
        }
        let number = last.next;
        self.store.put(number, changes);
        *last = Last {
            number,
            previous: Some(last.number),
            next: number + 1,
            snapshot: load.rows,
        };
        Ok(Some(number))
    }

    fn check(&self) -> Result<String, DimError> {
        let keys = self.source.load(&Snapshot::new())?.rows.len();
        Ok(format!("{}: {keys} keys", self.source.name()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(rows: &[(u8, Option<i64>, &str)]) -> Snapshot<u8, String> {
        let mut snapshot = Snapshot::new();
        for (key, from, row) in rows {
            let row = (from.map(EventTime), (*row).to_owned());
            snapshot.entry(*key).or_default().insert(row);
        }
        snapshot
    }

    fn changes(
        old: &[(u8, Option<i64>, &str)],
        new: &[(u8, Option<i64>, &str)],
    ) -> Vec<(u8, i64, String, i64)> {
        changes_at(old, new, &[])
    }

    fn changes_at(
        old: &[(u8, Option<i64>, &str)],
        new: &[(u8, Option<i64>, &str)],
        times: &[(u8, i64)],
    ) -> Vec<(u8, i64, String, i64)> {
        let times = times.iter().map(|(key, time)| (*key, EventTime(*time)));
        let new = Load {
            rows: snapshot(new),
            times: times.collect(),
        };
        between(&snapshot(old), &new, EventTime(99))
            .into_iter()
            .map(|c| {
                (
                    c.key,
                    c.version.0.0,
                    c.version.1.unwrap_or_default(),
                    c.diff,
                )
            })
            .collect()
    }

    #[test]
    fn undated_rows_change_at_the_time_of_the_load() {
        let old = [(1, None, "Ada"), (2, None, "Bob"), (3, None, "Cat")];
        let new = [(1, None, "Ann"), (2, None, "Bob")];
        let expected = [(1, 99, "Ann".to_owned(), 1), (3, 99, String::new(), 1)];
        assert_eq!(changes(&old, &new), expected);
        assert_eq!(first(&snapshot(&old))[0].version.0, EventTime::MIN);
    }

    #[test]
    fn dated_rows_are_taken_as_they_stand() {
        let old = [(1, Some(0), "Ada"), (1, Some(10), "Ben")];
        let new = [(1, Some(0), "Ada"), (1, Some(12), "Ben")];
        let expected = [(1, 10, "Ben".to_owned(), -1), (1, 12, "Ben".to_owned(), 1)];
        assert_eq!(changes(&old, &new), expected);
    }

    #[test]
    fn a_key_that_gets_times_of_its_own_does_not_disappear() {
        let (old, new) = ([(1, None, "Ada")], [(1, Some(5), "Ada")]);
        assert_eq!(changes(&old, &new), [(1, 5, "Ada".to_owned(), 1)]);
    }

    #[test]
    fn a_place_that_knows_when_a_row_changed_says_so() {
        let old = [(1, None, "Ada"), (2, None, "Bob"), (3, None, "Cat")];
        let new = [(1, None, "Ann"), (2, None, "Ben")];
        let expected = [
            (1, 50, "Ann".to_owned(), 1),
            (2, 99, "Ben".to_owned(), 1),
            (3, 60, String::new(), 1),
        ];
        assert_eq!(changes_at(&old, &new, &[(1, 50), (3, 60)]), expected);
    }

    /// Gives one load after the other.
    struct Loads(Mutex<Vec<Snapshot<u8, String>>>);

    impl TableSource<u8, String> for Loads {
        fn load(&self, _: &Snapshot<u8, String>) -> Result<Load<u8, String>, DimError> {
            let rows = self.0.lock().expect("whole").remove(0);
            Ok(Load {
                rows,
                ..Load::default()
            })
        }

        fn name(&self) -> String {
            "a test".to_owned()
        }
    }

    #[test]
    fn other_processes_are_told_what_has_changed_and_not_all_rows() {
        let many: Vec<_> = (0..100).map(|key| (key, None, "a row")).collect();
        let mut more = many.clone();
        more.push((200, None, "one more"));
        let loads = [snapshot(&many), snapshot(&more)];
        let here = StoreLoader::new(Box::new(Loads(Mutex::new(loads.into()))));
        here.first(7).expect("loads");
        assert_eq!(here.again(EventTime(5)).expect("loads"), Some(8));
        let told = here.told();
        assert!(told.len() < 20, "{}", told.len());
        let there = StoreLoader::new(Box::new(Loads(Mutex::default())));
        there.restore(&[here.stored().bytes], 0).expect("whole");
        there.hear(&told).expect("whole");
        there
            .hear(&told)
            .expect("the second time it changes nothing");
        let heard = there.store().up_to(Some(7), 8);
        assert_eq!(heard, here.store().up_to(Some(7), 8));
        assert_eq!(heard[0].len(), 1);
        assert!(there.hear(b"").is_err());
    }

    #[test]
    fn nothing_changes_when_nothing_has_changed() {
        let rows = [(1, Some(0), "Ada"), (2, None, "Bob")];
        assert!(changes(&rows, &rows).is_empty());
    }
}
