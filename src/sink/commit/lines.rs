//! One file, appended to by one run at a time and cut at a start.
//!
//! The file is locked from before the cut until the process ends. Having got the lock, a run asks
//! the log whether it is still the newest (it may have waited for long), and only then cuts the
//! file to the length that the checkpoint knows: what lies behind it is replayed. A checkpoint is
//! told as committed only once the file is on disk, so a file that is shorter than the checkpoint
//! knows has been changed by somebody else, and is refused.
//!
//! A sink that is new to the job begins with an empty file, after the checkpoint if there is one.

use super::super::{JobContext, SinkError};
use super::check_newest;
use super::owner::{Beginning, Owner, beginning};
use crate::rules::{self, Rule};
use crate::terminal;
use crate::time::{Epoch, Shard};

/// The only shard of a single file.
const SHARD: Shard = Shard(0);

/// A file of lines, its lock, and the marker beside it.
pub trait LineFile {
    /// Tries to take the lock, which is then held until this is dropped; who has it, for people,
    /// when another process does.
    ///
    /// # Errors
    /// When it cannot be had at all.
    fn lock(&mut self) -> Result<Option<String>, SinkError>;

    /// Waits a moment for `holder`, and tells people so.
    ///
    /// # Errors
    /// [`SinkError::Aborted`] when the run was.
    fn wait(&mut self, holder: &str) -> Result<(), SinkError>;

    /// What the marker says.
    ///
    /// # Errors
    /// When it cannot be read.
    fn owner(&mut self) -> Result<Option<Owner>, SinkError>;

    /// Puts a marker there, for good.
    ///
    /// # Errors
    /// When it cannot be written.
    fn own(&mut self, owner: &Owner) -> Result<(), SinkError>;

    /// How long the file is; 0 when there is none.
    ///
    /// # Errors
    /// When that cannot be found out.
    fn length(&mut self) -> Result<u64, SinkError>;

    /// Cuts the file to this length, which is not more than it has.
    ///
    /// # Errors
    /// When that fails.
    fn cut(&mut self, length: u64) -> Result<(), SinkError>;

    /// Writes behind the file's end. A crash may leave a part of it.
    ///
    /// # Errors
    /// When that fails.
    fn append(&mut self, bytes: &[u8]) -> Result<(), SinkError>;

    /// Returns once all that was appended is on disk.
    ///
    /// # Errors
    /// When that fails.
    fn sync(&mut self) -> Result<(), SinkError>;
}

/// Commits epochs to a file of lines.
#[derive(Debug)]
pub struct LineCommitter<F> {
    file: F,
    committed: Option<Epoch>,
    length: u64,
}

impl<F: LineFile> LineCommitter<F> {
    /// Takes the file over for the run of `job`: waits for its lock for as long as this is the
    /// newest run. `target` is how people call the file.
    ///
    /// # Errors
    /// [`SinkError::Fenced`] when there is a newer run; [`SinkError::Refused`] when the file is not
    /// as the job left it, or holds something else.
    pub fn open(
        mut file: F,
        job: &JobContext,
        sink: &str,
        target: &str,
    ) -> Result<Self, SinkError> {
        while let Some(holder) = file.lock()? {
            check_newest(job, target)?;
            file.wait(&holder)?;
        }
        if rules::on(Rule::LinesRecheck) {
            check_newest(job, target)?;
        }
        let length = start(&mut file, job, sink, target)?;
        Ok(Self {
            file,
            committed: job.checkpoint,
            length,
        })
    }

    /// The last epoch that was committed.
    pub const fn committed(&self) -> Option<Epoch> {
        self.committed
    }

    /// How long the file is.
    pub const fn length(&self) -> u64 {
        self.length
    }

    /// Appends the lines of an epoch; at a checkpoint they are on disk afterwards.
    ///
    /// # Errors
    /// When that fails.
    pub fn commit(
        &mut self,
        epoch: Epoch,
        lines: &[u8],
        is_checkpoint: bool,
    ) -> Result<(), SinkError> {
        if !lines.is_empty() {
            self.file.append(lines)?;
        }
        if is_checkpoint {
            self.file.sync()?;
        }
        self.length += lines.len() as u64;
        self.committed = Some(epoch);
        Ok(())
    }

    /// Returns once everything is on disk.
    ///
    /// # Errors
    /// When that fails.
    pub fn sync(&mut self) -> Result<(), SinkError> {
        self.file.sync()
    }
}

/// Brings the file to the length at which this run goes on, and returns that.
fn start(
    file: &mut impl LineFile,
    job: &JobContext,
    sink: &str,
    target: &str,
) -> Result<u64, SinkError> {
    let (found, length) = (file.owner()?, file.length()?);
    let kept = match beginning(job, sink, target, found, length == 0)? {
        Beginning::GoesOn => {
            let mark = job.mark(sink).and_then(|mark| mark.positions.get(&SHARD));
            mark.copied().unwrap_or_default()
        }
        Beginning::Begins => 0,
        Beginning::Replaces(owner) => {
            let whose = owner.map_or_else(
                || "which no job has written".to_owned(),
                |owner| format!("the output of another job ({owner})"),
            );
            terminal::message(format_args!("{target}: {length} bytes removed, {whose}"));
            0
        }
    };
    if length < kept {
        return Err(SinkError::Refused(format!(
            "{target} has {length} bytes, and the checkpoint of epoch {} knows of {kept}: \
             somebody has cut or replaced it; restore it, or start anew with --fresh \
             --replace-output",
            job.checkpoint.unwrap_or_default()
        )));
    }
    if length > kept && rules::on(Rule::LinesCut) {
        file.cut(kept)?;
    }
    // Empty before it is ours, ours before it has a line.
    if kept == 0 && found.is_none_or(|owner| owner.job != job.job || job.mark(sink).is_none()) {
        file.own(&Owner::of(job))?;
    }
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;
    use std::sync::Arc;
    use std::sync::atomic::Ordering;

    use super::super::sample::{Log, job};
    use super::*;
    use crate::sink::{JobId, SinkMark};

    const SINK: &str = "windows/ndjson-out";

    #[derive(Debug, Default)]
    struct World {
        bytes: Vec<u8>,
        synced: usize,
        owner: Option<Owner>,
        /// How many more tries find another run with the lock.
        held: u32,
        is_locked: bool,
        waits: u32,
        /// The number of the newest run changes while somebody waits.
        successor: Option<(Arc<Log>, u64)>,
    }

    #[derive(Clone, Debug, Default)]
    struct Fake(Rc<RefCell<World>>);

    impl Fake {
        fn holding(bytes: &str) -> Self {
            let fake = Self::default();
            fake.0.borrow_mut().bytes = bytes.into();
            fake
        }

        fn text(&self) -> String {
            String::from_utf8(self.0.borrow().bytes.clone()).unwrap()
        }
    }

    impl LineFile for Fake {
        fn lock(&mut self) -> Result<Option<String>, SinkError> {
            let world = &mut *self.0.borrow_mut();
            if world.held > 0 {
                world.held -= 1;
                return Ok(Some("process 7".to_owned()));
            }
            world.is_locked = true;
            Ok(None)
        }
        fn wait(&mut self, _: &str) -> Result<(), SinkError> {
            let world = &mut *self.0.borrow_mut();
            world.waits += 1;
            if let Some((log, run)) = world.successor.take() {
                log.0.store(run, Ordering::SeqCst);
            }
            Ok(())
        }
        fn owner(&mut self) -> Result<Option<Owner>, SinkError> {
            Ok(self.0.borrow().owner)
        }
        fn own(&mut self, owner: &Owner) -> Result<(), SinkError> {
            assert!(self.0.borrow().bytes.is_empty());
            self.0.borrow_mut().owner = Some(*owner);
            Ok(())
        }
        fn length(&mut self) -> Result<u64, SinkError> {
            Ok(self.0.borrow().bytes.len() as u64)
        }
        fn cut(&mut self, length: u64) -> Result<(), SinkError> {
            assert!(self.0.borrow().is_locked);
            self.0.borrow_mut().bytes.truncate(length as usize);
            Ok(())
        }
        fn append(&mut self, bytes: &[u8]) -> Result<(), SinkError> {
            let world = &mut *self.0.borrow_mut();
            assert!(world.owner.is_some());
            world.bytes.extend_from_slice(bytes);
            Ok(())
        }
        fn sync(&mut self) -> Result<(), SinkError> {
            let world = &mut *self.0.borrow_mut();
            world.synced = world.bytes.len();
            Ok(())
        }
    }

    fn open(file: &Fake, job: &JobContext) -> Result<LineCommitter<Fake>, SinkError> {
        LineCommitter::open(file.clone(), job, SINK, "out.ndjson")
    }

    /// A run from a checkpoint that knows `length` bytes.
    fn known(run: u64, checkpoint: u64, length: u64) -> JobContext {
        let mut job = job(run, Some(checkpoint), Some(checkpoint + 4));
        let positions = [(SHARD, length)].into();
        job.sinks.insert(SINK.to_owned(), SinkMark { positions });
        job
    }

    #[test]
    fn a_restart_cuts_to_the_checkpoint_and_goes_on() {
        let file = Fake::default();
        let mut lines = open(&file, &job(1, None, None)).unwrap();
        lines.commit(Epoch(0), b"a\n", false).unwrap();
        assert_eq!(file.0.borrow().synced, 0);
        lines.commit(Epoch(1), b"", true).unwrap();
        assert_eq!(file.0.borrow().synced, 2);
        assert_eq!(lines.length(), 2);
        lines.commit(Epoch(2), b"half a li", false).unwrap();
        let mut lines = open(&file, &known(2, 1, 2)).unwrap();
        assert_eq!(
            (file.text().as_str(), lines.committed()),
            ("a\n", Some(Epoch(1)))
        );
        lines.commit(Epoch(2), b"half a line\n", false).unwrap();
        assert_eq!(file.text(), "a\nhalf a line\n");
        assert_eq!(lines.length(), 14);
    }

    #[test]
    fn a_crash_before_the_first_checkpoint_begins_again() {
        let file = Fake::default();
        for run in 1..3 {
            let mut lines = open(&file, &job(run, None, Some(3))).unwrap();
            assert_eq!(lines.length(), 0);
            lines.commit(Epoch(0), b"a\n", false).unwrap();
        }
        assert_eq!(file.text(), "a\n");
    }

    #[test]
    fn a_file_shorter_than_the_checkpoint_knows_is_refused() {
        let file = Fake::default();
        open(&file, &job(1, None, None)).unwrap();
        file.0.borrow_mut().bytes = b"abc".to_vec();
        let error = open(&file, &known(2, 6, 10)).unwrap_err();
        assert!(matches!(error, SinkError::Refused(_)), "{error:?}");
        let text = error.to_string();
        for part in ["out.ndjson", "3 bytes", "of 10"] {
            assert!(text.contains(part), "{text}");
        }
        assert_eq!(file.text(), "abc");
    }

    #[test]
    fn a_zombie_is_waited_for() {
        let file = Fake::default();
        file.0.borrow_mut().held = 3;
        open(&file, &job(2, None, None)).unwrap();
        assert_eq!(file.0.borrow().waits, 3);
    }

    #[test]
    fn a_run_that_is_no_longer_the_newest_cuts_nothing() {
        // It learns so while it waits, or only once it has the lock.
        for held in [5, 1] {
            let file = Fake::holding("of run 3\n");
            let older = known(2, 1, 0);
            let log = Arc::new(Log::new(2));
            file.0.borrow_mut().owner = Some(Owner::of(&older));
            file.0.borrow_mut().held = held;
            file.0.borrow_mut().successor = Some((Arc::clone(&log), 3));
            let error = open(&file, &JobContext { log, ..older }).unwrap_err();
            assert!(matches!(error, SinkError::Fenced(_)), "{error:?}");
            assert_eq!(file.text(), "of run 3\n");
            assert_eq!(file.0.borrow().waits, 1);
        }
    }

    #[test]
    fn what_is_not_ours_is_refused_or_replaced() {
        let other = Owner {
            job: JobId(uuid::Uuid::from_u128(99)),
            since: None,
        };
        for owner in [None, Some(other)] {
            let file = Fake::holding("theirs\n");
            file.0.borrow_mut().owner = owner;
            let mut job = job(1, None, None);
            assert!(matches!(open(&file, &job), Err(SinkError::Refused(_))));
            assert_eq!(file.text(), "theirs\n");
            job.replace_output = true;
            let mut lines = open(&file, &job).unwrap();
            lines.commit(Epoch(0), b"ours\n", true).unwrap();
            assert_eq!(file.text(), "ours\n");
            assert_eq!(file.0.borrow().owner, Some(Owner::of(&job)));
        }
    }
}
