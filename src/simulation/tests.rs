//! Executions in numbers, and what must be found in them.

use super::execution::execute;

/// A number in the environment.
fn setting(name: &str, default: u64) -> u64 {
    let text = std::env::var(name).unwrap_or_default();
    text.parse().unwrap_or(default)
}

#[test]
fn random_executions_keep_what_is_promised() {
    let count = setting("HIGHWATER_SIMULATIONS", 3000);
    let first = setting("HIGHWATER_SIMULATION_SEED", 1);
    let begun = std::time::Instant::now();
    let mut steps = 0;
    for seed in first..first + count {
        let report = execute(seed, false);
        steps += report.steps;
        if let Some(flaw) = report.flaw {
            let trace = execute(seed, true).trace.join("\n");
            panic!(
                "{trace}\n{flaw}\nagain: HIGHWATER_SIMULATION_SEED={seed} HIGHWATER_SIMULATIONS=1"
            );
        }
    }
    let took = begun.elapsed().as_secs_f64();
    println!("{count} executions, {steps} steps, 0 failures, {took:.1} s");
}
