//! What `--to` would mean here: the sinks of the simulated targets.

use super::pipeline::{ITEMS, WINDOWS};
use super::world::{Kind, world};
use super::{files, lines, table, topic};
use crate::rules::{self, Rule};
use crate::sink::{Guarantee, JobContext, OutputSpec, Sink, SinkContext, SinkError, SinkFactory};
use crate::time::Shard;

/// The target of the sink with this number.
pub(super) struct Target {
    pub(super) sink: usize,
    pub(super) kind: Kind,
    /// The number of workers of the run, for the rule that is switched off.
    pub(super) workers: usize,
    /// How many shards a sink has.
    pub(super) count: u32,
    /// Drawn for the execution: each shard of a server has a thread of its own.
    pub(super) apart: bool,
}

impl Kind {
    /// The output that goes there.
    pub(super) const fn output(self) -> &'static str {
        match self {
            Self::RowTopic | Self::RowFiles => ITEMS,
            Self::Table | Self::Topic | Self::WindowFiles | Self::Lines => WINDOWS,
        }
    }
}

/// The targets of a run of so many workers.
pub(super) fn targets(workers: usize) -> Vec<Target> {
    let (kinds, count) = world(|world| (world.shape.sinks.clone(), world.shape.shards));
    let kinds = kinds.into_iter().enumerate();
    let target = |(sink, kind)| Target {
        sink,
        kind,
        workers,
        count,
        apart: count > 1 && workers == 1,
    };
    kinds.map(target).collect()
}

impl SinkFactory for Target {
    fn identity(&self) -> String {
        match self.kind {
            // Whose output it is, is marked under the name that its own factory gives it.
            Kind::WindowFiles | Kind::RowFiles => files::factory(self.count).identity(),
            kind => format!("{kind:?}-{}", self.sink),
        }
    }

    fn guarantee(&self) -> Guarantee {
        Guarantee::ExactlyOnce
    }

    fn shards(&self) -> u32 {
        match self.kind {
            Kind::Lines => 1,
            _ if !rules::on(Rule::Shards) => self.workers as u32,
            _ => self.count,
        }
    }

    fn check(&self, _: &OutputSpec) -> Result<String, SinkError> {
        Ok(String::new())
    }

    fn prepare(
        &self,
        output: &OutputSpec,
        _: u32,
        job: Option<&JobContext>,
    ) -> Result<(), SinkError> {
        match (self.kind, job) {
            (Kind::WindowFiles | Kind::RowFiles, Some(job)) => {
                files::prepare(self.sink, output, self.shards(), job)
            }
            _ => Ok(()),
        }
    }

    fn open(
        &self,
        output: &OutputSpec,
        shards: &[Shard],
        context: &SinkContext,
    ) -> Result<Box<dyn Sink>, SinkError> {
        let (sink, name, identity) = (self.sink, output.name, self.identity());
        match self.kind {
            Kind::Table => table::open(sink, name, &identity, shards, context),
            Kind::Topic | Kind::RowTopic => topic::open(sink, name, &identity, shards, context),
            Kind::WindowFiles | Kind::RowFiles => {
                files::open(sink, output, (self.shards(), shards), context)
            }
            Kind::Lines => lines::open(sink, output, &identity, context),
        }
    }

    fn rolls_files(&self) -> bool {
        matches!(self.kind, Kind::WindowFiles | Kind::RowFiles)
    }

    fn commits_shards_apart(&self, _: &SinkContext) -> bool {
        self.apart && matches!(self.kind, Kind::Table | Kind::Topic | Kind::RowTopic)
    }
}
