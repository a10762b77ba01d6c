//! A file of lines with its lock and its marker.

use super::machine::pause;
use super::world::world;
use crate::rules::{self, Rule};
use crate::sink::commit::lines::LineFile;
use crate::sink::commit::owner::Owner;
use crate::sink::ndjson::JobSink;
use crate::sink::{OutputSpec, Sink, SinkContext, SinkError, sink_id};

/// The file.
#[derive(Default)]
pub(super) struct LinesWorld {
    pub(super) bytes: Vec<u8>,
    owner: Option<Owner>,
    /// Who has the lock, by the number of its attempt.
    holder: Option<u64>,
    attempts: u64,
    /// Everything that was ever appended, and where.
    pub(super) history: Vec<(usize, Vec<u8>)>,
}

/// The file as a run sees it.
struct File {
    sink: usize,
    /// The own number.
    attempt: u64,
}

impl File {
    fn with<T>(&self, step: impl FnOnce(&mut LinesWorld) -> T) -> T {
        world(|world| {
            step(
                world
                    .lines
                    .get_mut(&self.sink)
                    .expect("it is a file of lines"),
            )
        })
    }
}

impl Drop for File {
    /// The system frees a lock when its process ends, however it ends.
    fn drop(&mut self) {
        let attempt = self.attempt;
        self.with(|file| file.holder.take_if(|holder| *holder == attempt));
    }
}

impl LineFile for File {
    fn lock(&mut self) -> Result<Option<String>, SinkError> {
        pause();
        let attempt = self.attempt;
        Ok(self.with(|file| {
            if let Some(holder) = file.holder
                && holder != attempt
                && rules::on(Rule::LinesLock)
            {
                return Some(format!("attempt {holder}"));
            }
            file.holder = Some(attempt);
            None
        }))
    }

    fn wait(&mut self, _: &str) -> Result<(), SinkError> {
        pause();
        Ok(())
    }

    fn owner(&mut self) -> Result<Option<Owner>, SinkError> {
        pause();
        Ok(self.with(|file| file.owner))
    }

    fn own(&mut self, owner: &Owner) -> Result<(), SinkError> {
        pause();
        self.with(|file| file.owner = Some(*owner));
        Ok(())
    }

    fn length(&mut self) -> Result<u64, SinkError> {
        pause();
        Ok(self.with(|file| file.bytes.len() as u64))
    }

    fn cut(&mut self, length: u64) -> Result<(), SinkError> {
        pause();
        self.with(|file| file.bytes.truncate(length as usize));
        world(|world| world.note(|| format!("lines cut to {length}")));
        Ok(())
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), SinkError> {
        // A crash may leave any part; some bytes at a time will do.
        for part in bytes.chunks(97) {
            pause();
            self.with(|file| {
                file.history.push((file.bytes.len(), part.to_vec()));
                file.bytes.extend_from_slice(part);
            });
            world(|world| {
                world.note(|| format!("lines + {}", String::from_utf8_lossy(part)));
            });
        }
        Ok(())
    }

    fn sync(&mut self) -> Result<(), SinkError> {
        pause();
        Ok(())
    }
}

/// Opens a sink on the file with this number.
pub(super) fn open(
    sink: usize,
    output: &OutputSpec,
    identity: &str,
    context: &SinkContext,
) -> Result<Box<dyn Sink>, SinkError> {
    let job = context.exactly_once().expect("a run with a state");
    let attempt = world(|world| {
        let file = world.lines.get_mut(&sink).expect("it is a file of lines");
        file.attempts += 1;
        file.attempts
    });
    let file = File { sink, attempt };
    let id = sink_id(output.name, identity);
    let sink = JobSink::open(file, job, &id, "lines", &output.columns)?;
    Ok(Box::new(sink))
}
