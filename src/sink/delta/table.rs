//! A table as its log tells it, and how an entry gets into that log: each is put under the next
//! number if nobody else has, so of two writers one has to look again.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::actions::{Action, Add, MetaData, Protocol, Remove, parse, render};
use super::checkpoint;
use crate::host;
use crate::sink::SinkError;
use crate::sink::commit::claim::FilePlace;
use crate::terminal;

/// As often as other writers of such tables do it.
const ENTRIES_PER_CHECKPOINT: u64 = 10;
/// Where the log is.
const LOG: &str = "_delta_log";
/// What checkpoints are called behind their versions.
const CHECKPOINT: &str = ".checkpoint.parquet";
/// Where it stands which checkpoint is the newest.
const LAST_CHECKPOINT: &str = "_delta_log/_last_checkpoint";
/// What we can read and write. Higher versions have features that change what a file means.
const READER_VERSION: i32 = 1;
const WRITER_VERSION: i32 = 2;
/// For so long readers of older versions may want the files that were removed: a week.
const TOMBSTONE_MS: i64 = 7 * 24 * 3_600_000;

/// What the log says, up to some entry.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Table {
    pub(super) protocol: Option<Protocol>,
    pub(super) meta_data: Option<MetaData>,
    /// Versions of transactions, by application.
    pub(super) txns: BTreeMap<String, i64>,
    /// The files that belong to it, by their paths.
    pub(super) files: BTreeMap<String, Add>,
    /// Those that were removed not long ago.
    tombstones: BTreeMap<String, Remove>,
}

impl Table {
    fn apply(&mut self, action: Action) {
        self.protocol = action.protocol.or_else(|| self.protocol.take());
        self.meta_data = action.meta_data.or_else(|| self.meta_data.take());
        if let Some(txn) = action.txn {
            self.txns.insert(txn.app_id, txn.version);
        }
        if let Some(add) = action.add {
            self.tombstones.remove(&add.path);
            self.files.insert(add.path.clone(), add);
        }
        if let Some(remove) = action.remove {
            self.files.remove(&remove.path);
            self.tombstones.insert(remove.path.clone(), remove);
        }
    }

    /// All of it as the actions of a checkpoint.
    fn actions(&self, now_ms: i64) -> impl Iterator<Item = Action> {
        let txns = self.txns.iter().map(|(app, version)| {
            Action::from(super::actions::Txn {
                app_id: app.clone(),
                version: *version,
                last_updated: None,
            })
        });
        // The rows of a checkpoint change nothing.
        let adds = self.files.values().cloned().map(|add| {
            Action::from(Add {
                data_change: false,
                ..add
            })
        });
        let is_young = move |it: &&Remove| it.deletion_timestamp >= Some(now_ms - TOMBSTONE_MS);
        let removes = self.tombstones.values().filter(is_young).cloned();
        let removes = removes.map(|remove| {
            Action::from(Remove {
                data_change: false,
                ..remove
            })
        });
        let head = self.protocol.clone().map(Action::from).into_iter();
        head.chain(self.meta_data.clone().map(Action::from))
            .chain(txns)
            .chain(adds)
            .chain(removes)
    }
}

#[derive(Serialize, Deserialize)]
struct LastCheckpoint {
    version: u64,
    size: u64,
    /// Into how many files it is split; other writers may do that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    parts: Option<u64>,
}

/// The log of one table.
pub(super) struct TableLog {
    place: Box<dyn FilePlace + Send>,
    /// The place, for people.
    target: String,
    pub(super) table: Table,
    /// The number of the next entry.
    next: u64,
}

impl TableLog {
    /// Reads the whole log in `place`, which people call `target`.
    ///
    /// # Errors
    /// When it cannot be read, or is that of a table with features that we do not have.
    pub(super) fn open(
        place: Box<dyn FilePlace + Send>,
        target: String,
    ) -> Result<Self, SinkError> {
        let mut log = Self {
            place,
            target,
            table: Table::default(),
            next: 0,
        };
        log.read_checkpoint()?;
        log.catch_up()?;
        log.check_end()?;
        Ok(log)
    }

    /// Nothing stands behind what was taken for the end: a gap there would be filled, and no
    /// reader would see that.
    fn check_end(&mut self) -> Result<(), SinkError> {
        loop {
            let end = self.next;
            let names = self.names_from(end)?;
            let Some(behind) = names.iter().find(|name| version_of(name) >= Some(end)) else {
                return Ok(());
            };
            // It may have come just now, or the hint was older than what somebody has cleaned up.
            self.catch_up()?;
            if self.next == end {
                let whole = names.iter().rfind(|name| name.ends_with(CHECKPOINT));
                let Some(newest) = whole.and_then(|name| version_of(name)) else {
                    let what = format!("it is missing, and {behind} is there");
                    return Err(self.damaged(&entry_name(end), what));
                };
                self.read_from(newest)?;
                self.catch_up()?;
            }
        }
    }

    /// The files of the log whose versions are not below `version`, sorted.
    fn names_from(&mut self, version: u64) -> Result<Vec<String>, SinkError> {
        self.place.list_folder(LOG, &format!("{version:020}"))
    }

    /// The number of the last entry.
    pub(super) const fn version(&self) -> Option<u64> {
        self.next.checked_sub(1)
    }

    fn damaged(&self, name: &str, what: impl std::fmt::Display) -> SinkError {
        SinkError::Refused(format!(
            "{}: {name} cannot be read: {what}; restore it, or choose another place",
            self.target
        ))
    }

    fn read_checkpoint(&mut self) -> Result<(), SinkError> {
        self.newest_checkpoint()?
            .map_or(Ok(()), |version| self.read_from(version))
    }

    /// Takes the checkpoint of `version` for all that was before it.
    fn read_from(&mut self, version: u64) -> Result<(), SinkError> {
        let name = checkpoint_name(version);
        let bytes = self.place.read(&name)?;
        let bytes = bytes.ok_or_else(|| self.damaged(&name, "it is missing"))?;
        let actions = checkpoint::decode(bytes).map_err(|error| self.damaged(&name, error))?;
        self.table = Table::default();
        actions.into_iter().for_each(|it| self.table.apply(it));
        self.next = version + 1;
        Ok(())
    }

    /// The version of the checkpoint from which the log is read; `None`: from its beginning.
    fn newest_checkpoint(&mut self) -> Result<Option<u64>, SinkError> {
        if let Some(bytes) = self.place.read(LAST_CHECKPOINT)? {
            let last: LastCheckpoint = serde_json::from_slice(&bytes)
                .map_err(|error| self.damaged(LAST_CHECKPOINT, error))?;
            if last.parts.is_some() {
                return Err(self.split());
            }
            return Ok(Some(last.version));
        }
        // The hint may be missing, and then entries before a checkpoint may be as well.
        if self.place.read(&entry_name(0))?.is_some() {
            return Ok(None);
        }
        let names = self.names_from(0)?;
        let mut whole = names.iter().filter(|name| name.ends_with(CHECKPOINT));
        match whole.next_back() {
            Some(newest) => Ok(version_of(newest)),
            None if names.iter().any(|name| name.contains(".checkpoint.")) => Err(self.split()),
            None => Ok(None),
        }
    }

    fn split(&self) -> SinkError {
        SinkError::Refused(format!(
            "{}: its newest checkpoint is split into several files, as only other writers do it; \
             choose another place",
            self.target
        ))
    }

    /// Reads the entries that others have put meanwhile.
    ///
    /// # Errors
    /// As [`TableLog::open`].
    fn catch_up(&mut self) -> Result<(), SinkError> {
        loop {
            let name = entry_name(self.next);
            let Some(bytes) = self.place.read(&name)? else {
                break;
            };
            let actions = parse(&bytes).map_err(|error| self.damaged(&name, error))?;
            actions.into_iter().for_each(|it| self.table.apply(it));
            self.next += 1;
        }
        self.check_protocol()
    }

    fn check_protocol(&self) -> Result<(), SinkError> {
        match &self.table.protocol {
            Some(found)
                if found.min_reader_version > READER_VERSION
                    || found.min_writer_version > WRITER_VERSION =>
            {
                Err(SinkError::Refused(format!(
                    "{}: this Delta table asks for reader version {} and writer version {}, and \
                     {READER_VERSION} and {WRITER_VERSION} are what we have; choose another place",
                    self.target, found.min_reader_version, found.min_writer_version
                )))
            }
            _ => Ok(()),
        }
    }

    /// What the first entry of a table says of readers and writers.
    pub(super) const fn protocol() -> Protocol {
        Protocol {
            min_reader_version: READER_VERSION,
            min_writer_version: WRITER_VERSION,
        }
    }

    /// Puts an entry with these actions at the next number; `false`: somebody else's stands there,
    /// and has been read.
    ///
    /// An answer that was lost looks like somebody else's entry: whoever asks finds in the table
    /// what the own one says.
    ///
    /// # Errors
    /// When the place cannot be read or written.
    pub(super) fn append(&mut self, actions: &[Action]) -> Result<bool, SinkError> {
        let number = self.next;
        let is_new = self.place.put_new(&entry_name(number), &render(actions))?;
        self.catch_up()?;
        if is_new && number % ENTRIES_PER_CHECKPOINT == ENTRIES_PER_CHECKPOINT - 1 {
            // Readers go without it: the entry stands.
            if let Err(error) = self.write_checkpoint() {
                terminal::message(format_args!("{}: no checkpoint: {error}", self.target));
            }
        }
        Ok(is_new)
    }

    /// Of the table as it stands. Whoever else writes this checkpoint writes the same table.
    fn write_checkpoint(&mut self) -> Result<(), SinkError> {
        let Some(version) = self.version() else {
            return Ok(());
        };
        let actions = self.table.actions(host::wall_clock().0);
        let (bytes, size) = checkpoint::encode(actions).map_err(|error| SinkError::Write {
            target: self.target.clone(),
            reason: format!("checkpoint of version {version}: {error}"),
        })?;
        self.place.put_new(&checkpoint_name(version), &bytes)?;
        let last = LastCheckpoint {
            version,
            size,
            parts: None,
        };
        // Invariant: numbers are JSON.
        let last = serde_json::to_vec(&last).expect("numbers are JSON");
        self.place.replace(LAST_CHECKPOINT, &last)
    }
}

fn entry_name(number: u64) -> String {
    format!("_delta_log/{number:020}.json")
}

fn checkpoint_name(version: u64) -> String {
    format!("_delta_log/{version:020}{CHECKPOINT}")
}

/// The version of a file of the log with this name, be it an entry or a checkpoint.
fn version_of(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(CHECKPOINT).or(name.strip_suffix(".json"));
    digits?.parse().ok()
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::{Arc, Mutex};

    use super::super::actions::{Format, Txn};
    use super::*;

    /// Files in memory.
    #[derive(Clone, Default)]
    pub(in super::super) struct Memory(pub(in super::super) Arc<Mutex<BTreeMap<String, Vec<u8>>>>);

    impl FilePlace for Memory {
        fn read(&mut self, name: &str) -> Result<Option<Vec<u8>>, SinkError> {
            Ok(self.0.lock().unwrap().get(name).cloned())
        }
        fn put_new(&mut self, name: &str, bytes: &[u8]) -> Result<bool, SinkError> {
            let mut files = self.0.lock().unwrap();
            let is_new = !files.contains_key(name);
            files.entry(name.to_owned()).or_insert(bytes.to_vec());
            Ok(is_new)
        }
        fn replace(&mut self, name: &str, bytes: &[u8]) -> Result<(), SinkError> {
            self.0
                .lock()
                .unwrap()
                .insert(name.to_owned(), bytes.to_vec());
            Ok(())
        }
        fn list(&mut self) -> Result<Vec<String>, SinkError> {
            Ok(self.0.lock().unwrap().keys().cloned().collect())
        }
        fn list_folder(&mut self, folder: &str, from: &str) -> Result<Vec<String>, SinkError> {
            let within = format!("{folder}/");
            let files = self.0.lock().unwrap();
            let names = files.keys().filter_map(|name| name.strip_prefix(&within));
            Ok(names
                .filter(|name| *name >= from)
                .map(str::to_owned)
                .collect())
        }
        fn remove(&mut self, name: &str) -> Result<(), SinkError> {
            self.0.lock().unwrap().remove(name);
            Ok(())
        }
    }

    pub(in super::super) fn open(memory: &Memory) -> Result<TableLog, SinkError> {
        TableLog::open(Box::new(memory.clone()), "table".to_owned())
    }

    fn meta_data() -> MetaData {
        MetaData {
            id: "1".to_owned(),
            name: None,
            description: None,
            format: Format::default(),
            schema_string: "{}".to_owned(),
            partition_columns: Vec::new(),
            configuration: BTreeMap::new(),
            created_time: None,
        }
    }

    fn add(path: &str) -> Action {
        Add {
            path: path.to_owned(),
            partition_values: BTreeMap::new(),
            size: 1,
            modification_time: 2,
            data_change: true,
            stats: None,
            tags: None,
        }
        .into()
    }

    fn txn(version: i64) -> Action {
        Txn {
            app_id: "a".to_owned(),
            version,
            last_updated: None,
        }
        .into()
    }

    #[test]
    fn what_was_appended_is_there_with_and_without_checkpoints() {
        let memory = Memory::default();
        let mut log = open(&memory).unwrap();
        assert_eq!(log.version(), None);
        let head = [TableLog::protocol().into(), meta_data().into()];
        assert!(log.append(&head).unwrap());
        for version in 1..25 {
            let entry = [txn(version), add(&format!("{version}.parquet"))];
            assert!(log.append(&entry).unwrap());
        }
        let remove = Remove {
            path: "3.parquet".to_owned(),
            deletion_timestamp: Some(host::wall_clock().0),
            data_change: true,
        };
        log.append(&[remove.into()]).unwrap();
        let again = open(&memory).unwrap();
        assert_eq!(again.version(), Some(25));
        assert_eq!(again.table.txns["a"], 24);
        assert_eq!(again.table.files.len(), 23);
        assert_eq!(
            again.table.files.keys().collect::<Vec<_>>(),
            log.table.files.keys().collect::<Vec<_>>()
        );
        // Entries before the checkpoint may be cleaned up by others.
        let names: Vec<String> = memory.0.lock().unwrap().keys().cloned().collect();
        assert!(names.contains(&checkpoint_name(9)) && names.contains(&checkpoint_name(19)));
        for number in 0..20 {
            memory.0.lock().unwrap().remove(&entry_name(number));
        }
        let short = open(&memory).unwrap();
        assert_eq!(short.version(), Some(25));
        assert_eq!(short.table.files.len(), 23);
        assert_eq!(short.table.meta_data, again.table.meta_data);
        // So may the hint that says where the newest checkpoint is.
        memory.0.lock().unwrap().remove(LAST_CHECKPOINT);
        let found = open(&memory).unwrap();
        assert_eq!((found.version(), found.table), (Some(25), short.table));
        // It may also be older than what was cleaned up.
        let old = b"{\"version\":9,\"size\":1}".to_vec();
        memory
            .0
            .lock()
            .unwrap()
            .insert(LAST_CHECKPOINT.to_owned(), old);
        let found = open(&memory).unwrap();
        assert_eq!(found.version(), Some(25));
        assert_eq!(found.table.files.len(), 23);
        // A gap behind all checkpoints is one.
        let lost = memory.0.lock().unwrap().remove(&entry_name(22)).unwrap();
        let error = open(&memory).err().unwrap().to_string();
        assert!(error.contains("00000000000000000022.json"), "{error}");
        memory.0.lock().unwrap().insert(entry_name(22), lost);
        memory.0.lock().unwrap().remove(LAST_CHECKPOINT);
        // And no table begins in the middle of its log.
        memory
            .0
            .lock()
            .unwrap()
            .retain(|name, _| !name.contains(".checkpoint."));
        let error = open(&memory).err().unwrap().to_string();
        assert!(
            error.contains("00000000000000000000.json") && error.contains("is missing"),
            "{error}"
        );
    }

    #[test]
    fn of_two_writers_one_looks_again() {
        let memory = Memory::default();
        let (mut one, mut other) = (open(&memory).unwrap(), open(&memory).unwrap());
        assert!(one.append(&[txn(1)]).unwrap());
        assert!(!other.append(&[txn(5)]).unwrap());
        assert_eq!(other.table.txns["a"], 1);
        assert!(other.append(&[txn(5)]).unwrap());
        assert!(!one.append(&[txn(2)]).unwrap());
        assert_eq!(one.table, other.table);
    }

    #[test]
    fn a_table_with_unknown_features_or_damage_is_refused() {
        let memory = Memory::default();
        let protocol = Protocol {
            min_reader_version: 3,
            min_writer_version: 7,
        };
        open(&memory)
            .unwrap()
            .append(&[protocol.into()])
            .unwrap_err();
        let error = open(&memory).err().unwrap().to_string();
        assert!(error.contains("reader version 3"), "{error}");
        let memory = Memory::default();
        memory
            .0
            .lock()
            .unwrap()
            .insert(entry_name(0), b"{\"add\":7}".to_vec());
        let error = open(&memory).err().unwrap().to_string();
        assert!(error.contains("00000000000000000000.json"), "{error}");
    }
}
