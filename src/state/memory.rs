//! State in memory: for tests, and for simulations of many runs in one process.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::storage::{Put, Storage, StorageError, check_name};

/// A map of objects.
#[derive(Debug, Default)]
pub struct MemoryStorage(Mutex<BTreeMap<String, Vec<u8>>>);

impl MemoryStorage {
    /// The objects, to look at or to damage.
    pub fn objects(&self) -> MutexGuard<'_, BTreeMap<String, Vec<u8>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Storage for MemoryStorage {
    fn name(&self) -> String {
        "memory".to_owned()
    }

    fn put(&self, name: &str, bytes: &[u8]) -> Result<Put, StorageError> {
        check_name(name)?;
        let mut objects = self.objects();
        if objects.contains_key(name) {
            return Ok(Put::Exists);
        }
        objects.insert(name.to_owned(), bytes.to_vec());
        Ok(Put::Written)
    }

    fn get(&self, name: &str) -> Result<Option<Vec<u8>>, StorageError> {
        Ok(self.objects().get(name).cloned())
    }

    fn list(&self, prefix: &str) -> Result<Vec<String>, StorageError> {
        let objects = self.objects();
        let names = objects.keys().filter(|name| name.starts_with(prefix));
        Ok(names.cloned().collect())
    }

    fn delete(&self, name: &str) -> Result<(), StorageError> {
        self.objects().remove(name);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_map_keeps_the_promises_of_storage() {
        crate::state::storage::tests::keeps_its_promises(&super::MemoryStorage::default());
    }
}
