//! Rules that are switched off in this thread.

use std::cell::Cell;

use crate::rules::Rule;

thread_local! {
    static OFF: Cell<u64> = const { Cell::new(0) };
}

/// Whether `rule` is kept.
pub(crate) fn on(rule: Rule) -> bool {
    OFF.get() & (1 << rule as u64) == 0
}

/// Keeps all rules but these.
pub(super) fn switch_off(rules: &[Rule]) {
    OFF.set(rules.iter().fold(0, |off, rule| off | 1 << *rule as u64));
}
