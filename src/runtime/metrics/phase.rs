//! What a run is busy with, for whoever waits until it is ready.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

/// What a run is busy with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It opens its state, and looks for its input, its tables and its targets.
    Preparing,
    /// Its workers load the checkpoint.
    Loading,
    /// It reads recorded epochs again: of how many.
    Replaying(u64),
    /// It reads on.
    Reading,
    /// Its last epoch is decided; what is left is to commit.
    Ending,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Preparing => {
                write!(
                    f,
                    "opening the state, the input, the tables and the targets"
                )
            }
            Self::Loading => write!(f, "loading the state"),
            Self::Replaying(epochs) => {
                write!(f, "reading {epochs} recorded epochs again")
            }
            Self::Reading => write!(f, "reading"),
            Self::Ending => write!(f, "ending: the last epoch is decided"),
        }
    }
}

/// How far the workers of this process are.
#[derive(Debug, Default)]
pub struct Progressing {
    has_begun: AtomicBool,
    /// Workers that have not loaded what is theirs.
    loading: AtomicUsize,
    is_ending: AtomicBool,
}

impl Progressing {
    /// So many workers are about to start in this process.
    pub fn begin(&self, workers: usize) {
        self.loading.store(workers, Relaxed);
        self.has_begun.store(true, Relaxed);
    }

    /// One of them has what it needs of the state.
    pub fn loaded(&self) {
        // More of them than were announced would be a defect elsewhere; it must not wrap here.
        let one_less = |left: usize| Some(left.saturating_sub(1));
        let _ = self.loading.fetch_update(Relaxed, Relaxed, one_less);
    }

    /// The last epoch was decided.
    pub fn end(&self) {
        self.is_ending.store(true, Relaxed);
    }

    /// The phase; `replaying`: of how many recorded epochs not all are committed again.
    pub fn phase(&self, replaying: Option<u64>) -> Phase {
        if !self.has_begun.load(Relaxed) {
            return Phase::Preparing;
        }
        if self.loading.load(Relaxed) > 0 {
            return Phase::Loading;
        }
        match replaying {
            _ if self.is_ending.load(Relaxed) => Phase::Ending,
            Some(epochs) => Phase::Replaying(epochs),
            None => Phase::Reading,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_reads_once_all_workers_have_loaded_and_nothing_is_left_to_replay() {
        let run = Progressing::default();
        assert_eq!(run.phase(None), Phase::Preparing);
        run.begin(2);
        run.loaded();
        assert_eq!(run.phase(Some(7)), Phase::Loading);
        run.loaded();
        assert_eq!(run.phase(Some(7)), Phase::Replaying(7));
        assert_eq!(run.phase(None), Phase::Reading);
        run.end();
        assert_eq!(run.phase(None), Phase::Ending);
    }
}
