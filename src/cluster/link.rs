//! The connections on which processes talk, while they are one run.
//!
//! Each has a thread that reads and one that writes, so that nobody waits for a process that does
//! not listen; one more thread gives signs of life, and looks for those of the others.
//!
//! A process that is lost (its connection is gone, it says nothing, or it says that it has failed)
//! ends this one at once, with exit code 70: the state is as any kill leaves it, and all processes
//! start again together. In good order they part like this: each hands its part in to process 0,
//! process 0 says goodbye when it has all of them, and then everybody does.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, unbounded};
use uuid::Uuid;

use super::connect::{Mesh, connect};
use super::heartbeat::Health;
use super::hosts::Shape;
use super::message::{Beat, Message};
use super::{ClusterError, ClusterOptions, PEER_LOST, Part, Plan, Share, Usage};
use crate::terminal;

/// A sign of life is given at least this often, ...
const BEAT: Duration = Duration::from_secs(1);
/// ... and the counters are told this often.
const SHARE: Duration = Duration::from_millis(200);
/// How long to wait for the reason why a connection was closed, when the process may have said it.
const LAST_WORD: Duration = Duration::from_millis(500);
/// How long to try to say the last words of this process: to the others, and to people.
const FAREWELL: Duration = Duration::from_secs(1);

/// What a process must know or do for this.
pub struct Callbacks {
    /// Another process was asked to stop the run.
    pub stop: Box<dyn Fn() + Send + Sync>,
    /// The run has begun in its state, and nothing of it is done yet.
    pub begun: Box<dyn Fn() + Send + Sync>,
    /// What this process has used of its host.
    pub usage: fn() -> Usage,
}

/// How the counters of a run get to process 0.
pub struct Counters {
    /// What this process has done.
    pub own: Box<dyn Fn() -> Share + Send + Sync>,
    /// What another one has: called in process 0.
    pub other: Box<dyn Fn(usize, Share) + Send + Sync>,
}

/// This process and all others, connected.
pub struct Cluster {
    shape: Shape,
    addresses: Vec<String>,
    callbacks: Callbacks,
    counters: OnceLock<Counters>,
    /// Whether the last of the counters was told. Held from the look at the counters until they are
    /// on their way: what is looked at first comes first, and all of it comes.
    has_counted: Mutex<bool>,
    data: Mutex<Option<Vec<Option<TcpStream>>>>,
    /// What is to be written; gone when this process has said everything.
    outboxes: Mutex<BTreeMap<usize, Sender<Vec<u8>>>>,
    /// Disconnected when everything is written.
    written: Receiver<()>,
    heard: Receiver<(usize, Message)>,
    /// What was heard and is not asked for yet.
    kept: Mutex<Vec<(usize, Message)>>,
    health: Mutex<Health>,
    /// The processes that have said goodbye.
    gone: Mutex<BTreeSet<usize>>,
    /// Why processes have ended that have said so.
    ended: Mutex<BTreeMap<usize, String>>,
    run: OnceLock<Uuid>,
    /// The steps of this process's workers.
    steps: Vec<AtomicU64>,
    /// This process ends, and nobody else is to blame for anything any more.
    is_leaving: AtomicBool,
    is_ending: AtomicBool,
}

impl Cluster {
    /// Finds all other processes and begins to talk with them. Nobody can call this process
    /// afterwards.
    ///
    /// # Errors
    /// As [`connect`].
    pub fn join(options: ClusterOptions, callbacks: Callbacks) -> Result<Arc<Self>, ClusterError> {
        let Mesh { data, control } = connect(&options)?;
        let shape = options.shape;
        let (told, heard) = unbounded();
        let (writing, written) = unbounded();
        let mut outboxes = BTreeMap::new();
        let mut writers = Vec::new();
        for (process, stream) in each(&control) {
            let (outbox, words) = unbounded();
            outboxes.insert(process, outbox);
            writers.push((process, clone(stream)?, words));
        }
        let health = Health::new(options.heartbeat_timeout, shape.others(), Instant::now());
        let cluster = Arc::new(Self {
            shape,
            addresses: options.addresses,
            callbacks,
            counters: OnceLock::new(),
            has_counted: Mutex::default(),
            data: Mutex::new(Some(data)),
            outboxes: Mutex::new(outboxes),
            written,
            heard,
            kept: Mutex::default(),
            health: Mutex::new(health),
            gone: Mutex::default(),
            ended: Mutex::default(),
            run: OnceLock::new(),
            steps: (0..shape.workers).map(|_| AtomicU64::new(0)).collect(),
            is_leaving: AtomicBool::new(false),
            is_ending: AtomicBool::new(false),
        });
        for (process, stream, words) in writers {
            let writing = writing.clone();
            let write = move || {
                write_all(stream, &words);
                drop(writing);
            };
            spawn(format!("peer-write-{process}"), write)?;
        }
        for (process, stream) in each(&control) {
            let (stream, told, this) = (clone(stream)?, told.clone(), Arc::clone(&cluster));
            let listen = move || this.listen(process, stream, &told);
            spawn(format!("peer-read-{process}"), listen)?;
        }
        let (this, timeout) = (Arc::clone(&cluster), options.heartbeat_timeout);
        spawn("peer-beat".to_owned(), move || this.beat(timeout))?;
        watch_panics(&cluster);
        Ok(cluster)
    }

    /// Which process of how many this is.
    pub const fn shape(&self) -> Shape {
        self.shape
    }

    /// The connections for data, at the place of each other process; once.
    pub fn take_data(&self) -> Vec<Option<TcpStream>> {
        lock(&self.data).take().unwrap_or_default()
    }

    /// A worker of this process, by its number among all, has made a step.
    pub fn step(&self, worker: usize) {
        if let Some(steps) = self.steps.get(worker % self.shape.workers) {
            steps.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A worker of this process makes no more steps.
    pub fn is_done(&self, worker: usize) {
        if let Some(steps) = self.steps.get(worker % self.shape.workers) {
            steps.store(u64::MAX, Ordering::Relaxed);
        }
    }

    /// Has the counters told to process 0 from now on.
    pub fn count(&self, counters: Counters) {
        // Called once; a second time it would change nothing.
        let _ = self.counters.set(counters);
    }

    /// Compares the configurations, apart from what may differ between processes.
    ///
    /// # Errors
    /// In process 0: when that of another process is not its own.
    pub fn compare(
        &self,
        config: &BTreeMap<String, String>,
        may_differ: &[&str],
    ) -> Result<(), ClusterError> {
        if !self.shape.leads() {
            self.tell(0, &Message::Join(config.clone()));
            return Ok(());
        }
        let theirs = self.collect(|message| match message {
            Message::Join(config) => Ok(config),
            other => Err(other),
        });
        for (process, theirs) in theirs {
            let differences = differences(config, process, &theirs, may_differ);
            if !differences.is_empty() {
                let lines = differences.join("\n  ");
                return Err(ClusterError::Mismatch(format!(
                    "process {process} was started otherwise than process 0:\n  {lines}\nstart \
                     all processes with the same program and flags"
                )));
            }
        }
        Ok(())
    }

    /// In process 0: the run has begun.
    pub fn begun(&self) {
        (self.callbacks.begun)();
    }

    /// In process 0: tells all others where the run goes on.
    pub fn hand_out(&self, plan: Plan) {
        self.tell_all(&Message::Plan(Box::new(plan)));
    }

    /// In the other processes: where the run goes on.
    pub fn plan(&self) -> Plan {
        let (_, plan) = self.wait(|_, message| match message {
            Message::Plan(plan) => Ok(*plan),
            other => Err(other),
        });
        plan
    }

    /// Waits until all processes are ready for `run`. One that is ready for another run belongs to
    /// a start that was given up, or to the next one.
    pub fn meet(&self, run: Uuid) {
        let _ = self.run.set(run);
        self.tell_all(&Message::Ready(run));
        let theirs = self.collect(|message| match message {
            Message::Ready(run) => Ok(run),
            other => Err(other),
        });
        for (process, theirs) in theirs {
            if theirs != run {
                self.lost(process, "it is in another run");
            }
        }
    }

    /// What says how much this process has used of its host.
    pub fn usage_of_this(&self) -> fn() -> Usage {
        self.callbacks.usage
    }

    /// Asks process 0 to stop the run.
    pub fn ask_to_stop(&self) {
        self.tell(0, &Message::Stop);
    }

    /// In the other processes: hands in what was done (`part` looks at the counters for the last
    /// time), and waits until all others have done so.
    pub fn hand_in(&self, part: impl FnOnce() -> Part) {
        {
            let mut has_counted = lock(&self.has_counted);
            *has_counted = true;
            self.tell(0, &Message::Part(Box::new(part())));
        }
        self.wait(|process, message| match message {
            Message::Bye if process == 0 => Ok(()),
            other => Err(other),
        });
        self.leave();
    }

    /// In process 0: what the others have done, when all of them have done it.
    pub fn parts(&self) -> BTreeMap<usize, Part> {
        self.collect(|message| match message {
            Message::Part(part) => Ok(*part),
            other => Err(other),
        })
    }

    /// Says goodbye: nothing is left to be done here, and what the others do is their own affair.
    pub fn leave(&self) {
        self.is_leaving.store(true, Ordering::SeqCst);
        self.tell_all(&Message::Bye);
        self.finish(FAREWELL);
    }

    /// Tells the others that this process fails; does nothing when it has said goodbye.
    pub fn fail(&self, code: u8, why: &str) {
        if !self.is_leaving.swap(true, Ordering::SeqCst) {
            let why = why.to_owned();
            self.tell_all(&Message::Ended { code, why });
            self.finish(FAREWELL);
        }
    }

    /// Ends this process, because `process` is lost; unless that does not matter any more.
    pub fn lost(&self, process: usize, why: &str) {
        if lock(&self.gone).contains(&process) || self.is_leaving.load(Ordering::SeqCst) {
            return;
        }
        if self.is_ending.swap(true, Ordering::SeqCst) {
            return;
        }
        let why = self.last_word(process).unwrap_or_else(|| why.to_owned());
        if self.is_leaving.load(Ordering::SeqCst) {
            return;
        }
        let address = &self.addresses[process];
        let text = format!("process {process} ({address}) is lost: {why}");
        // The others first: nobody may read the standard error.
        self.fail(PEER_LOST, &text);
        say(format!("error: {text}; this process ends as well"));
        end(PEER_LOST);
    }

    fn is_at_its_end(&self) -> bool {
        self.is_ending.load(Ordering::SeqCst) || self.is_leaving.load(Ordering::SeqCst)
    }

    /// Why `process` has ended, if it says so in time.
    fn last_word(&self, process: usize) -> Option<String> {
        let deadline = Instant::now() + LAST_WORD;
        loop {
            let said = lock(&self.ended).get(&process).cloned();
            if said.is_some() || Instant::now() > deadline {
                return said;
            }
            thread::sleep(LAST_WORD / 50);
        }
    }

    fn tell(&self, process: usize, message: &Message) {
        if let Some(outbox) = lock(&self.outboxes).get(&process) {
            // Where nobody writes any more, the process is lost, and that is seen elsewhere.
            let _ = outbox.send(message.encode());
        }
    }

    fn tell_all(&self, message: &Message) {
        let bytes = message.encode();
        for outbox in lock(&self.outboxes).values() {
            let _ = outbox.send(bytes.clone());
        }
    }

    /// Nothing more is said; what was said is written, if that is possible in time.
    fn finish(&self, timeout: Duration) {
        lock(&self.outboxes).clear();
        // Nobody ever sends: this ends when all writers have.
        let _ = self.written.recv_timeout(timeout);
    }

    /// Waits for a message of any process that `take` wants; others are kept for later.
    fn wait<T>(&self, take: impl Fn(usize, Message) -> Result<T, Message>) -> (usize, T) {
        let mut kept = lock(&self.kept);
        let earlier = std::mem::take(&mut *kept);
        let mut found = None;
        for (process, message) in earlier {
            if found.is_some() {
                kept.push((process, message));
                continue;
            }
            match take(process, message) {
                Ok(wanted) => found = Some((process, wanted)),
                Err(other) => kept.push((process, other)),
            }
        }
        loop {
            if let Some(found) = found {
                return found;
            }
            let Ok((process, message)) = self.heard.recv() else {
                // All others are gone: whoever has seen that ends this process.
                thread::park();
                continue;
            };
            match take(process, message) {
                Ok(wanted) => found = Some((process, wanted)),
                Err(other) => kept.push((process, other)),
            }
        }
    }

    /// One such message of each other process.
    fn collect<T>(&self, take: impl Fn(Message) -> Result<T, Message>) -> BTreeMap<usize, T> {
        let mut all = BTreeMap::new();
        while all.len() + 1 < self.shape.processes {
            let (process, one) = self.wait(|process, message| {
                if all.contains_key(&process) {
                    return Err(message);
                }
                take(message)
            });
            all.insert(process, one);
        }
        all
    }

    /// Takes in what a process says, until it is gone.
    fn listen(&self, process: usize, stream: TcpStream, told: &Sender<(usize, Message)>) {
        let mut reader = std::io::BufReader::new(stream);
        loop {
            match Message::read(&mut reader) {
                Ok(Some(message)) => self.hear(process, message, told),
                Ok(None) => return self.lost(process, "its connection was closed"),
                Err(error) => return self.lost(process, &error.to_string()),
            }
        }
    }

    fn hear(&self, process: usize, message: Message, told: &Sender<(usize, Message)>) {
        let now = Instant::now();
        lock(&self.health).heard(process, now);
        match message {
            Message::Beat(beat) => self.hear_beat(process, &beat, now),
            Message::Share(share) => {
                if let Some(counters) = self.counters.get() {
                    (counters.other)(process, *share);
                }
            }
            Message::Stop => (self.callbacks.stop)(),
            Message::Ended { code, why } => {
                let why = format!("it has ended with exit code {code}: {why}");
                lock(&self.ended).insert(process, why.clone());
                self.lost(process, &why);
            }
            other => {
                if other == Message::Bye {
                    lock(&self.health).forget(process);
                    lock(&self.gone).insert(process);
                }
                // Nobody waits any more: then it does not matter.
                let _ = told.send((process, other));
            }
        }
    }

    fn hear_beat(&self, process: usize, beat: &Beat, now: Instant) {
        if let (Some(theirs), Some(ours)) = (beat.run, self.run.get())
            && theirs != *ours
        {
            self.lost(process, "it is in another run");
        }
        lock(&self.health).beat(process, &beat.steps, now);
    }

    /// Tells process 0 what was done until now, unless it knows all of it.
    fn tell_counters(&self) {
        if let Some(counters) = self.counters.get()
            && !self.shape.leads()
        {
            let has_counted = lock(&self.has_counted);
            if !*has_counted {
                self.tell(0, &Message::Share(Box::new((counters.own)())));
            }
        }
    }

    /// Gives signs of life and looks for those of the others, as long as the process lives.
    fn beat(&self, timeout: Duration) {
        let interval = BEAT.min(timeout / 5);
        let tick = SHARE.min(interval);
        let mut beaten: Option<Instant> = None;
        while !self.is_leaving.load(Ordering::SeqCst) {
            if beaten.is_none_or(|at| at.elapsed() >= interval) {
                beaten = Some(Instant::now());
                let steps = self.steps.iter().map(|steps| steps.load(Ordering::Relaxed));
                self.tell_all(&Message::Beat(Beat {
                    run: self.run.get().copied(),
                    steps: steps.collect(),
                }));
            }
            self.tell_counters();
            let silence = lock(&self.health).look(Instant::now());
            if let Some(silence) = silence {
                self.lost(silence.process, &silence.why);
            }
            thread::sleep(tick);
        }
    }
}

/// A line per flag that a process has otherwise than process 0, apart from those that may differ.
fn differences(
    ours: &BTreeMap<String, String>,
    process: usize,
    theirs: &BTreeMap<String, String>,
    may_differ: &[&str],
) -> Vec<String> {
    let names: BTreeSet<&String> = ours.keys().chain(theirs.keys()).collect();
    let differ = |name: &&String| {
        !may_differ.contains(&name.as_str()) && ours.get(*name) != theirs.get(*name)
    };
    let value = |of: &BTreeMap<String, String>, name: &String| {
        of.get(name)
            .cloned()
            .unwrap_or_else(|| "not set".to_owned())
    };
    let line = |name: &String| {
        let (ours, theirs) = (value(ours, name), value(theirs, name));
        format!("{name}: {ours} in process 0, {theirs} in process {process}")
    };
    names.into_iter().filter(differ).map(line).collect()
}

fn each(streams: &[Option<TcpStream>]) -> impl Iterator<Item = (usize, &TcpStream)> {
    let streams = streams.iter().enumerate();
    streams.filter_map(|(process, stream)| Some((process, stream.as_ref()?)))
}

fn clone(stream: &TcpStream) -> Result<TcpStream, ClusterError> {
    let failed = |error| ClusterError::Peer(format!("a connection cannot be used: {error}"));
    stream.try_clone().map_err(failed)
}

fn spawn(name: String, work: impl FnOnce() + Send + 'static) -> Result<(), ClusterError> {
    let failed = |error| ClusterError::Peer(format!("no thread could be started: {error}"));
    let thread = thread::Builder::new().name(name);
    thread.spawn(work).map(drop).map_err(failed)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is locked here is valid between any two statements.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn write_all(mut stream: TcpStream, words: &Receiver<Vec<u8>>) {
    for bytes in words {
        // Whoever reads from the process sees that it is lost.
        if stream.write_all(&bytes).is_err() {
            return;
        }
    }
    let _ = stream.shutdown(Shutdown::Write);
}

/// timely's own threads panic when their connection breaks, and all workers after them: before
/// that, this process ends.
fn watch_panics(cluster: &Arc<Cluster>) {
    let (cluster, usual) = (Arc::clone(cluster), std::panic::take_hook());
    std::panic::set_hook(Box::new(move |info| {
        let thread = thread::current();
        let name = thread.name().unwrap_or_default();
        if let Some(process) = process_of(name) {
            cluster.lost(process, "its connection for data has broken");
        } else if !name.starts_with("timely:") || !cluster.is_at_its_end() {
            return usual(info);
        }
        // This process ends: until then nobody panics because of this one.
        loop {
            thread::park();
        }
    }));
}

/// The process with which one of timely's threads exchanges data.
fn process_of(thread: &str) -> Option<usize> {
    let number = thread
        .strip_prefix("timely:recv-")
        .or_else(|| thread.strip_prefix("timely:send-"))?;
    number.parse().ok()
}

/// Writes a message to standard error, and does not wait for it for long.
fn say(text: String) {
    let (sender, said) = crossbeam_channel::bounded(1);
    let write = move || {
        terminal::message(format_args!("{text}"));
        // Nobody waits any more.
        let _ = sender.send(());
    };
    if thread::Builder::new().spawn(write).is_ok() {
        let _ = said.recv_timeout(FAREWELL);
    }
}

/// Ends the process, without waiting for anything.
fn end(code: u8) -> ! {
    terminal::give_up_line();
    // SAFETY: takes no pointer and does not return. Nothing that this process holds needs to be
    // dropped: locks are freed by the system, and a file that is only half written has no name yet
    // or is cut when it is opened again.
    unsafe { libc::_exit(i32::from(code)) }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::super::Secret;
    use super::*;

    fn clusters(processes: usize) -> Vec<Arc<Cluster>> {
        let secret = Secret::draw();
        let listeners: Vec<_> = (0..processes)
            .map(|_| TcpListener::bind("127.0.0.1:0").expect("a port"))
            .collect();
        let address = |listener: &TcpListener| listener.local_addr().expect("bound").to_string();
        let addresses: Vec<_> = listeners.iter().map(address).collect();
        let start = |(process, listener)| {
            let options = ClusterOptions {
                shape: Shape {
                    process,
                    processes,
                    workers: 1,
                },
                addresses: addresses.clone(),
                listener,
                secret: secret.clone(),
                connect_timeout: Duration::from_secs(20),
                heartbeat_timeout: Duration::from_secs(60),
            };
            let callbacks = Callbacks {
                stop: Box::new(|| ()),
                begun: Box::new(|| ()),
                usage: Usage::default,
            };
            thread::spawn(move || Cluster::join(options, callbacks).expect("connected"))
        };
        let threads: Vec<_> = listeners.into_iter().enumerate().map(start).collect();
        let join = |thread: thread::JoinHandle<_>| thread.join().expect("no panic");
        threads.into_iter().map(join).collect()
    }

    fn config(window: &str) -> BTreeMap<String, String> {
        let flag = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
        [("window", window), ("report", window)].map(flag).into()
    }

    #[test]
    fn a_run_from_its_plan_to_its_end() {
        let all = clusters(3);
        let run = Uuid::from_u128(7);
        let others = all[1..].iter().cloned().map(|cluster| {
            thread::spawn(move || {
                cluster.compare(&config("1m"), &[]).expect("sent");
                assert_eq!(cluster.plan().run, run);
                cluster.meet(run);
                let read = cluster.shape().process as u64;
                let share = Share {
                    read,
                    ..Share::default()
                };
                let fates = BTreeMap::new();
                cluster.hand_in(|| Part { share, fates });
            })
        });
        let others: Vec<_> = others.collect();
        all[0].compare(&config("1m"), &[]).expect("the same");
        all[0].hand_out(Plan { run, work: None });
        all[0].meet(run);
        let parts = all[0].parts();
        let read: Vec<_> = parts
            .iter()
            .map(|(it, part)| (*it, part.share.read))
            .collect();
        assert_eq!(read, [(1, 1), (2, 2)]);
        all[0].leave();
        others
            .into_iter()
            .for_each(|thread| thread.join().expect("no panic"));
    }

    /// Each look at the counters takes something away: all of it arrives, and nothing after the
    /// last one.
    #[test]
    fn no_counter_is_told_after_the_last() {
        let all = clusters(2);
        let seen = Arc::new(Mutex::new(Vec::new()));
        let seeing = Arc::clone(&seen);
        all[0].count(Counters {
            own: Box::new(Share::default),
            other: Box::new(move |_, share| lock(&seeing).push(share.read)),
        });
        let looks = Arc::new(AtomicU64::new(0));
        let look = move || Share {
            read: looks.fetch_add(1, Ordering::SeqCst),
            ..Share::default()
        };
        let own = look.clone();
        let other = Arc::clone(&all[1]);
        other.count(Counters {
            own: Box::new(own),
            other: Box::new(|_, _| ()),
        });
        let telling = Arc::clone(&other);
        let telling = thread::spawn(move || (0..2000).for_each(|_| telling.tell_counters()));
        let handing = thread::spawn(move || {
            other.hand_in(|| Part {
                share: look(),
                fates: BTreeMap::new(),
            });
        });
        let last = all[0].parts()[&1].share.read;
        telling.join().expect("no panic");
        all[0].leave();
        handing.join().expect("no panic");
        assert_eq!(*lock(&seen), (0..last).collect::<Vec<_>>());
    }

    #[test]
    fn other_flags_are_named() {
        let all = clusters(2);
        all[1].compare(&config("2m"), &[]).expect("sent");
        let error = all[0].compare(&config("1m"), &["report"]);
        let text = error.expect_err("different").to_string();
        assert!(
            text.contains("window") && !text.contains("report"),
            "{text}"
        );
        all.iter().for_each(|cluster| cluster.leave());
    }

    #[test]
    fn the_threads_of_timely_are_known_by_name() {
        assert_eq!(process_of("timely:recv-12"), Some(12));
        assert_eq!(process_of("timely:send-0"), Some(0));
        assert_eq!(process_of("timely:work-0"), None);
    }
}
