//! The pipelines that the binary knows: one line each.

use highwater::cli::registry::PipelineEntry;

use crate::cars::entry::CarsEntry;
use crate::factory::entry::FactoryEntry;
use crate::fleet::entry::FleetEntry;
use crate::turnstile::entry::TurnstileEntry;

/// All of them, in the order of `--help`.
pub static PIPELINES: &[&dyn PipelineEntry] =
    &[&CarsEntry, &FactoryEntry, &FleetEntry, &TurnstileEntry];
