//! One execution: runs that start, are killed or left behind, wake up later, and are followed by
//! others, until one has drained the input; everything a function of the seed.

use std::time::Duration;

use super::check::check;
use super::machine;
use super::run::{Cause, Outcome, Run, Until};
use super::world::{Kind, World, set_world, world};

/// Nothing that still works needs so many steps.
const LONGEST: usize = 200_000;
/// Runs that were left behind go on for so many steps after the end.
const AFTERMATH: usize = 3000;

/// What came of an execution.
pub(super) struct Report {
    pub(super) steps: usize,
    /// What was wrong, if anything was.
    pub(super) flaw: Option<String>,
    /// What became visible, if that was asked for.
    pub(super) trace: Vec<String>,
}

/// Executes what `seed` stands for.
pub(super) fn execute(seed: u64, traces: bool) -> Report {
    machine::reset();
    let mut begun = World::new(seed, traces);
    let has_files = |kind: &Kind| matches!(kind, Kind::WindowFiles | Kind::RowFiles);
    let folder = begun.shape.sinks.iter().any(has_files).then(staging);
    begun.staging = folder.as_ref().map(|folder| folder.path().to_owned());
    set_world(Some(begun));
    let mut execution = Execution::new();
    let outcome = execution.go();
    let steps = execution.step;
    drop(execution);
    let world = set_world(None).expect("it was there all the time");
    Report {
        steps,
        flaw: outcome.err(),
        trace: world.trace.unwrap_or_default(),
    }
}

/// A folder in memory, where there is such a place.
fn staging() -> tempfile::TempDir {
    let memory = tempfile::Builder::new().tempdir_in("/dev/shm");
    memory
        .or_else(|_| tempfile::tempdir())
        .expect("a folder for staged files")
}

struct Execution {
    step: usize,
    /// How many runs are still to be ended before their time.
    left: usize,
    /// The step at which the run at hand is ended.
    until: usize,
    started: usize,
    current: Run,
    zombies: Vec<Run>,
    /// How often a run that was left behind does something.
    busy: f64,
}

impl Execution {
    fn new() -> Self {
        let left = world(|world| world.chance.of(&[0, 1, 1, 2, 3]));
        Self {
            step: 0,
            left,
            until: soon(),
            started: 1,
            current: Run::start(0, workers(), until(left)),
            zombies: Vec::new(),
            busy: world(|world| world.chance.of(&[0.1, 0.35, 0.7])),
        }
    }

    fn go(&mut self) -> Result<(), String> {
        while !self.turn()? {
            self.step += 1;
            if self.step >= LONGEST {
                return Err("it does not end".to_owned());
            }
        }
        world(|world| check(world))?;
        for _ in 0..AFTERMATH {
            if self.zombies.is_empty() {
                return Ok(());
            }
            self.step += 1;
            self.zombie()?;
        }
        world(|world| check(world)).map_err(|what| format!("afterwards: {what}"))
    }

    /// One step of somebody; `true`: the input is drained.
    fn turn(&mut self) -> Result<bool, String> {
        world(|world| {
            let by = world.chance.below(world.shape.pace_us) as u64;
            machine::advance(Duration::from_micros(by + 1));
            if world.chance.is(0.05) {
                world.environment();
            }
        });
        if self.left > 0 && (self.step >= self.until || !self.current.is_alive()) {
            self.end_current();
        }
        if self.left == 0 && world(|world| world.chance.is(0.1)) {
            world(|world| world.found.fill(true));
        }
        if !self.zombies.is_empty() && world(|world| world.chance.is(self.busy)) {
            self.zombie()?;
            return Ok(false);
        }
        self.current.step();
        first_flaw()?;
        self.follow_current()
    }

    /// The run at hand is killed, asked to stop, or left behind, and another one starts.
    fn end_current(&mut self) {
        self.left -= 1;
        let part = world(|world| world.chance.part());
        let number = self.current.number;
        if part < 0.4 {
            self.current.kill();
            world(|world| world.note(|| format!("run {number} is killed")));
        } else if part < 0.5 && self.current.is_alive() {
            self.current.stop();
            self.until = self.step + 10 * soon();
            world(|world| world.note(|| format!("run {number} is asked to stop")));
            return;
        }
        self.until = self.step + soon();
        let next = self.next();
        let last = std::mem::replace(&mut self.current, next);
        if last.is_alive() {
            self.leave(last);
        }
    }

    /// A run goes on although another one has started, maybe without some of its workers.
    fn leave(&mut self, mut run: Run) {
        let wake = world(|world| world.chance.below(4));
        run.asleep_until = self.step + [0, 0, soon(), 3 * soon()][wake];
        let gone = world(|world| world.chance.below(9));
        if gone < 3 {
            run.kill_worker(gone);
        }
        world(|world| {
            world.note(|| format!("run {} is left behind, without worker {gone}", run.number));
        });
        self.zombies.push(run);
    }

    fn next(&mut self) -> Run {
        self.started += 1;
        Run::start(self.started - 1, workers(), until(self.left))
    }

    /// A run that was left behind does something.
    fn zombie(&mut self) -> Result<(), String> {
        let at = world(|world| world.chance.below(self.zombies.len()));
        let zombie = &mut self.zombies[at];
        if zombie.asleep_until <= self.step {
            zombie.step();
        }
        first_flaw()?;
        if let Some(Outcome::Failed { cause, why }) = zombie.outcome()
            && !is_excused(zombie, cause)
        {
            return Err(format!(
                "a run that was left behind has stopped, {cause:?}: {why}"
            ));
        }
        // At last somebody kills them.
        let ends = world(|world| world.chance.is(0.0003)) || self.step > LONGEST / 10;
        if ends || !zombie.is_alive() {
            drop(self.zombies.swap_remove(at));
        }
        Ok(())
    }

    fn follow_current(&mut self) -> Result<bool, String> {
        let run = &self.current;
        let outcome = match run.outcome() {
            Some(outcome) => outcome,
            None if run.is_alive() => return Ok(false),
            None => return Err("a run has ended without a word".to_owned()),
        };
        let number = run.number;
        world(|world| world.note(|| format!("run {number} has ended: {outcome:?}")));
        match outcome {
            Outcome::Done => {
                if self.left == 0 && world(|world| world.is_drained()) {
                    return Ok(true);
                }
            }
            Outcome::Failed { cause, why } => {
                if !is_excused(run, cause) {
                    return Err(format!("run {number} has stopped, {cause:?}: {why}"));
                }
            }
        }
        if self.left == 0 {
            self.current = self.next();
        }
        Ok(false)
    }
}

/// Whether `run` may stop for this reason.
fn is_excused(run: &Run, cause: Cause) -> bool {
    match cause {
        Cause::Defect => false,
        Cause::Outage => world(|world| world.outages > 0),
        Cause::Superseded => run.has_claimed() && !run.is_newest(),
    }
}

fn first_flaw() -> Result<(), String> {
    world(|world| world.flaw.take()).map_or(Ok(()), Err)
}

/// What the next run is told of the input's end, when so many are to be ended before their time.
fn until(left: usize) -> Until {
    let part = world(|world| world.chance.part());
    match part {
        _ if left == 0 => Until::Drained,
        ..0.3 => Until::Drained,
        ..0.45 => Until::End,
        _ => Until::Forever,
    }
}

fn workers() -> usize {
    world(|world| world.chance.between(1, 3)) as usize
}

fn soon() -> usize {
    world(|world| {
        let most = world.chance.of(&[10, 60, 300, 1500, 7000]);
        1 + world.chance.below(most)
    })
}
