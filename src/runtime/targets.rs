//! What a run asks of the targets of its outputs before it begins.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::RunError;
use super::execute::RunOptions;
use crate::sink::{JobContext, OutputSpec, SinkError, SinkFactory, explained, sink_id};

/// The sinks of each output, by its name.
pub type Sinks = BTreeMap<String, Vec<Arc<dyn SinkFactory>>>;

/// Checks the names of the outputs.
pub fn outputs_with_sinks(options: &RunOptions, outputs: &[OutputSpec]) -> Result<Sinks, RunError> {
    let mut sinks = Sinks::new();
    for (name, factory) in &options.sinks {
        if !outputs.iter().any(|output| output.name == name) {
            let names: Vec<_> = outputs.iter().map(|output| output.name).collect();
            return Err(RunError::Usage(format!(
                "{} has no output {name:?} here; its outputs are {}",
                options.pipeline.name(),
                names.join(", ")
            )));
        }
        sinks
            .entry(name.clone())
            .or_default()
            .push(Arc::clone(factory));
    }
    Ok(sinks)
}

/// Has each output's targets do `step`.
fn each_target(
    outputs: &[OutputSpec],
    sinks: &Sinks,
    mut step: impl FnMut(&OutputSpec, &dyn SinkFactory) -> Result<(), SinkError>,
) -> Result<(), RunError> {
    for output in outputs {
        for factory in sinks.get(output.name).into_iter().flatten() {
            step(output, &**factory).map_err(|error| RunError::Sink {
                output: output.name,
                error,
            })?;
        }
    }
    Ok(())
}

/// Makes what is missing in the targets.
pub fn prepare_sinks(
    outputs: &[OutputSpec],
    sinks: &Sinks,
    partitions: usize,
    job: Option<&JobContext>,
) -> Result<(), RunError> {
    each_target(outputs, sinks, |output, factory| {
        let prepared = factory.prepare(output, partitions as u32, job);
        prepared.map_err(|error| explained(error, job))
    })
}

/// Makes what only this process or its host lacks: process 0 has prepared the targets.
pub fn prepare_follower(
    outputs: &[OutputSpec],
    sinks: &Sinks,
    partitions: u32,
) -> Result<(), RunError> {
    each_target(outputs, sinks, |output, factory| {
        factory.prepare_follower(output, partitions)
    })
}

/// Whether `job` may have those of its outputs that it has not begun.
pub fn check_free(outputs: &[OutputSpec], sinks: &Sinks, job: &JobContext) -> Result<(), RunError> {
    each_target(outputs, sinks, |output, factory| {
        let sink = sink_id(output.name, &factory.identity());
        if job.mark(&sink).is_some() {
            Ok(())
        } else if job.replace_output {
            factory.check_replaceable(output, job)
        } else {
            factory.check_free(output, job)
        }
    })
}

/// Into how many shards each sink is split, by its id.
pub fn shards_of(sinks: &Sinks) -> BTreeMap<String, u32> {
    let each = sinks.iter().flat_map(|(output, factories)| {
        let id = |factory: &Arc<dyn SinkFactory>| sink_id(output, &factory.identity());
        factories
            .iter()
            .map(move |factory| (id(factory), factory.shards()))
    });
    each.collect()
}
