//! A folder or a bucket is claimed by one job per output and kind of file.
//!
//! Files of a job are published put-if-absent, under names that are functions of the job, of a
//! window or a checkpoint's epoch, and of the shard. A replay makes the same files again and finds
//! them there; an older run that still lives can only do the same. So runs need no lock, and the
//! sink need not remember what it has published. What is left is to keep apart what does not belong
//! together: a marker says which job writes here, and others do not.

use super::super::{JobContext, SinkError};
use super::owner::{Beginning, Owner, beginning, read_owner, write_owner};
use crate::terminal;

/// The files of a folder or a bucket.
pub trait FilePlace {
    /// The bytes of a file; `None`: there is none of this name.
    ///
    /// # Errors
    /// When that cannot be found out.
    fn read(&mut self, name: &str) -> Result<Option<Vec<u8>>, SinkError>;

    /// Puts a file unless there is one of this name; `false`: there is.
    ///
    /// # Errors
    /// When that fails.
    fn put_new(&mut self, name: &str, bytes: &[u8]) -> Result<bool, SinkError>;

    /// Puts a file in place of the one of this name.
    ///
    /// # Errors
    /// When that fails.
    fn replace(&mut self, name: &str, bytes: &[u8]) -> Result<(), SinkError>;

    /// The names of all files, with their folders, but for those that begin with `.` or `_`.
    ///
    /// # Errors
    /// When they cannot be found out.
    fn list(&mut self) -> Result<Vec<String>, SinkError>;

    /// The names of the files in `folder` itself that are not less than `from`, without the folder
    /// and whatever they begin with, sorted; none, when there is no such folder.
    ///
    /// # Errors
    /// When they cannot be found out.
    fn list_folder(&mut self, folder: &str, from: &str) -> Result<Vec<String>, SinkError>;

    /// Removes a file; one that is not there is as good.
    ///
    /// # Errors
    /// When that fails.
    fn remove(&mut self, name: &str) -> Result<(), SinkError>;
}

/// What is claimed.
pub struct Claim<'a> {
    /// The sink, as the state of the job calls it.
    pub sink: &'a str,
    /// The folder or bucket, for people.
    pub target: &'a str,
    /// The name of the marker.
    pub marker: &'a str,
    /// Whether a file name (without its folders) is that of a file of this output and kind, of
    /// whichever job.
    pub is_output: &'a dyn Fn(&str) -> bool,
}

impl Claim<'_> {
    /// Sees to it that `place` is the job's.
    ///
    /// # Errors
    /// [`SinkError::Refused`] when it is not, and must not be made so.
    pub fn make(&self, place: &mut impl FilePlace, job: &JobContext) -> Result<(), SinkError> {
        let mine = Owner::of(job);
        loop {
            let (found, files, beginning) = self.look(place, job)?;
            match beginning {
                Beginning::GoesOn => return Ok(()),
                Beginning::Begins if found == Some(mine) => return Ok(()),
                Beginning::Begins => {}
                Beginning::Replaces(_) => self.clear(place, &files)?,
            }
            // The marker comes last: until then, what is there is not ours.
            let bytes = write_owner(&mine);
            if found.is_some() {
                return place.replace(self.marker, &bytes);
            }
            if place.put_new(self.marker, &bytes)? {
                return Ok(());
            }
        }
    }

    /// Whether the job may have `place`; changes nothing.
    ///
    /// # Errors
    /// As [`Claim::make`].
    pub fn check(&self, place: &mut impl FilePlace, job: &JobContext) -> Result<(), SinkError> {
        self.look(place, job).map(|_| ())
    }

    /// The marker, the files in the way, and what the sink does with them.
    fn look(
        &self,
        place: &mut impl FilePlace,
        job: &JobContext,
    ) -> Result<(Option<Owner>, Vec<String>, Beginning), SinkError> {
        let mut found = self.owner(place)?;
        let files = loop {
            // Only who begins looks at all files.
            if found == Some(Owner::of(job)) || job.mark(self.sink).is_some() {
                break Vec::new();
            }
            let files = self.files(place)?;
            // An older run of the same job may be about to begin as well: with a marker, then files.
            let before = std::mem::replace(&mut found, self.owner(place)?);
            if files.is_empty() || found == before {
                break files;
            }
        };
        // No lock says whether another job is about to write its first file.
        let is_empty = files.is_empty() && found.is_none_or(|owner| owner.job == job.job);
        let beginning = beginning(job, self.sink, self.target, found, is_empty)?;
        Ok((found, files, beginning))
    }

    fn owner(&self, place: &mut impl FilePlace) -> Result<Option<Owner>, SinkError> {
        let bytes = place.read(self.marker)?;
        let owner = bytes.map(|bytes| read_owner(&bytes, self.target));
        owner.transpose()
    }

    fn files(&self, place: &mut impl FilePlace) -> Result<Vec<String>, SinkError> {
        let mut files = place.list()?;
        files.retain(|name| {
            let name = name
                .rsplit_once('/')
                .map_or(name.as_str(), |(_, name)| name);
            (self.is_output)(name)
        });
        Ok(files)
    }

    fn clear(&self, place: &mut impl FilePlace, files: &[String]) -> Result<(), SinkError> {
        for name in files {
            place.remove(name)?;
        }
        terminal::message(format_args!(
            "{}: {} files removed, output that is not of this job",
            self.target,
            files.len()
        ));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::sample::job;
    use super::*;
    use crate::sink::{JobId, SinkMark};

    const SINK: &str = "alerts/csv-out";
    const MARKER: &str = "_highwater-alerts.csv.json";

    #[derive(Default)]
    struct Fake {
        files: BTreeMap<String, Vec<u8>>,
        /// Somebody else's marker, which appears just before the next put.
        rival: Option<Owner>,
        /// Somebody else's marker and file, which appear just before the next list.
        begun: Option<Owner>,
        listed: u32,
    }

    impl FilePlace for Fake {
        fn read(&mut self, name: &str) -> Result<Option<Vec<u8>>, SinkError> {
            Ok(self.files.get(name).cloned())
        }
        fn put_new(&mut self, name: &str, bytes: &[u8]) -> Result<bool, SinkError> {
            if let Some(rival) = self.rival.take() {
                self.files.insert(name.to_owned(), write_owner(&rival));
            }
            let is_new = !self.files.contains_key(name);
            self.files
                .entry(name.to_owned())
                .or_insert_with(|| bytes.to_vec());
            Ok(is_new)
        }
        fn replace(&mut self, name: &str, bytes: &[u8]) -> Result<(), SinkError> {
            self.files.insert(name.to_owned(), bytes.to_vec());
            Ok(())
        }
        fn list(&mut self) -> Result<Vec<String>, SinkError> {
            self.listed += 1;
            if let Some(rival) = self.begun.take() {
                self.files.insert(MARKER.to_owned(), write_owner(&rival));
                self.files.insert("alerts-9".to_owned(), Vec::new());
            }
            let names = self.files.keys().filter(|name| !name.starts_with('_'));
            Ok(names.cloned().collect())
        }
        fn list_folder(&mut self, _: &str, _: &str) -> Result<Vec<String>, SinkError> {
            unreachable!("a claim asks for all files")
        }
        fn remove(&mut self, name: &str) -> Result<(), SinkError> {
            self.files.remove(name);
            Ok(())
        }
    }

    fn make(place: &mut Fake, job: &JobContext) -> Result<(), SinkError> {
        Claim {
            sink: SINK,
            target: "folder out",
            marker: MARKER,
            is_output: &|name| name.starts_with("alerts-"),
        }
        .make(place, job)
    }

    fn owner(place: &Fake) -> Owner {
        read_owner(&place.files[MARKER], "out").unwrap()
    }

    fn other() -> Owner {
        Owner {
            job: JobId(uuid::Uuid::from_u128(99)),
            since: None,
        }
    }

    #[test]
    fn an_empty_place_is_claimed_and_kept() {
        let mut place = Fake::default();
        make(&mut place, &job(1, None, None)).unwrap();
        place.files.insert("hour=00/alerts-1".to_owned(), vec![]);
        make(&mut place, &job(2, None, Some(4))).unwrap();
        let mut known = job(3, Some(4), Some(4));
        known.sinks.insert(SINK.to_owned(), SinkMark::default());
        make(&mut place, &known).unwrap();
        assert_eq!(owner(&place), Owner::of(&job(1, None, None)));
        assert_eq!((place.files.len(), place.listed), (2, 1));
    }

    #[test]
    fn files_of_others_are_refused_or_removed_first() {
        for marker in [None, Some(other())] {
            let mut place = Fake::default();
            for name in ["hour=00/alerts-1", "alerts-2", "hour=00/windows-1"] {
                place.files.insert(name.to_owned(), vec![]);
            }
            if let Some(marker) = &marker {
                place.replace(MARKER, &write_owner(marker)).unwrap();
            }
            let mut job = job(1, None, None);
            let refused = make(&mut place, &job).unwrap_err();
            assert!(matches!(refused, SinkError::Refused(_)), "{refused:?}");
            assert!(place.files.contains_key("alerts-2"));
            job.replace_output = true;
            make(&mut place, &job).unwrap();
            let left: Vec<&String> = place.files.keys().collect();
            assert_eq!(left, [MARKER, "hour=00/windows-1"]);
            assert_eq!(owner(&place), Owner::of(&job));
        }
    }

    #[test]
    fn an_older_run_may_begin_the_same_job_meanwhile() {
        let mut place = Fake {
            begun: Some(Owner::of(&job(1, None, None))),
            ..Fake::default()
        };
        make(&mut place, &job(2, None, None)).unwrap();
        assert!(place.files.contains_key("alerts-9"));
        let mut place = Fake {
            begun: Some(other()),
            ..Fake::default()
        };
        let refused = make(&mut place, &job(2, None, None)).unwrap_err();
        assert!(refused.to_string().contains("another job"), "{refused}");
    }

    #[test]
    fn of_two_jobs_that_begin_together_one_has_the_place() {
        let mut place = Fake {
            rival: Some(other()),
            ..Fake::default()
        };
        let refused = make(&mut place, &job(1, None, None)).unwrap_err();
        assert!(matches!(refused, SinkError::Refused(_)), "{refused:?}");
        assert_eq!(owner(&place), other());
    }
}
