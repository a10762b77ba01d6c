//! Turnstile: entries and exits of subway turnstiles, summed per turnstile and window.
//!
//! ```text
//! mta-turnstile ──> once ──┬──────────────────────────────────────────> sums ──> windows
//!                    │     │ (--counters cumulative)                      ^
//!                    │     └──> with the one before ──┬──> plausible ─────┘
//!                    │                                └──> implausible ──> quarantine (by reason)
//!                    └──> late
//! ```

use highwater::aggregate::{Aggregate, sum_int};
use highwater::flow::{Blocks, Flow, WindowRow};
use highwater::runtime::Pipeline;
use highwater::sink::Layout;
use highwater::time::{Span, Zone};

use self::counter::{Delta, Quarantined};
use self::event::{Group, Passage, Reading};
use self::sums::{KEY, Sums};

pub mod counter;
pub mod entry;
pub mod event;
pub mod line;
pub mod model;
pub mod sums;

/// The reading before one counts when it is at most so much older; a turnstile that has been silent
/// for longer begins anew.
const LONGEST_SILENCE: Span = Span::minutes(31 * 24 * 60);

/// What the counters of a reading say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Counters {
    /// How many have passed since the reading before.
    #[default]
    Delta,
    /// How many have passed since the counter was last reset.
    Cumulative,
}

/// The pipeline with its options.
#[derive(Clone, Debug, Default)]
pub struct Turnstile {
    /// What the counters say.
    pub counters: Counters,
    /// Whose clocks the readings are from, and the column `TIME` shows.
    pub zone: Zone,
}

impl Pipeline for Turnstile {
    fn name(&self) -> &'static str {
        "turnstile"
    }

    fn main_output(&self) -> &'static str {
        "windows"
    }

    fn build(&self, flow: &mut Flow<'_>) {
        let readings = flow.source(event::decode);
        let once = readings.deduplicate(Reading::identity);
        let passages = match self.counters {
            Counters::Delta => once.records.map("Passage", Passage::of),
            Counters::Cumulative => deltas(flow, once.records),
        };

        let windows = passages.window(|passage| passage.group, summary);
        let zone = self.zone.clone();
        let row = move |row: WindowRow<'_, Group, (i64, i64)>| Sums::of(row, &zone);
        flow.windows_output("windows", Layout::Flat, KEY, &windows, row);
        flow.late_output(once.late);
    }
}

/// What has passed since the reading before; what cannot be goes to quarantine.
fn deltas<'s>(flow: &Flow<'s>, readings: Blocks<'s, Reading>) -> Blocks<'s, Passage> {
    let pairs = readings.lag(|reading| reading.group.turnstile(), LONGEST_SILENCE);
    let deltas = pairs
        .select("Follows", |pair| pair.previous.is_some())
        .map("Delta", Delta::of);

    let implausible = deltas
        .clone()
        .select("Implausible", |delta| delta.fault().is_some());
    let quarantine = implausible.map("Quarantine", |delta| Quarantined(*delta));
    flow.records_output("quarantine", Layout::Value("reason"), quarantine);

    let plausible = deltas.select("Plausible", |delta| delta.fault().is_none());
    plausible.map("Passage", Delta::passage)
}

/// Entries and exits.
fn summary() -> impl Aggregate<Passage, Output = (i64, i64)> {
    (
        sum_int(|passage: &Passage| passage.entries),
        sum_int(|passage: &Passage| passage.exits),
    )
}
