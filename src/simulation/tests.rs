//! Executions in numbers, and what must be found in them.
//!
//! `HIGHWATER_SIMULATIONS` is how many (3000), `HIGHWATER_SIMULATION_SEED` the first seed (1),
//! `HIGHWATER_SIMULATION_OFF` a rule that is switched off. `dev/simulate` runs the long form.

use super::execution::{Report, execute};
use super::rules;
use crate::rules::Rule;

/// How many executions a rule may take that is switched off, until one of them fails.
const PATIENCE: u64 = 10_000;

/// A number in the environment.
fn setting(name: &str, default: u64) -> u64 {
    let text = std::env::var(name).unwrap_or_default();
    text.parse().unwrap_or(default)
}

/// The rule that is to be switched off, by its name.
fn rule_off() -> Vec<Rule> {
    let name = std::env::var("HIGHWATER_SIMULATION_OFF").unwrap_or_default();
    let rule = Rule::ALL.iter().find(|rule| format!("{rule:?}") == name);
    assert!(
        rule.is_some() || name.is_empty(),
        "there is no rule {name}: {:?}",
        Rule::ALL
    );
    rule.copied().into_iter().collect()
}

/// Ends the test with the story of an execution that has failed.
fn tell(seed: u64, flaw: &str) -> ! {
    let trace = execute(seed, true).trace.join("\n");
    let off = match rule_off().first() {
        Some(rule) => format!(" HIGHWATER_SIMULATION_OFF={rule:?}"),
        None => String::new(),
    };
    panic!(
        "{trace}\n{flaw}\nagain: HIGHWATER_SIMULATION_SEED={seed} HIGHWATER_SIMULATIONS=1{off} \
         cargo test --profile dev-fast -p highwater --lib simulation::tests::random"
    );
}

#[test]
fn random_executions_keep_what_is_promised() {
    let count = setting("HIGHWATER_SIMULATIONS", 3000);
    let first = setting("HIGHWATER_SIMULATION_SEED", 1);
    rules::switch_off(&rule_off());
    let begun = std::time::Instant::now();
    let mut steps = 0;
    for seed in first..first + count {
        let report = execute(seed, false);
        steps += report.steps;
        if let Some(flaw) = report.flaw {
            tell(seed, &flaw);
        }
    }
    let took = begun.elapsed().as_secs_f64();
    println!("{count} executions, {steps} steps, 0 failures, {took:.1} s");
}

#[test]
fn a_seed_is_an_execution() {
    for seed in 1..=20 {
        let [once, again]: [Report; 2] = [(); 2].map(|()| execute(seed, true));
        assert_eq!((once.steps, once.flaw), (again.steps, again.flaw));
        assert_eq!(once.trace, again.trace, "seed {seed}");
        assert!(once.trace.len() > 10, "{:?}", once.trace);
    }
}

/// The first execution that fails without `rule`.
fn fails_without(rule: Rule) {
    rules::switch_off(&[rule]);
    let found = (1..=PATIENCE).find_map(|seed| Some((seed, execute(seed, false).flaw?)));
    rules::switch_off(&[]);
    let (seed, flaw) = found.unwrap_or_else(|| panic!("no execution fails without {rule:?}"));
    println!("{rule:?}: seed {seed}: {flaw}");
    assert_eq!(
        execute(seed, false).flaw,
        None,
        "seed {seed} with all rules"
    );
}

/// One test per rule; for those that chance rarely hits see `directed`.
macro_rules! rules_that_are_needed {
    ($($name:ident: $rule:ident,)*) => {
        $(#[test]
        fn $name() {
            fails_without(Rule::$rule);
        })*
    };
}

mod needed {
    use super::*;

    rules_that_are_needed! {
        log_before_effects: LogBeforeEffects,
        the_border_watermark_decides_the_epoch: WDecidesEpoch,
        floors_are_logged: FloorsLogged,
        the_floor_at_each_border: FloorEachBorder,
        waiting_for_the_floor: FloorWait,
        takeover: Takeover,
        takeovers_are_kept: TakeoverKept,
        manifest_after_the_sinks: ManifestAfterSinks,
        objects_are_named_by_run: ObjectNames,
        checkpoints_are_logged: CheckpointLogged,
        shards: Shards,
        committed_epochs_are_skipped: SkipCommitted,
        epoch_in_the_transaction: EpochInTxn,
        guarded_takeover: GuardedTakeover,
        a_repeated_commit_has_happened: RetryIsSuccess,
        a_start_fences_producers: InitFences,
        initialised_again: Reinit,
        files_of_final_windows: FinalOnce,
        put_if_absent: PutIfAbsent,
        lock_of_lines: LinesLock,
        lines_are_cut: LinesCut,
        empty_epochs_at_checkpoints: EmptyAtCheckpoint,
        sorted_rows: Consolidate,
    }
}
