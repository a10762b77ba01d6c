//! A folder or a bucket of files that appear whole. Staged files are real ones.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::machine::pause;
use super::world::world;
use crate::rules::{self, Rule};
use crate::sink::commit::claim::FilePlace;
use crate::sink::files::{FilesFactory, Format, Place, Store, taken};
use crate::sink::{OutputSpec, Sink, SinkContext, SinkError};
use crate::time::Shard;

/// What lies there.
#[derive(Default)]
pub(super) struct FilesWorld {
    pub(super) files: BTreeMap<String, Vec<u8>>,
    /// Everything that was ever published.
    pub(super) history: Vec<(String, Vec<u8>)>,
}

/// The place as a run sees it.
pub(super) struct SimulatedPlace {
    sink: usize,
    staging: PathBuf,
}

impl SimulatedPlace {
    fn with<T>(&self, step: impl FnOnce(&mut FilesWorld) -> T) -> T {
        pause();
        world(|world| step(world.files.get_mut(&self.sink).expect("these are files")))
    }
}

impl Store for SimulatedPlace {
    fn staging(&self) -> &Path {
        &self.staging
    }

    fn describe(&self) -> String {
        "simulated".to_owned()
    }

    fn publish(&mut self, staged: &Path, name: &str) -> Result<(), SinkError> {
        let bytes = std::fs::read(staged).map_err(|error| SinkError::io("staged", &error))?;
        let outcome = self.with(|place| match place.files.get(name) {
            Some(there) if *there == bytes => Ok(false),
            Some(_) if rules::on(Rule::PutIfAbsent) => Err(taken(name)),
            _ => {
                place.history.push((name.to_owned(), bytes.clone()));
                place.files.insert(name.to_owned(), bytes);
                Ok(true)
            }
        });
        world(|world| world.note(|| format!("publishes {name}: {outcome:?}")));
        outcome?;
        // One that is gone was removed by a newer run.
        let _ = std::fs::remove_file(staged);
        Ok(())
    }
}

impl FilePlace for SimulatedPlace {
    fn read(&mut self, name: &str) -> Result<Option<Vec<u8>>, SinkError> {
        Ok(self.with(|place| place.files.get(name).cloned()))
    }

    fn put_new(&mut self, name: &str, bytes: &[u8]) -> Result<bool, SinkError> {
        Ok(self.with(|place| {
            let is_new = !place.files.contains_key(name);
            if is_new {
                place.files.insert(name.to_owned(), bytes.to_vec());
            }
            is_new
        }))
    }

    fn replace(&mut self, name: &str, bytes: &[u8]) -> Result<(), SinkError> {
        self.with(|place| place.files.insert(name.to_owned(), bytes.to_vec()));
        Ok(())
    }

    fn list(&mut self) -> Result<Vec<String>, SinkError> {
        let is_data = |name: &&String| !name.starts_with(['.', '_']);
        Ok(self.with(|place| place.files.keys().filter(is_data).cloned().collect()))
    }

    fn list_folder(&mut self, folder: &str, from: &str) -> Result<Vec<String>, SinkError> {
        let within = format!("{folder}/");
        let in_it = |name: &String| {
            let rest = name.strip_prefix(&within)?;
            (!rest.contains('/') && rest >= from).then(|| rest.to_owned())
        };
        Ok(self.with(|place| place.files.keys().filter_map(in_it).collect()))
    }

    fn remove(&mut self, name: &str) -> Result<(), SinkError> {
        self.with(|place| place.files.remove(name));
        Ok(())
    }
}

/// What publishes files there.
pub(super) fn factory(shards: u32) -> FilesFactory {
    let place = Place::Folder(PathBuf::from("simulated"));
    FilesFactory::new(place, Format::Csv, shards, std::time::Duration::ZERO)
}

fn place(sink: usize) -> SimulatedPlace {
    let root = world(|world| world.staging.clone()).expect("a folder for staged files");
    let staging = root.join(sink.to_string());
    std::fs::create_dir_all(&staging).expect("staged files can be written");
    SimulatedPlace { sink, staging }
}

/// Claims the place with this number for the job.
pub(super) fn prepare(
    sink: usize,
    output: &OutputSpec,
    shards: u32,
    context: &crate::sink::JobContext,
) -> Result<(), SinkError> {
    factory(shards).claim_in(&mut place(sink), "simulated", output, context, false)
}

/// Opens a sink on the place with this number.
pub(super) fn open(
    sink: usize,
    output: &OutputSpec,
    shards: (u32, &[Shard]),
    context: &SinkContext,
) -> Result<Box<dyn Sink>, SinkError> {
    factory(shards.0).open_in(Box::new(place(sink)), output, shards.1, context)
}
