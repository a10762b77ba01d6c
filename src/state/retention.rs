//! What of a state may be deleted, and when.
//!
//! Once a manifest is durable:
//!
//! * Log objects below it all of whose epochs (of entries and of manifests) are before its own go,
//!   after they were copied into the [history] where that is wanted. Never those
//!   with a takeover, never the newest job record, never the object with the highest number, which
//!   is the manifest's own or one above it.
//! * Checkpoint objects go that the run's own manifest before had named, unless this one or a base
//!   names them too; and, once per run, those of earlier runs that neither names: left over from a
//!   checkpoint that was never finished.
//! * With `--history DURATION` a manifest is kept as a base once in a while, at most two at a time:
//!   the older one is dropped, with the history before the younger one, when the younger one has
//!   the wanted age. With `all` the first base stays, which is the job's beginning in a job that
//!   has kept all its history.
//! * What an earlier job has left goes when the first manifest of the newest one is durable.
//!
//! [`log_fate`], [`next_bases`] and [`needless`] decide; [`Retention`] carries it out, one step of
//! the storage at a time, and may end at any of them: the next run deletes what is left.

use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::sync::Arc;

use super::checkpoint::{CHECKPOINT, parse_name};
use super::history::{self, BASE, BaseName, ChunkName, HISTORY, Objects};
use super::log::{LogItem, LogObject, object_name};
use super::manifest::{Manifest, ObjectRef};
use super::{Put, StateError, Storage};
use crate::rules::{self, Rule};
use crate::sink::{JobId, RunNumber};
use crate::time::{Epoch, EventTime, Span, parse_duration};

/// A chunk of history holds at most this many log objects.
const CHUNK: usize = 1000;

/// For how long epochs are kept for a replay, `--history`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum History {
    /// For good.
    All,
    /// For at least so long.
    For(Span),
    /// Not at all.
    None,
}

impl History {
    /// `all`, `none` or a duration.
    ///
    /// # Errors
    /// When the text is none of these.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text {
            "all" => Ok(Self::All),
            "none" => Ok(Self::None),
            _ => match parse_duration(text) {
                Ok(span) if span > Span::ZERO => Ok(Self::For(span)),
                _ => Err(format!(
                    "{text:?} is neither all, none nor a time such as 7d"
                )),
            },
        }
    }
}

impl fmt::Display for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.pad("all"),
            Self::None => f.pad("none"),
            Self::For(span) => span.fmt(f),
        }
    }
}

/// A manifest that is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Named {
    /// Its epoch.
    pub epoch: Epoch,
    /// The number of its object in the log.
    pub number: u64,
    /// The number of the newest job record.
    pub job_at: u64,
}

/// What becomes of a log object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFate {
    /// It is never deleted.
    Forever,
    /// A restart needs it, or nothing can be said yet.
    Later,
    /// It goes, into the history if there is one.
    Past,
    /// It goes: another job has left it.
    Foreign,
}

/// What becomes of the log object with this number now that a manifest is durable.
pub fn log_fate(number: u64, object: &LogObject, named: &Named) -> LogFate {
    let epoch = |item: &LogItem| match item {
        LogItem::Epoch(entry) => Some(entry.epoch),
        LogItem::Manifest(manifest) => Some(manifest.epoch),
        LogItem::Takeover(_) | LogItem::Job(_) => None,
    };
    let last = object.items.iter().filter_map(epoch).max();
    match () {
        () if number == named.job_at => LogFate::Forever,
        () if object.is_takeover() && rules::on(Rule::TakeoverKept) => LogFate::Forever,
        () if number >= named.number => LogFate::Later,
        () if number < named.job_at => LogFate::Foreign,
        () if last >= Some(named.epoch) => LogFate::Later,
        () => LogFate::Past,
    }
}

/// What happens to the bases at a manifest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BaseChange {
    /// Whether the manifest becomes one.
    pub pin: bool,
    /// How many of the oldest are dropped.
    pub drop: usize,
}

/// What happens to the bases, of which the times are given in order, at a manifest of the time
/// `now`.
pub fn next_bases(bases: &[EventTime], now: EventTime, history: History) -> BaseChange {
    let age = |at: EventTime| Span(now.0.saturating_sub(at.0));
    match history {
        History::None => BaseChange {
            pin: false,
            drop: bases.len(),
        },
        History::All => BaseChange {
            pin: bases.is_empty(),
            drop: 0,
        },
        History::For(span) => {
            let old = bases.iter().filter(|at| age(**at) >= span).count();
            BaseChange {
                pin: old == bases.len(),
                drop: old.saturating_sub(1),
            }
        }
    }
}

/// The names of `candidates` that are not needed by any of `chains`.
pub fn needless<'o>(
    candidates: impl IntoIterator<Item = &'o str>,
    chains: &[&[ObjectRef]],
) -> Vec<String> {
    let needed: BTreeSet<&str> = chains
        .iter()
        .flat_map(|chain| chain.iter())
        .map(|object| object.name.as_str())
        .collect();
    let candidates: BTreeSet<&str> = candidates.into_iter().collect();
    let needless = candidates.difference(&needed);
    needless.map(|name| (*name).to_owned()).collect()
}

/// What a run knows of its job when it starts.
pub(super) struct Own {
    pub(super) job: JobId,
    pub(super) opened_at: EventTime,
    pub(super) job_at: u64,
    pub(super) run: RunNumber,
    /// The numbers in the log.
    pub(super) numbers: Vec<u64>,
    /// The objects of the manifest that the run goes on from.
    pub(super) chain: Vec<ObjectRef>,
}

/// Where a replay can start, with the time from which on it then has everything.
struct Base {
    /// `None`: the job's beginning.
    name: Option<BaseName>,
    at: EventTime,
    chain: Vec<ObjectRef>,
}

enum Step {
    /// Find out what history there is.
    Learn,
    /// A manifest is durable.
    Named(Box<Manifest>, u64),
    /// Keep a manifest as a base.
    Pin(Box<Manifest>),
    /// Look at a log object.
    Look(u64, Named),
    /// Copy what was gathered into the history, then delete it.
    Archive,
    /// Find what earlier runs and jobs have left.
    Sweep,
    Delete(String),
}

/// Deletes what is no longer needed, step by step.
pub struct Retention {
    storage: Arc<dyn Storage>,
    history: History,
    own: Own,
    /// The numbers in the log of which more is to be said than "forever".
    numbers: BTreeSet<u64>,
    /// The highest number known.
    top: Option<u64>,
    bases: Vec<Base>,
    chunks: Vec<ChunkName>,
    gathered: Objects,
    steps: VecDeque<Step>,
    has_swept: bool,
}

impl Retention {
    pub(super) fn new(storage: Arc<dyn Storage>, history: History, mut own: Own) -> Self {
        let numbers: BTreeSet<u64> = std::mem::take(&mut own.numbers).into_iter().collect();
        Self {
            storage,
            history,
            own,
            top: numbers.last().copied(),
            numbers,
            bases: Vec::new(),
            chunks: Vec::new(),
            gathered: Objects::new(),
            steps: VecDeque::from([Step::Learn]),
            has_swept: false,
        }
    }

    /// A manifest of this run is durable, in the log object with this number.
    pub fn named(&mut self, manifest: Manifest, number: u64) {
        self.steps
            .push_back(Step::Named(Box::new(manifest), number));
    }

    /// Does one thing; `false`: there is nothing to do until the next manifest.
    ///
    /// # Errors
    /// When the storage fails, or what it reads is damaged. The step is not done then, and may be
    /// tried again.
    pub fn step(&mut self) -> Result<bool, StateError> {
        let Some(step) = self.steps.front() else {
            return Ok(false);
        };
        match step {
            Step::Learn => self.learn()?,
            Step::Named(..) => {
                if let Some(Step::Named(manifest, number)) = self.steps.pop_front() {
                    self.plan(*manifest, number);
                }
                return Ok(true);
            }
            Step::Pin(manifest) => {
                let name = BaseName::of(self.own.job, manifest).object_name();
                self.storage.put(&name, &history::encode_base(manifest))?;
            }
            Step::Look(number, named) => self.look(*number, *named)?,
            Step::Archive => self.archive()?,
            Step::Sweep => self.sweep()?,
            Step::Delete(name) => self.storage.delete(name)?,
        }
        self.steps.pop_front();
        Ok(true)
    }

    fn learn(&mut self) -> Result<(), StateError> {
        let (storage, job) = (&*self.storage, self.own.job);
        let chunks = history::chunks(storage, job)?;
        let first = match chunks.first() {
            Some(chunk) => Some(chunk.first),
            None => self.first_in_log()?,
        };
        let mut bases = Vec::new();
        // Without any epoch so far the job has just begun.
        if first.is_none_or(|first| first == Epoch(0)) {
            bases.push(Base {
                name: None,
                at: self.own.opened_at,
                chain: Vec::new(),
            });
        }
        for name in history::bases(storage, job)? {
            if let Some(manifest) = history::read_base(storage, &name.object_name())? {
                bases.push(Base {
                    name: Some(name),
                    at: name.at,
                    chain: manifest.objects,
                });
            }
        }
        (self.bases, self.chunks) = (bases, chunks);
        Ok(())
    }

    /// The first epoch of the job that is in the log.
    fn first_in_log(&self) -> Result<Option<Epoch>, StateError> {
        for number in self.numbers.range(self.own.job_at..) {
            let object = LogObject::read(&*self.storage, *number)?;
            let mut items = object.into_iter().flat_map(|object| object.items);
            let epoch = items.find_map(|item| match item {
                LogItem::Epoch(entry) => Some(entry.epoch),
                _ => None,
            });
            if epoch.is_some() {
                return Ok(epoch);
            }
        }
        Ok(None)
    }

    fn plan(&mut self, manifest: Manifest, number: u64) {
        let named = Named {
            epoch: manifest.epoch,
            number,
            job_at: self.own.job_at,
        };
        let next = self.top.map_or(0, |top| top + 1);
        self.numbers.extend(next..=number);
        self.top = self.top.max(Some(number));
        let mut candidates = std::mem::replace(&mut self.own.chain, manifest.objects.clone());
        candidates.extend(self.change_bases(manifest));
        let looks = self.numbers.range(..number);
        self.steps
            .extend(looks.map(|number| Step::Look(*number, named)));
        self.steps.push_back(Step::Archive);
        let names = candidates.iter().map(|object| object.name.as_str());
        let names = needless(names, &self.chains());
        self.steps.extend(names.into_iter().map(Step::Delete));
        self.forget_chunks();
        if !self.has_swept {
            self.has_swept = true;
            self.steps.push_back(Step::Sweep);
        }
    }

    /// Pins and drops bases; the objects of the dropped ones.
    fn change_bases(&mut self, manifest: Manifest) -> Vec<ObjectRef> {
        let at: Vec<_> = self.bases.iter().map(|base| base.at).collect();
        let change = next_bases(&at, manifest.opened_at, self.history);
        let name = BaseName::of(self.own.job, &manifest);
        // A run that had to go on from an older checkpoint comes by an epoch a second time.
        let is_one = self.bases.iter().any(|base| base.name == Some(name));
        if change.pin && !is_one {
            self.bases.push(Base {
                name: Some(name),
                at: name.at,
                chain: manifest.objects.clone(),
            });
            self.steps.push_back(Step::Pin(Box::new(manifest)));
        }
        let mut objects = Vec::new();
        for base in self.bases.drain(..change.drop) {
            let name = base.name.map(|name| name.object_name());
            self.steps.extend(name.map(Step::Delete));
            objects.extend(base.chain);
        }
        objects
    }

    /// The chains that are needed: that of the newest manifest and those of the bases.
    fn chains(&self) -> Vec<&[ObjectRef]> {
        let bases = self.bases.iter().map(|base| base.chain.as_slice());
        bases.chain([self.own.chain.as_slice()]).collect()
    }

    /// Deletes the chunks before the oldest base.
    fn forget_chunks(&mut self) {
        let oldest = self.bases.first().map(|base| base.name);
        self.chunks.retain(|chunk| {
            let is_needed = match oldest {
                None => false,
                Some(None) => true,
                Some(Some(base)) => chunk.last > base.epoch,
            };
            if !is_needed {
                self.steps.push_back(Step::Delete(chunk.object_name()));
            }
            is_needed
        });
    }

    fn look(&mut self, number: u64, named: Named) -> Result<(), StateError> {
        // Where manifests come faster than they are dealt with, it was looked at for an earlier one.
        if !self.numbers.contains(&number) {
            return Ok(());
        }
        let Some(object) = LogObject::read(&*self.storage, number)? else {
            self.numbers.remove(&number);
            return Ok(());
        };
        match log_fate(number, &object, &named) {
            LogFate::Later => return Ok(()),
            LogFate::Forever => {}
            LogFate::Past if self.history != History::None => {
                self.gathered.insert(number, object);
                if self.gathered.len() >= CHUNK {
                    self.archive()?;
                }
            }
            LogFate::Past | LogFate::Foreign => {
                self.steps.push_back(Step::Delete(object_name(number)));
            }
        }
        self.numbers.remove(&number);
        Ok(())
    }

    fn archive(&mut self) -> Result<(), StateError> {
        // Objects without an epoch (a manifest alone) wait for one that has.
        while let Some(name) = ChunkName::of(self.own.job, &self.gathered) {
            let (chunk, bytes) = (name.object_name(), history::encode_chunk(&self.gathered));
            let copied = match self.storage.put(&chunk, &bytes)? {
                Put::Written => self.gathered.clone(),
                // A run has ended between copying and deleting. It may have copied less: a manifest
                // that has come since does not show in the name.
                Put::Exists => history::read_chunk(&*self.storage, &chunk)?.unwrap_or_default(),
            };
            let (done, left) = std::mem::take(&mut self.gathered)
                .into_iter()
                .partition::<Objects, _>(|(number, object)| copied.get(number) == Some(object));
            self.gathered = left;
            if done.is_empty() {
                break;
            }
            if !self.chunks.contains(&name) {
                self.chunks.push(name);
            }
            let numbers = done.into_keys();
            self.steps
                .extend(numbers.map(|number| Step::Delete(object_name(number))));
        }
        Ok(())
    }

    fn sweep(&mut self) -> Result<(), StateError> {
        let (storage, run) = (&*self.storage, self.own.run);
        let names = storage.list(CHECKPOINT)?;
        let earlier = names
            .iter()
            .map(String::as_str)
            .filter(|name| parse_name(name).is_some_and(|(_, other, _)| other < run));
        let mut left = needless(earlier, &self.chains());
        for place in [HISTORY, BASE] {
            let own = format!("{place}{}/", self.own.job);
            let names = storage.list(place)?.into_iter();
            left.extend(names.filter(|name| !name.starts_with(&own)));
        }
        self.steps.extend(left.into_iter().map(Step::Delete));
        Ok(())
    }
}

#[cfg(test)]
pub(super) mod tests;
