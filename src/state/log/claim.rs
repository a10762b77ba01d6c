//! How a starting run makes the log its own.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use uuid::Uuid;

use super::past::Past;
use super::writer::{LogView, LogWriter};
use super::{
    JobRecord, LogItem, LogObject, LogWriteError, Takeover, highest, numbers, object_name,
};
use crate::fault;
use crate::rules::{self, Rule};
use crate::sink::RunNumber;
use crate::state::{Put, StateError, Storage};
use crate::time::EventTime;

/// The process that starts a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Starter {
    /// Drawn at the start of the process.
    pub nonce: Uuid,
    /// The wall time.
    pub at: EventTime,
    /// Host and process, for people.
    pub by: String,
    /// Whether an earlier start of the same series has begun a run, which this one goes on with: then
    /// the newest run must be of this series.
    pub goes_on: bool,
}

/// The nonce of one start of a series: whoever supervises a run starts it again and again.
pub fn nonce_of_series(series: Uuid, start: u32) -> Uuid {
    Uuid::from_u128((series_of(series) << u32::BITS) | u128::from(start))
}

const fn series_of(nonce: Uuid) -> u128 {
    nonce.as_u128() >> u32::BITS
}

impl Starter {
    /// Whether it may take over what has `top` as its newest object.
    fn check(&self, place: &str, top: Option<&LogObject>) -> Result<(), StateError> {
        if !self.goes_on {
            return Ok(());
        }
        match top {
            Some(top) if series_of(top.nonce) == series_of(self.nonce) => Ok(()),
            Some(top) => Err(StateError::Refused(format!(
                "{place}: run {} of somebody else has taken over; the run that it has ended is not \
                 started again",
                top.run
            ))),
            None => Err(StateError::Refused(format!(
                "{place}: the run that is to be started again has left nothing there: the state is \
                 gone"
            ))),
        }
    }
}

/// A log that belongs to a run, until a newer one claims it.
pub struct Claim {
    pub(super) storage: Arc<dyn Storage>,
    pub(super) run: RunNumber,
    pub(super) nonce: Uuid,
    /// The number of the takeover.
    pub(super) number: u64,
    /// The number of the newest job record below it.
    pub(super) job_at: Option<u64>,
    /// The numbers of all objects of the log, that of the takeover included.
    pub(super) numbers: Vec<u64>,
}

/// Claims the log in `storage` for a new run.
///
/// A takeover is put at the first free number, with a run number one above that of the newest
/// run; where something stands there already, one above that, and so on upwards. Then the log is
/// listed again: if there is a higher number, the takeover stands in a place that was deleted
/// between the look and the put, and the claim is repeated above the highest.
///
/// # Errors
/// When the storage fails, an object that must be read is damaged, or a run that is not the
/// starter's has taken over.
pub fn claim(storage: Arc<dyn Storage>, starter: &Starter) -> Result<Claim, StateError> {
    let mut top = highest(&*storage)?;
    let mut last = RunNumber(0);
    loop {
        starter.check(&storage.name(), top.as_ref().map(|(_, object)| object))?;
        if let Some((_, object)) = &top {
            last = last.max(object.run);
        }
        let number = top.as_ref().map_or(0, |(number, _)| number + 1);
        let job_at = top.as_ref().and_then(|(_, object)| object.job_at);
        let run = RunNumber(last.0 + 1);
        match put_takeover(&*storage, number, run, job_at, starter)? {
            Found::Ours => {
                let numbers = numbers(&*storage)?;
                let is_highest = numbers.last() == Some(&number);
                if is_highest || !rules::on(Rule::ClaimRelist) || !rules::on(Rule::Takeover) {
                    return Ok(Claim {
                        storage,
                        run,
                        nonce: starter.nonce,
                        number,
                        job_at,
                        numbers,
                    });
                }
                // The number of this run stands in the log, and is not given again.
                last = run;
                top = highest(&*storage)?;
            }
            Found::Other(object) => top = Some((number, *object)),
            Found::Gone => top = highest(&*storage)?,
        }
    }
}

/// What stands where a takeover was to be put.
enum Found {
    Ours,
    Other(Box<LogObject>),
    /// Something stood there, and was deleted before it could be read.
    Gone,
}

fn put_takeover(
    storage: &dyn Storage,
    number: u64,
    run: RunNumber,
    job_at: Option<u64>,
    starter: &Starter,
) -> Result<Found, StateError> {
    let takeover = Takeover {
        at: starter.at,
        by: starter.by.clone(),
    };
    let object = LogObject {
        run,
        nonce: starter.nonce,
        job_at,
        items: vec![LogItem::Takeover(takeover)],
    };
    if !rules::on(Rule::Takeover) {
        return Ok(Found::Ours);
    }
    fault::around("takeover", "before");
    let put = storage.put(&object_name(number), &object.encode())?;
    fault::around("takeover", "after");
    if put == Put::Written {
        return Ok(Found::Ours);
    }
    Ok(match LogObject::read(storage, number)? {
        None => Found::Gone,
        Some(found) if found == object => Found::Ours,
        Some(found) if !rules::on(Rule::Nonce) && found.is_takeover() && found.run == run => {
            Found::Ours
        }
        Some(found) => Found::Other(Box::new(found)),
    })
}

impl Claim {
    /// The number of the run.
    pub const fn run(&self) -> RunNumber {
        self.run
    }

    /// Tells whether the run is still the newest.
    pub fn view(&self) -> LogView {
        let last = Arc::new(AtomicU64::new(self.number));
        LogView::beside(Arc::clone(&self.storage), self.run, self.nonce, last)
    }

    /// What the runs before have left of the newest job; `None`: there is no job yet.
    ///
    /// # Errors
    /// When the storage fails, or the log is damaged or not whole.
    pub fn past(&self) -> Result<Option<Past>, StateError> {
        let read = |job_at| Past::read(&*self.storage, job_at, self.number, self.numbers.clone());
        self.job_at.map(read).transpose()
    }

    /// Goes on with the newest job.
    ///
    /// # Errors
    /// When there is none.
    pub fn go_on(self) -> Result<LogWriter, StateError> {
        if self.job_at.is_none() {
            let place = self.storage.name();
            return Err(StateError::Refused(format!("{place}: there is no job")));
        }
        Ok(LogWriter::new(self))
    }

    /// Begins a new job: whatever was there before is another one's from now on.
    ///
    /// # Errors
    /// As [`LogWriter::append`].
    pub fn begin(self, job: JobRecord) -> Result<LogWriter, LogWriteError> {
        let mut writer = LogWriter::new(self);
        writer.append(&[LogItem::Job(job)])?;
        Ok(writer)
    }
}
