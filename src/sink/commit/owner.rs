//! Whose output a target holds, where the target itself can not say: a small marker beside it.
//!
//! A sink **goes on** where the checkpoint knows it, and the marker must name the job: a file that
//! another job has begun since is not cut to this job's length. Otherwise it **begins**, with
//! nothing: after the checkpoint, if there is one, since earlier epochs can not be replayed. A sink
//! that begins again after a crash, before any checkpoint could know it, finds its own marker, with
//! the same beginning. With another beginning it has been away while the job went on, and would
//! miss what came meanwhile: that is refused.

use serde::{Deserialize, Serialize};

use super::super::{JobContext, JobId, SinkError};
use crate::time::Epoch;

/// What a marker says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// The job that writes here.
    pub job: JobId,
    /// Its output begins after this epoch; `None`: at the beginning.
    pub since: Option<Epoch>,
}

/// What a sink does at its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beginning {
    /// It goes on after what the checkpoint knows of.
    GoesOn,
    /// It begins; what the target holds is its own, and will be made again.
    Begins,
    /// It begins once what another job (or nobody we know) has left there is removed.
    Replaces(Option<JobId>),
}

impl Owner {
    /// The marker of a sink that begins now.
    pub fn of(job: &JobContext) -> Self {
        Self {
            job: job.job,
            since: job.checkpoint,
        }
    }
}

/// Reads a marker; `target` is for people.
///
/// # Errors
/// When it is not one.
pub fn read_owner(bytes: &[u8], target: &str) -> Result<Owner, SinkError> {
    serde_json::from_slice(bytes).map_err(|error| {
        SinkError::Refused(format!(
            "{target}: the marker that says which job writes there cannot be read ({error}); \
             choose another place, or remove the marker and what it stands for"
        ))
    })
}

/// A marker as it is stored.
pub fn write_owner(owner: &Owner) -> Vec<u8> {
    let mut bytes = serde_json::to_vec(owner).unwrap_or_default();
    bytes.push(b'\n');
    bytes
}

/// What `sink` does with `target`, where this marker was found, and which `is_empty` or holds
/// output of some job.
///
/// # Errors
/// [`SinkError::Refused`], with what to do.
pub fn beginning(
    job: &JobContext,
    sink: &str,
    target: &str,
    found: Option<Owner>,
    is_empty: bool,
) -> Result<Beginning, SinkError> {
    let refused = |what: String| Err(SinkError::Refused(format!("{target}: {what}")));
    let is_ours = found.is_some_and(|owner| owner.job == job.job);
    if job.mark(sink).is_some() {
        return match found {
            Some(_) if is_ours => Ok(Beginning::GoesOn),
            Some(owner) => refused(format!(
                "job {} has written there since, and the output of this job ({}) is gone; start \
                 anew with --fresh --replace-output, or choose another place",
                owner.job, job.job
            )),
            None => refused(format!(
                "nothing says any more that this is the output of job {}; restore the marker \
                 that lay there, or start anew with --fresh --replace-output",
                job.job
            )),
        };
    }
    if is_empty {
        return Ok(Beginning::Begins);
    }
    match found {
        Some(owner) if is_ours && owner.since == job.checkpoint => Ok(Beginning::Begins),
        Some(owner) if is_ours => refused(format!(
            "this job has written there, beginning {}, and then went on without this sink; the \
             log can be replayed only {}, so there would be a gap; choose another place",
            after(owner.since),
            after(job.checkpoint)
        )),
        other if job.replace_output => Ok(Beginning::Replaces(other.map(|owner| owner.job))),
        Some(owner) => refused(format!(
            "holds the output of another job ({}); choose another place, or let it be removed \
             with --fresh --replace-output",
            owner.job
        )),
        None => refused(
            "holds something already that no job has written; choose another place, move it \
             away, or let it be removed with --fresh --replace-output"
                .to_owned(),
        ),
    }
}

fn after(epoch: Option<Epoch>) -> String {
    epoch.map_or_else(
        || "at the first epoch".to_owned(),
        |epoch| format!("after epoch {epoch}"),
    )
}

#[cfg(test)]
mod tests {
    use super::super::sample::job;
    use super::*;
    use crate::sink::SinkMark;

    const SINK: &str = "windows/ndjson-out";

    fn judge(
        job: &JobContext,
        found: Option<Owner>,
        is_empty: bool,
    ) -> Result<Beginning, SinkError> {
        beginning(job, SINK, "out", found, is_empty)
    }

    fn other() -> Owner {
        Owner {
            job: JobId(uuid::Uuid::from_u128(99)),
            since: None,
        }
    }

    fn ours(since: Option<u64>) -> Owner {
        Owner {
            job: job(1, None, None).job,
            since: since.map(Epoch),
        }
    }

    fn is_refused(outcome: Result<Beginning, SinkError>, says: &str) {
        let error = outcome.unwrap_err();
        assert!(matches!(error, SinkError::Refused(_)), "{error:?}");
        assert!(error.to_string().contains(says), "{error}");
    }

    #[test]
    fn a_sink_that_the_checkpoint_knows_goes_on_with_its_own_output_only() {
        let mut job = job(3, Some(5), Some(9));
        job.sinks.insert(SINK.to_owned(), SinkMark::default());
        job.replace_output = true;
        assert_eq!(
            judge(&job, Some(ours(None)), false).unwrap(),
            Beginning::GoesOn
        );
        assert_eq!(
            judge(&job, Some(ours(Some(2))), true).unwrap(),
            Beginning::GoesOn
        );
        is_refused(judge(&job, Some(other()), false), "has written there since");
        is_refused(judge(&job, None, false), "marker");
    }

    #[test]
    fn a_new_sink_begins_where_nothing_is() {
        for job in [job(1, None, None), job(4, Some(5), Some(9))] {
            assert_eq!(judge(&job, None, true).unwrap(), Beginning::Begins);
            assert_eq!(judge(&job, Some(other()), true).unwrap(), Beginning::Begins);
            is_refused(judge(&job, Some(other()), false), "another job");
            is_refused(judge(&job, None, false), "no job has written");
        }
    }

    #[test]
    fn what_others_have_left_is_removed_where_that_is_allowed() {
        let mut job = job(1, None, None);
        job.replace_output = true;
        let replaces = Beginning::Replaces(Some(other().job));
        assert_eq!(judge(&job, Some(other()), false).unwrap(), replaces);
        assert_eq!(judge(&job, None, false).unwrap(), Beginning::Replaces(None));
        // After a crash: what it has written itself is not another job's.
        assert_eq!(
            judge(&job, Some(ours(None)), false).unwrap(),
            Beginning::Begins
        );
    }

    #[test]
    fn a_sink_that_has_been_away_is_refused() {
        let job = job(4, Some(5), Some(9));
        assert_eq!(
            judge(&job, Some(ours(Some(5))), false).unwrap(),
            Beginning::Begins
        );
        is_refused(judge(&job, Some(ours(None)), false), "gap");
        is_refused(judge(&job, Some(ours(Some(3))), false), "after epoch 3");
    }

    #[test]
    fn a_marker_is_read_as_it_was_written() {
        let owner = ours(Some(7));
        assert_eq!(read_owner(&write_owner(&owner), "out").unwrap(), owner);
        assert!(read_owner(b"{\"job\":", "out").is_err());
    }
}
