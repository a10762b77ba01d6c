//! Everything outside the runs: input, storage, databases, brokers, files. It survives every run,
//! and it remembers all that could ever be seen in it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::PathBuf;

use super::chance::Chance;
use super::files::FilesWorld;
use super::lines::LinesWorld;
use super::table::TableWorld;
use super::topic::TopicWorld;
use crate::source::Partition;
use crate::state::log::{object_name, object_number};
use crate::state::{LogItem, LogObject};
use crate::time::PartitionId;

/// A record of the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Item {
    pub(super) time: i64,
    pub(super) key: u8,
    pub(super) value: i64,
}

/// What kind of target a sink writes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Table,
    Topic,
    RowTopic,
    WindowFiles,
    RowFiles,
    Lines,
}

const KINDS: [Kind; 6] = [
    Kind::Table,
    Kind::Topic,
    Kind::RowTopic,
    Kind::WindowFiles,
    Kind::RowFiles,
    Kind::Lines,
];

/// What is fixed for an execution.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    pub(super) size: i64,
    pub(super) slide: i64,
    pub(super) wait: i64,
    pub(super) grain: i64,
    pub(super) keep: i64,
    pub(super) shards: u32,
    pub(super) keys: u8,
    pub(super) sinks: Vec<Kind>,
    pub(super) closes_on_idle: bool,
    /// How readily a silent partition is called idle.
    pub(super) idling: f64,
    pub(super) idle_after_ms: u64,
    pub(super) alignment: i64,
    /// How often a request or its answer is lost.
    pub(super) loss: f64,
    /// How often storage cannot be reached for good, which ends a run.
    pub(super) outage: f64,
    pub(super) epoch_ms: u64,
    pub(super) checkpoint_ms: u64,
    /// How far the clock may move with a step.
    pub(super) pace_us: usize,
    /// 0: none; 1: all; 2: for a while.
    pub(super) history: usize,
}

impl Shape {
    fn draw(chance: &mut Chance) -> Self {
        let size = chance.of(&[40, 60, 100]);
        let mut kinds = KINDS.to_vec();
        let sinks = (0..chance.between(1, 3))
            .map(|_| kinds.swap_remove(chance.below(kinds.len())))
            .collect();
        Self {
            size,
            slide: chance.of(&[size, size, size, size / 2]),
            wait: chance.of(&[0, 20, 50]),
            grain: chance.of(&[1, 10, 30]),
            keep: chance.of(&[0, 0, 30, 80]),
            shards: chance.of(&[1, 2, 3]),
            keys: chance.of(&[1, 2, 4]),
            sinks,
            closes_on_idle: chance.is(0.2),
            idling: chance.of(&[0.0, 0.3, 0.8]),
            idle_after_ms: chance.of(&[0, 5]),
            alignment: chance.of(&[100_000, 100_000, 150]),
            loss: chance.of(&[0.0, 0.1, 0.3]),
            outage: chance.of(&[0.0, 0.0, 0.001]),
            epoch_ms: chance.of(&[1, 5, 20]),
            checkpoint_ms: chance.of(&[1, 15, 60]),
            pace_us: chance.of(&[20, 100, 400]),
            history: chance.below(3),
        }
    }
}

/// See the module.
pub(super) struct World {
    pub(super) chance: Chance,
    pub(super) shape: Shape,
    pub(super) input: Vec<Vec<Item>>,
    /// How many records of each partition are there.
    pub(super) available: Vec<usize>,
    /// Which partitions can be found.
    pub(super) found: Vec<bool>,
    pub(super) objects: BTreeMap<String, Vec<u8>>,
    /// A hash of what was put under each other name than those of the log.
    pub(super) named: BTreeMap<String, u64>,
    /// How often storage could not be reached.
    pub(super) outages: u32,
    /// All that was ever put at each number of the log.
    pub(super) log: BTreeMap<u64, Vec<LogObject>>,
    pub(super) tables: BTreeMap<usize, TableWorld>,
    pub(super) topics: BTreeMap<usize, TopicWorld>,
    pub(super) files: BTreeMap<usize, FilesWorld>,
    pub(super) lines: BTreeMap<usize, LinesWorld>,
    /// Where files are staged.
    pub(super) staging: Option<PathBuf>,
    /// What has become visible, and what has happened; `None`: nobody asks.
    pub(super) trace: Option<Vec<String>>,
    /// The first thing that was against a rule when it happened.
    pub(super) flaw: Option<String>,
}

thread_local! {
    static WORLD: RefCell<Option<World>> = const { RefCell::new(None) };
}

/// Looks at the world of this execution, or changes it: one atomic step.
pub(super) fn world<T>(step: impl FnOnce(&mut World) -> T) -> T {
    WORLD.with_borrow_mut(|world| step(world.as_mut().expect("an execution is going on")))
}

/// Puts a world in place of the one before.
pub(super) fn set_world(world: Option<World>) -> Option<World> {
    WORLD.replace(world)
}

impl World {
    pub(super) fn new(seed: u64, traces: bool) -> Self {
        let mut chance = Chance::new(seed);
        let shape = Shape::draw(&mut chance);
        let input = draw_input(&mut chance, shape.keys);
        let available = input
            .iter()
            .map(|part| chance.below(part.len() + 1))
            .collect();
        let found = (0..input.len())
            .map(|partition| partition == 0 || chance.is(0.7))
            .collect();
        let mut world = Self {
            chance,
            shape,
            input,
            available,
            found,
            objects: BTreeMap::new(),
            named: BTreeMap::new(),
            outages: 0,
            log: BTreeMap::new(),
            tables: BTreeMap::new(),
            topics: BTreeMap::new(),
            files: BTreeMap::new(),
            lines: BTreeMap::new(),
            staging: None,
            trace: traces.then(Vec::new),
            flaw: None,
        };
        for (index, kind) in world.shape.sinks.clone().into_iter().enumerate() {
            match kind {
                Kind::Table => drop(world.tables.insert(index, TableWorld::default())),
                Kind::Topic | Kind::RowTopic => {
                    world.topics.insert(index, TopicWorld::default());
                }
                Kind::WindowFiles | Kind::RowFiles => {
                    world.files.insert(index, FilesWorld::default());
                }
                Kind::Lines => drop(world.lines.insert(index, LinesWorld::default())),
            }
        }
        let (shape, input) = (format!("{:?}", world.shape), format!("{:?}", world.input));
        world.note(|| format!("{shape}\ninput {input}"));
        world
    }

    pub(super) fn note(&mut self, what: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            trace.push(what());
        }
    }

    /// Something is against the rules.
    pub(super) fn flaw(&mut self, what: String) {
        self.note(|| format!("FLAW {what}"));
        self.flaw.get_or_insert(what);
    }

    /// Whether a request is lost on the way there, and whether its answer is.
    pub(super) fn losses(&mut self) -> (bool, bool) {
        let (part, loss) = (self.chance.part(), self.shape.loss);
        (part < loss, part > 1.0 - loss)
    }

    /// The object of the log with the highest number, which is of the newest run.
    pub(super) fn newest(&self) -> Option<LogObject> {
        let numbers = self.objects.keys().filter_map(|name| object_number(name));
        let bytes = &self.objects[&object_name(numbers.max()?)];
        LogObject::parse(bytes).ok()
    }

    /// Whether all input is read, committed and declared complete.
    pub(super) fn is_drained(&self) -> bool {
        let items = self.log.values().flatten().flat_map(|object| &object.items);
        let mut manifests = items.filter_map(|item| match item {
            LogItem::Manifest(manifest) => Some(manifest),
            _ => None,
        });
        manifests
            .next_back()
            .is_some_and(|manifest| manifest.is_drained)
    }

    /// The partitions that can be found now.
    pub(super) fn partitions(&self) -> Vec<Partition> {
        let found = self.found.iter().enumerate().filter(|(_, found)| **found);
        let partition = |(id, _): (usize, &bool)| Partition {
            id: PartitionId(id as u32),
            name: format!("p{id}"),
        };
        found.map(partition).collect()
    }

    /// Whether the input is complete and all of it can be found.
    pub(super) fn is_complete(&self) -> bool {
        let all = self.input.iter().zip(&self.available);
        self.found.iter().all(|found| *found) && all.into_iter().all(|(a, b)| a.len() == *b)
    }

    /// Producers append, partitions are found.
    pub(super) fn environment(&mut self) {
        let partition = self.chance.below(self.input.len());
        if self.found[partition] && self.available[partition] < self.input[partition].len() {
            self.available[partition] += 1;
        } else if self.chance.is(0.2) {
            self.found[partition] = true;
        }
    }
}

fn draw_input(chance: &mut Chance, keys: u8) -> Vec<Vec<Item>> {
    let partitions = chance.between(2, 4) as usize;
    let records = chance.between(10, 60);
    let mut input = vec![Vec::new(); partitions];
    for at in 0..records {
        let slow = if chance.is(0.8) {
            0
        } else {
            chance.between(0, 150)
        };
        let partition = chance.below(partitions);
        input[partition].push(Item {
            time: 10 * at + chance.between(-30, 30) - slow,
            key: chance.below(usize::from(keys)) as u8,
            value: chance.between(1, 9),
        });
    }
    input
}
