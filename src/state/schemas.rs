//! Schemas of messages, as the registry had them when they were met: a job that goes on reads what
//! it has read before without asking again.
//!
//! `schemas/ID-HASH`: a schema under the id that frames name. Where one id has several (the folder
//! has held jobs of different registries), none of them is believed.

use std::collections::BTreeMap;

use twox_hash::XxHash3_64;

use super::frame::{self, Kind};
use super::{StateError, Storage};

/// What the names of all of them begin with.
pub const SCHEMAS: &str = "schemas/";

/// Keeps a schema.
///
/// # Errors
/// When the storage fails.
pub fn store(storage: &dyn Storage, id: u32, schema: &[u8]) -> Result<(), StateError> {
    let hash = XxHash3_64::oneshot(schema);
    let mut bytes = frame::begin(Kind::Schema, schema.len());
    bytes.extend_from_slice(schema);
    storage.put(
        &format!("{SCHEMAS}{id:010}-{hash:016x}"),
        &frame::finish(bytes),
    )?;
    Ok(())
}

/// What was kept, by id.
///
/// # Errors
/// When the storage fails, or an object is damaged.
pub fn load(storage: &dyn Storage) -> Result<BTreeMap<u32, Vec<u8>>, StateError> {
    let mut found: BTreeMap<u32, Vec<Vec<u8>>> = BTreeMap::new();
    for name in storage.list(SCHEMAS)? {
        let number = name
            .strip_prefix(SCHEMAS)
            .and_then(|name| name.split_once('-'));
        let Some(id) = number.and_then(|(id, _)| id.parse().ok()) else {
            continue;
        };
        let Some(bytes) = storage.get(&name)? else {
            continue;
        };
        let payload = frame::payload(Kind::Schema, &bytes);
        let payload = payload.map_err(|problem| StateError::damaged(storage, &name, problem))?;
        found.entry(id).or_default().push(payload.to_vec());
    }
    let clear = found.into_iter().filter(|(_, schemas)| schemas.len() == 1);
    Ok(clear
        .filter_map(|(id, mut schemas)| Some((id, schemas.pop()?)))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::super::MemoryStorage;
    use super::*;

    #[test]
    fn an_id_with_two_schemas_is_not_believed() {
        let storage = MemoryStorage::default();
        for (id, schema) in [(1, "one"), (2, "two"), (1, "one"), (2, "another")] {
            store(&storage, id, schema.as_bytes()).unwrap();
        }
        let loaded = load(&storage).unwrap();
        assert_eq!(loaded, BTreeMap::from([(1, b"one".to_vec())]));
    }

    #[test]
    fn a_damaged_schema_is_refused_by_name() {
        let storage = MemoryStorage::default();
        storage.put("schemas/0000000001-00", b"torn").unwrap();
        let error = load(&storage).unwrap_err().to_string();
        assert!(error.contains("schemas/0000000001-00"), "{error}");
    }
}
