//! Loads of dimension tables: stored before an epoch that uses them is logged, so that a replay
//! joins with the rows of that time.
//!
//! `dims/NUMBER-PREVIOUS`: a load and the one whose changes it goes on from. The numbers of a run's
//! loads begin with its own number, so that one which the log does not name is nobody's.

use std::collections::BTreeMap;

use super::frame::{self, Kind};
use super::{StateError, Storage};
use crate::join::refresh::StoredLoad;
use crate::sink::RunNumber;

const DIMS: &str = "dims/";

/// The number of the first load of `run`.
pub const fn first_number(run: RunNumber) -> u64 {
    run.0 << 32
}

/// Stores a load.
///
/// # Errors
/// When the storage fails.
pub fn store(storage: &dyn Storage, load: &StoredLoad) -> Result<(), StateError> {
    // Its own number for one that goes on from none.
    let previous = load.previous.unwrap_or(load.number);
    let name = format!("{DIMS}{:020}-{previous:020}", load.number);
    let mut bytes = frame::begin(Kind::Dimensions, load.bytes.len());
    bytes.extend_from_slice(&load.bytes);
    storage.put(&name, &frame::finish(bytes))?;
    Ok(())
}

/// The contents of the load with this number and of those that it goes on from, in their order.
///
/// # Errors
/// When the storage fails, or one of them is missing or damaged.
pub fn load_up_to(storage: &dyn Storage, number: u64) -> Result<Vec<Vec<u8>>, StateError> {
    let names = storage.list(DIMS)?;
    let numbers = |name: &String| {
        let (number, previous) = name.strip_prefix(DIMS)?.split_once('-')?;
        Some((number.parse().ok()?, (previous.parse().ok()?, name.clone())))
    };
    let loads: BTreeMap<u64, (u64, String)> = names.iter().filter_map(numbers).collect();
    let mut contents = Vec::new();
    let mut next = Some(number);
    while let Some(number) = next {
        let missing = || {
            let what = "the job needs this load of its dimension tables, and it is missing";
            StateError::inconsistent(storage, &format!("{DIMS}{number:020}"), what)
        };
        let (previous, name) = loads.get(&number).ok_or_else(missing)?;
        let bytes = storage.get(name)?.ok_or_else(missing)?;
        let payload = frame::payload(Kind::Dimensions, &bytes);
        let payload = payload.map_err(|problem| StateError::damaged(storage, name, problem))?;
        contents.push(payload.to_vec());
        next = Some(*previous).filter(|previous| *previous < number);
    }
    contents.reverse();
    Ok(contents)
}

#[cfg(test)]
mod tests {
    use super::super::MemoryStorage;
    use super::*;

    fn put(storage: &MemoryStorage, number: u64, previous: Option<u64>) {
        let bytes = number.to_string().into_bytes();
        let load = StoredLoad {
            number,
            previous,
            bytes,
        };
        store(storage, &load).unwrap();
    }

    #[test]
    fn a_load_comes_with_those_that_it_goes_on_from_and_no_others() {
        let storage = MemoryStorage::default();
        let (one, two) = (first_number(RunNumber(1)), first_number(RunNumber(2)));
        put(&storage, one, None);
        put(&storage, one + 1, Some(one));
        put(&storage, one + 2, Some(one + 1));
        // The log knew of one + 1 when run 2 began.
        put(&storage, two, Some(one + 1));
        let names: Vec<_> = load_up_to(&storage, two)
            .unwrap()
            .into_iter()
            .map(|bytes| String::from_utf8(bytes).unwrap().parse::<u64>().unwrap())
            .collect();
        assert_eq!(names, [one, one + 1, two]);
        let missing = load_up_to(&storage, two + 1).unwrap_err().to_string();
        assert!(missing.contains("missing"), "{missing}");
    }
}
