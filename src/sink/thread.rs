//! A sink on a thread of its own, behind a bounded queue.
//!
//! Workers never wait for a sink: [`SinkThread::send`] gives an epoch back when the queue is full,
//! and the source slows down. What the sink did is told through a callback.
//!
//! Where [`SinkFactory::commits_shards_apart`] says so, each shard has a sink and a thread of its
//! own behind the one handle, and their commits do not wait for one another.

use std::any::Any;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

use super::commit::explained;
use super::{EpochRows, OutputSpec, SinkContext, SinkError, SinkFactory, Written};
use crate::host::{self, Thread};
use crate::rules::{self, Rule};
use crate::time::{Epoch, Shard};

/// How many epochs (of one shard each) may wait per shard.
const QUEUED_EPOCHS: usize = 8;

/// What a sink's thread has to tell.
#[derive(Debug)]
pub enum SinkEvent {
    /// An epoch of a shard was committed.
    Committed {
        /// The epoch.
        epoch: Epoch,
        /// The shard.
        shard: Shard,
        /// What became visible with it; nothing, when an earlier run had committed it.
        written: Written,
        /// What the next checkpoint has to know of the shard.
        position: u64,
    },
    /// The sink cannot go on: nothing more is committed, and this is the last event.
    Failed(SinkError),
    /// The sink was closed as asked, and this was written last; the last event.
    Closed(Written),
}

/// Takes events on the sink's thread; must not wait.
pub type OnSinkEvent = Arc<dyn Fn(SinkEvent) + Send + Sync>;

/// A handle on a sink's thread. Dropping it abandons the sink: the thread stops after the epoch
/// at hand and publishes nothing more.
#[derive(Debug)]
pub struct SinkThread {
    lanes: Vec<Lane>,
    is_closing: Arc<AtomicBool>,
    is_dropped: Arc<AtomicBool>,
}

/// Shards whose commits wait for one another.
#[derive(Debug)]
struct Lane {
    shards: Vec<Shard>,
    queue: Option<Sender<EpochRows>>,
    thread: Thread,
}

impl SinkThread {
    /// Starts a thread that opens a sink of `factory` for `shards` and commits what is sent.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(
        factory: Arc<dyn SinkFactory>,
        output: OutputSpec,
        shards: Vec<Shard>,
        context: SinkContext,
        on_event: OnSinkEvent,
    ) -> io::Result<Self> {
        let groups = if shards.len() > 1 && factory.commits_shards_apart(&context) {
            shards.into_iter().map(|shard| vec![shard]).collect()
        } else {
            vec![shards]
        };
        let mut thread = Self {
            lanes: Vec::new(),
            is_closing: Arc::default(),
            is_dropped: Arc::default(),
        };
        let on_event = thread.one_voice(groups.len(), on_event);
        for shards in groups {
            let (sender, epochs) = bounded(QUEUED_EPOCHS * shards.len().max(1));
            let body = Body {
                factory: Arc::clone(&factory),
                output: output.clone(),
                shards: shards.clone(),
                context: context.clone(),
                epochs,
                is_closing: Arc::clone(&thread.is_closing),
                is_dropped: Arc::clone(&thread.is_dropped),
                on_event: Arc::clone(&on_event),
            };
            let name = format!("sink-{}", body.output.name);
            thread.lanes.push(Lane {
                shards,
                queue: Some(sender),
                thread: host::spawn(name, move || body.run())?,
            });
        }
        Ok(thread)
    }

    /// Makes the last events of so many lanes one: closed when all are, failed with the first that
    /// has, which ends the others.
    fn one_voice(&self, lanes: usize, on_event: OnSinkEvent) -> OnSinkEvent {
        let open = Mutex::new((lanes, Written::default()));
        let is_dropped = Arc::clone(&self.is_dropped);
        Arc::new(move |event| {
            let mut open = open.lock().unwrap_or_else(PoisonError::into_inner);
            let (lanes, written) = &mut *open;
            if *lanes == 0 {
                return;
            }
            match event {
                SinkEvent::Committed { .. } => on_event(event),
                SinkEvent::Closed(more) => {
                    *lanes -= 1;
                    *written += more;
                    if *lanes == 0 {
                        on_event(SinkEvent::Closed(*written));
                    }
                }
                SinkEvent::Failed(error) => {
                    *lanes = 0;
                    is_dropped.store(true, Ordering::SeqCst);
                    on_event(SinkEvent::Failed(error));
                }
            }
        })
    }

    /// Queues the rows of one epoch of one shard, without ever waiting. After a failure, which
    /// [`SinkEvent::Failed`] tells, they are dropped.
    ///
    /// # Errors
    /// Gives the rows back when the queue is full.
    #[expect(clippy::result_large_err, reason = "the rows go back to their owner")]
    pub fn send(&self, rows: EpochRows) -> Result<(), EpochRows> {
        let lane = self
            .lanes
            .iter()
            .find(|lane| lane.shards.contains(&rows.shard));
        let Some(queue) = lane
            .or(self.lanes.first())
            .and_then(|lane| lane.queue.as_ref())
        else {
            return Ok(());
        };
        match queue.try_send(rows) {
            Err(TrySendError::Full(rows)) => Err(rows),
            Ok(()) | Err(TrySendError::Disconnected(_)) => Ok(()),
        }
    }

    /// Asks the sink to close once everything queued is committed. Does not wait;
    /// [`SinkEvent::Closed`] follows.
    pub fn close(&mut self) {
        self.is_closing.store(true, Ordering::SeqCst);
        for lane in &mut self.lanes {
            lane.queue = None;
        }
    }

    /// Whether the thread has ended.
    pub fn is_finished(&self) -> bool {
        self.lanes.iter().all(|lane| lane.thread.is_finished())
    }

    /// Asks the sink to close and waits until its thread has ended.
    pub fn join(mut self) {
        self.close();
        for lane in self.lanes.drain(..) {
            // A panic in the sink was reported as an event.
            let _ = lane.thread.join();
        }
    }
}

impl Drop for SinkThread {
    fn drop(&mut self) {
        if !self.is_closing.load(Ordering::SeqCst) {
            self.is_dropped.store(true, Ordering::SeqCst);
        }
    }
}

/// What the thread owns.
struct Body {
    factory: Arc<dyn SinkFactory>,
    output: OutputSpec,
    shards: Vec<Shard>,
    context: SinkContext,
    epochs: Receiver<EpochRows>,
    is_closing: Arc<AtomicBool>,
    is_dropped: Arc<AtomicBool>,
    on_event: OnSinkEvent,
}

impl Body {
    fn run(self) {
        let outcome = host::catch(|| self.commit_all());
        let event = match outcome {
            Ok(Ok(Some(written))) => SinkEvent::Closed(written),
            Ok(Ok(None)) => SinkEvent::Failed(SinkError::Aborted),
            Ok(Err(error)) => SinkEvent::Failed(explained(error, self.context.job.as_deref())),
            Err(panic) => SinkEvent::Failed(SinkError::Write {
                target: format!("output {}", self.output.name),
                reason: format!(
                    "defect in the sink, please report it: {}",
                    panic_text(&*panic)
                ),
            }),
        };
        (self.on_event)(event);
    }

    /// `None`: abandoned.
    fn commit_all(&self) -> Result<Option<Written>, SinkError> {
        let mut sink = self
            .factory
            .open(&self.output, &self.shards, &self.context)?;
        while let Some(epoch) = host::receive(&self.epochs) {
            if self.is_abandoned() {
                return Ok(None);
            }
            let is_committed =
                sink.committed(epoch.shard) >= Some(epoch.epoch) && rules::on(Rule::SkipCommitted);
            let written = if is_committed {
                Written::default()
            } else {
                sink.commit(&epoch)?
            };
            let (epoch, shard) = (epoch.epoch, epoch.shard);
            (self.on_event)(SinkEvent::Committed {
                epoch,
                shard,
                written,
                position: sink.position(shard),
            });
        }
        if self.is_abandoned() || !self.is_closing.load(Ordering::SeqCst) {
            return Ok(None);
        }
        sink.close().map(Some)
    }

    fn is_abandoned(&self) -> bool {
        self.context.is_aborted() || self.is_dropped.load(Ordering::SeqCst)
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
        (Some(text), _) => text,
        (_, Some(text)) => text,
        _ => "no message",
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crossbeam_channel::unbounded;

    use super::super::encode::sample::{Sample, rows};
    use super::super::{Guarantee, JobContext, OutputKind, Sink};
    use super::*;
    use crate::rows::Tabular;
    use crate::sink::Layout;
    use crate::time::EventTime;

    fn output() -> OutputSpec {
        OutputSpec {
            pipeline: "test",
            name: "rows",
            columns: Sample::columns().into(),
            kind: OutputKind::Log,
            layout: Layout::Flat,
        }
    }

    fn epoch(number: u64) -> EpochRows {
        EpochRows {
            shard: Shard(0),
            epoch: Epoch(number),
            watermark: EventTime::MIN,
            is_checkpoint: false,
            rows: rows::<Sample>(),
        }
    }

    /// Commits only what it is allowed to; panics at epoch 99.
    struct Gate(Receiver<()>, Arc<Mutex<Vec<u64>>>);

    impl SinkFactory for Gate {
        fn identity(&self) -> String {
            "gate".to_owned()
        }

        fn guarantee(&self) -> Guarantee {
            Guarantee::ExactlyOnce
        }

        fn shards(&self) -> u32 {
            1
        }
        fn check(&self, _: &OutputSpec) -> Result<String, SinkError> {
            Ok(String::new())
        }
        fn prepare(
            &self,
            _: &OutputSpec,
            _: u32,
            _job: Option<&JobContext>,
        ) -> Result<(), SinkError> {
            Ok(())
        }
        fn open(
            &self,
            _: &OutputSpec,
            _: &[Shard],
            _: &SinkContext,
        ) -> Result<Box<dyn Sink>, SinkError> {
            Ok(Box::new(Self(self.0.clone(), Arc::clone(&self.1))))
        }
    }

    impl Sink for Gate {
        fn commit(&mut self, epoch: &EpochRows) -> Result<Written, SinkError> {
            self.0
                .recv_timeout(Duration::from_secs(10))
                .expect("the test lets it go on");
            assert!(epoch.epoch.0 != 99, "ninety-nine");
            self.1.lock().unwrap().push(epoch.epoch.0);
            Ok(Written { rows: 1, bytes: 2 })
        }
        fn close(&mut self) -> Result<Written, SinkError> {
            self.1.lock().unwrap().push(1000);
            Ok(Written { rows: 5, bytes: 6 })
        }
    }

    struct Rig {
        thread: SinkThread,
        go: Sender<()>,
        events: Receiver<SinkEvent>,
        committed: Arc<Mutex<Vec<u64>>>,
    }

    fn rig() -> Rig {
        let (go, gate) = unbounded();
        let (told, events) = unbounded();
        let committed = Arc::new(Mutex::new(Vec::new()));
        let factory = Arc::new(Gate(gate, Arc::clone(&committed)));
        let tell: OnSinkEvent = Arc::new(move |event| {
            let _ = told.send(event);
        });
        let context = SinkContext::default();
        let thread = SinkThread::start(factory, output(), vec![Shard(0)], context, tell).unwrap();
        Rig {
            thread,
            go,
            events,
            committed,
        }
    }

    fn next(events: &Receiver<SinkEvent>) -> SinkEvent {
        events.recv_timeout(Duration::from_secs(10)).unwrap()
    }

    #[test]
    fn a_full_queue_gives_rows_back_and_close_drains_it() {
        let mut rig = rig();
        let mut sent = 0;
        while rig.thread.send(epoch(sent)).is_ok() {
            sent += 1;
            assert!(sent < 100, "the queue must be bounded");
        }
        assert!(sent >= QUEUED_EPOCHS as u64);
        rig.thread.close();
        for _ in 0..sent {
            rig.go.send(()).unwrap();
        }
        for number in 0..sent {
            match next(&rig.events) {
                SinkEvent::Committed { epoch, written, .. } => {
                    assert_eq!((epoch.0, written.rows), (number, 1));
                }
                other => panic!("{other:?}"),
            }
        }
        assert!(matches!(
            next(&rig.events),
            SinkEvent::Closed(Written { rows: 5, bytes: 6 })
        ));
        rig.thread.join();
    }

    #[test]
    fn a_dropped_handle_publishes_nothing_more() {
        let Rig {
            thread,
            go,
            events,
            committed,
        } = rig();
        for number in 0..3 {
            thread.send(epoch(number)).unwrap();
        }
        drop(thread);
        go.send(()).unwrap();
        go.send(()).unwrap();
        go.send(()).unwrap();
        loop {
            match next(&events) {
                SinkEvent::Failed(SinkError::Aborted) => break,
                SinkEvent::Committed { .. } => {}
                other => panic!("{other:?}"),
            }
        }
        assert!(!committed.lock().unwrap().contains(&1000));
    }

    /// Shard 0 waits until shard 1 has committed; shard 9 fails.
    struct Apart(Mutex<Option<Sender<()>>>, Receiver<()>);

    struct ApartSink(Shard, Option<Sender<()>>, Receiver<()>);

    impl SinkFactory for Apart {
        fn identity(&self) -> String {
            "apart".to_owned()
        }
        fn guarantee(&self) -> Guarantee {
            Guarantee::ExactlyOnce
        }
        fn shards(&self) -> u32 {
            10
        }
        fn check(&self, _: &OutputSpec) -> Result<String, SinkError> {
            Ok(String::new())
        }
        fn prepare(
            &self,
            _: &OutputSpec,
            _: u32,
            _job: Option<&JobContext>,
        ) -> Result<(), SinkError> {
            Ok(())
        }
        fn open(
            &self,
            _: &OutputSpec,
            shards: &[Shard],
            _: &SinkContext,
        ) -> Result<Box<dyn Sink>, SinkError> {
            assert_eq!(shards.len(), 1);
            let sender = if shards[0] == Shard(1) {
                self.0.lock().unwrap().take()
            } else {
                None
            };
            Ok(Box::new(ApartSink(shards[0], sender, self.1.clone())))
        }
        fn commits_shards_apart(&self, _: &SinkContext) -> bool {
            true
        }
    }

    impl Sink for ApartSink {
        fn commit(&mut self, epoch: &EpochRows) -> Result<Written, SinkError> {
            assert_eq!(epoch.shard, self.0);
            match self.0.0 {
                0 => self.2.recv_timeout(Duration::from_secs(10)).unwrap(),
                1 => self.1.as_ref().unwrap().send(()).unwrap(),
                _ => return Err(SinkError::Fenced("nine".to_owned())),
            }
            Ok(Written { rows: 1, bytes: 2 })
        }
        fn close(&mut self) -> Result<Written, SinkError> {
            Ok(Written { rows: 5, bytes: 6 })
        }
    }

    fn apart(shards: [u32; 2]) -> (SinkThread, Receiver<SinkEvent>) {
        let (sender, receiver) = unbounded();
        let factory = Arc::new(Apart(Mutex::new(Some(sender)), receiver));
        let (told, events) = unbounded();
        let tell: OnSinkEvent = Arc::new(move |event| {
            let _ = told.send(event);
        });
        let context = SinkContext::default();
        let shards = shards.map(Shard).to_vec();
        let thread = SinkThread::start(factory, output(), shards, context, tell).unwrap();
        (thread, events)
    }

    #[test]
    fn shards_apart_do_not_wait_for_one_another_and_close_as_one() {
        let (mut thread, events) = apart([0, 1]);
        for shard in [0, 1].map(Shard) {
            let rows = EpochRows { shard, ..epoch(7) };
            thread.send(rows).unwrap();
        }
        thread.close();
        for _ in 0..2 {
            let event = next(&events);
            assert!(
                matches!(
                    event,
                    SinkEvent::Committed {
                        epoch: Epoch(7),
                        ..
                    }
                ),
                "{event:?}"
            );
        }
        let event = next(&events);
        assert!(
            matches!(
                event,
                SinkEvent::Closed(Written {
                    rows: 10,
                    bytes: 12
                })
            ),
            "{event:?}"
        );
        thread.join();
        assert!(events.try_recv().is_err());
    }

    #[test]
    fn the_first_failure_of_a_shard_is_the_last_event_of_all() {
        let (mut thread, events) = apart([1, 9]);
        let shard = Shard(9);
        thread.send(EpochRows { shard, ..epoch(7) }).unwrap();
        let event = next(&events);
        assert!(
            matches!(event, SinkEvent::Failed(SinkError::Fenced(_))),
            "{event:?}"
        );
        thread.close();
        thread.join();
        assert!(events.try_recv().is_err());
    }

    #[test]
    fn a_panic_is_a_failure() {
        let rig = rig();
        rig.thread.send(epoch(99)).unwrap();
        rig.go.send(()).unwrap();
        let SinkEvent::Failed(error) = next(&rig.events) else {
            panic!("not failed")
        };
        assert!(error.to_string().contains("ninety-nine"), "{error}");
        while !rig.thread.is_finished() {
            std::thread::yield_now();
        }
        rig.thread.send(epoch(100)).unwrap();
    }
}
