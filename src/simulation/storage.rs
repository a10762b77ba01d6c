//! The state's storage: requests and answers get lost, and requests are repeated.

use std::hash::{DefaultHasher, Hash, Hasher};

use super::machine::pause;
use super::world::{World, world};
use crate::rules::{self, Rule};
use crate::state::history::HISTORY;
use crate::state::log::object_number;
use crate::state::{LogObject, Put, Storage, StorageError};

/// The storage as a run sees it.
pub(super) struct SimulatedStorage;

/// Lets others go first; then the storage may be out of reach, for longer than a run waits.
fn reach() -> Result<(), StorageError> {
    pause();
    if world(World::has_outage) {
        return Err(StorageError::Unreachable {
            target: "simulated".to_owned(),
            reason: "an outage".to_owned(),
        });
    }
    Ok(())
}

impl Storage for SimulatedStorage {
    fn name(&self) -> String {
        "simulated".to_owned()
    }

    fn put(&self, name: &str, bytes: &[u8]) -> Result<Put, StorageError> {
        loop {
            reach()?;
            let (request_lost, answer_lost) = world(World::losses);
            if request_lost {
                continue;
            }
            let put = world(|world| world.put(name, bytes));
            if !answer_lost {
                return Ok(put);
            }
        }
    }

    fn get(&self, name: &str) -> Result<Option<Vec<u8>>, StorageError> {
        reach()?;
        Ok(world(|world| world.objects.get(name).cloned()))
    }

    fn list(&self, prefix: &str) -> Result<Vec<String>, StorageError> {
        reach()?;
        Ok(world(|world| {
            let names = world.objects.range(prefix.to_owned()..);
            let names = names.map(|(name, _)| name);
            names
                .take_while(|name| name.starts_with(prefix))
                .cloned()
                .collect()
        }))
    }

    fn delete(&self, name: &str) -> Result<(), StorageError> {
        reach()?;
        world(|world| {
            if world.objects.remove(name).is_some() {
                world.note(|| format!("deleted {name}"));
            }
        });
        Ok(())
    }
}

impl World {
    fn has_outage(&mut self) -> bool {
        let is_out = self.chance.is(self.shape.outage);
        self.outages += u32::from(is_out);
        is_out
    }

    fn put(&mut self, name: &str, bytes: &[u8]) -> Put {
        if object_number(name).is_none() && !name.starts_with(HISTORY) {
            self.named_once(name, bytes);
        }
        if self.objects.contains_key(name) && rules::on(Rule::PutIfAbsent) {
            return Put::Exists;
        }
        self.objects.insert(name.to_owned(), bytes.to_vec());
        if let Some(number) = object_number(name) {
            self.logged(number, bytes);
        } else {
            self.note(|| format!("put {name}, {} bytes", bytes.len()));
        }
        Put::Written
    }

    /// But for the log's numbers, at which runs compete, and chunks of history, which may hold more
    /// or fewer of the objects between the same epochs, a name stands for the same bytes for ever.
    fn named_once(&mut self, name: &str, bytes: &[u8]) {
        let mut hasher = DefaultHasher::new();
        bytes.hash(&mut hasher);
        let hash = hasher.finish();
        let before = *self.named.entry(name.to_owned()).or_insert(hash);
        if before != hash {
            self.flaw(format!("{name} is put with other bytes than before"));
        }
    }

    /// Remembers what was ever put at each number: the same again is a repetition of a request
    /// whose object has meanwhile been deleted.
    fn logged(&mut self, number: u64, bytes: &[u8]) {
        let object = match LogObject::parse(bytes) {
            Ok(object) => object,
            Err(error) => return self.flaw(format!("log object {number}: {error}")),
        };
        let before = self.log.entry(number).or_default();
        if !before.contains(&object) {
            before.push(object.clone());
        }
        self.note(|| super::trace::object(number, &object));
    }
}
