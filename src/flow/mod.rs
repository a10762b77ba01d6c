//! The operators of a pipeline: from blocks of records to windows and outputs.
//!
//! A pipeline gets a [`Flow`] and writes down its graph: [`Flow::source`] gives [`Blocks`], which
//! are filtered, mapped, enriched and finally windowed; outputs go to whatever sinks the run has
//! for their names. The closures here only wire ports and capabilities; the logic is in `window`,
//! `join`, `runtime::ingest` and the rest.

pub use self::block::{Block, Record};
pub use self::blocks::Blocks;
pub use self::context::{Flow, FlowOptions, RunShared, WorkerContext};
pub use self::enrich::{Catalog, DimStream, Enriched, Unmatched};
pub use self::keep::{Keep, Part, Restored};
pub use self::settle::{Deduplicated, Holdable};
pub use self::tally::Tally;
pub use self::windows::{Key, WindowRow, Windows};

mod block;
mod blocks;
mod context;
mod enrich;
mod keep;
mod output;
mod settle;
mod source;
mod tally;
mod windows;
