//! The machine that a simulated run believes to run on: coroutines in place of threads, a clock
//! that moves when the scheduler says so.
//!
//! A coroutine runs until it pauses; whoever resumes it decides what happens meanwhile. All of this
//! belongs to one operating-system thread, so several tests can simulate side by side.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::panic::resume_unwind;
use std::rc::Rc;
use std::thread::ScopedJoinHandle;
use std::time::{Duration, Instant};

use corosensei::stack::DefaultStack;
use corosensei::{Coroutine, CoroutineResult, Yielder};
use crossbeam_channel::{Receiver, TryRecvError};
use timely::WorkerConfig;
use timely::communication::allocator::{Allocator, ProcessBuilder};
use timely::scheduling::Activator;
use timely::worker::Worker;
use uuid::Uuid;

use crate::time::EventTime;

/// More than the deepest call so far needs; a page behind it stops what needs more.
const STACK_BYTES: usize = 1 << 20;
/// The wall clock at the beginning of an execution: later than the event times of all records.
const WALL_BEGIN_MS: i64 = 1_000_000;

/// What a coroutine is resumed with: whether it lives on.
type Life = bool;

/// With what a coroutine unwinds that is killed.
struct Killed;

/// A simulated thread.
pub(super) struct Task {
    /// The worker that it belongs to, as far as crashes are concerned.
    pub(super) worker: usize,
    coroutine: Option<Coroutine<Life, (), ()>>,
    place: Rc<Place>,
}

/// What must be known while a task runs.
struct Place {
    run: usize,
    worker: usize,
    yielder: Cell<*const Yielder<Life, ()>>,
    timers: RefCell<Vec<(Instant, Activator)>>,
}

thread_local! {
    static CURRENT: RefCell<Option<Rc<Place>>> = const { RefCell::new(None) };
    static SPAWNED: RefCell<Vec<Task>> = const { RefCell::new(Vec::new()) };
    static STACKS: RefCell<Vec<DefaultStack>> = const { RefCell::new(Vec::new()) };
    static PANICS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
    static MESSAGES: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
    static CLOCK: Cell<Duration> = const { Cell::new(Duration::ZERO) };
    static IDS: Cell<u128> = const { Cell::new(0) };
    static BEGIN: Instant = Instant::now();
}

/// Sets the clock and everything else back to the beginning of an execution.
pub(super) fn reset() {
    SPAWNED.take();
    PANICS.take();
    MESSAGES.take();
    CLOCK.set(Duration::ZERO);
    IDS.set(0);
}

/// Moves the clock on.
pub(super) fn advance(by: Duration) {
    CLOCK.set(CLOCK.get() + by);
}

/// The tasks that were started since this was asked last.
pub(super) fn take_spawned() -> Vec<Task> {
    SPAWNED.take()
}

/// What tasks have panicked with since this was asked last.
pub(super) fn take_panics() -> Vec<String> {
    PANICS.take()
}

/// What tasks have said to people since this was asked last.
pub(super) fn take_messages() -> Vec<String> {
    MESSAGES.take()
}

pub(crate) fn overhear(message: String) {
    MESSAGES.with_borrow_mut(|all| all.push(message));
}

/// Whether the caller runs in a simulated thread.
pub(crate) fn is_on() -> bool {
    CURRENT.with_borrow(Option::is_some)
}

fn when_on<T>(value: impl FnOnce() -> T) -> Option<T> {
    is_on().then(value)
}

pub(crate) fn now() -> Option<Instant> {
    when_on(|| BEGIN.with(|begin| *begin) + CLOCK.get())
}

pub(crate) fn wall_clock() -> Option<EventTime> {
    when_on(|| EventTime(WALL_BEGIN_MS + CLOCK.get().as_millis() as i64))
}

pub(crate) fn new_id() -> Option<Uuid> {
    when_on(|| {
        IDS.set(IDS.get() + 1);
        Uuid::from_u128(IDS.get() << 96 | 7)
    })
}

/// Starts a task of the run at hand; of the worker at hand unless another one is named.
pub(crate) fn spawn(worker: Option<usize>, body: impl FnOnce() + 'static) {
    let (run, here) = CURRENT.with_borrow(|place| {
        let place = place.as_ref().expect("only a task starts another one");
        (place.run, place.worker)
    });
    let task = Task::new(run, worker.unwrap_or(here), body);
    SPAWNED.with_borrow_mut(|spawned| spawned.push(task));
}

/// Lets others go first. A task that is killed meanwhile unwinds from here.
pub(crate) fn pause() {
    // What runs while a task dies runs at once.
    if std::thread::panicking() {
        return;
    }
    let place = CURRENT.with_borrow(|place| place.clone().expect("only a task pauses"));
    // SAFETY: the yielder lives on the stack of the coroutine that runs here.
    let lives = unsafe { (*place.yielder.get()).suspend(()) };
    if !lives {
        resume_unwind(Box::new(Killed));
    }
}

pub(crate) fn receive<T>(queue: &Receiver<T>) -> Option<T> {
    loop {
        pause();
        match queue.try_recv() {
            Ok(item) => return Some(item),
            Err(TryRecvError::Disconnected) => return None,
            Err(TryRecvError::Empty) => {}
        }
    }
}

/// A task that is killed dies, whoever catches panics on the way.
pub(crate) fn let_die<T>(
    outcome: Result<T, Box<dyn Any + Send>>,
) -> Result<T, Box<dyn Any + Send>> {
    outcome.map_err(|panic| match panic.downcast::<Killed>() {
        Ok(killed) => resume_unwind(killed),
        Err(panic) => panic,
    })
}

pub(crate) fn step(worker: &mut Worker) {
    pause();
    let place = CURRENT.with_borrow(|place| place.clone().expect("only a task steps"));
    let now = BEGIN.with(|begin| *begin) + CLOCK.get();
    place.timers.borrow_mut().retain(|(due, activator)| {
        let is_due = *due <= now;
        if is_due {
            activator.activate();
        }
        !is_due
    });
    worker.step();
}

pub(crate) fn activate_after(activator: &Activator, wait: Duration) {
    let due = BEGIN.with(|begin| *begin) + CLOCK.get() + wait;
    CURRENT.with_borrow(|place| {
        let place = place.as_ref().expect("only a task has timers");
        place.timers.borrow_mut().push((due, activator.clone()));
    });
}

pub(crate) fn execute<T: 'static>(
    workers: usize,
    body: impl Fn(&mut Worker) -> T + 'static,
) -> Vec<T> {
    let body = Rc::new(body);
    let results: Rc<RefCell<Vec<Option<T>>>> = Rc::default();
    results.borrow_mut().resize_with(workers, || None);
    for (index, allocator) in allocators(workers).into_iter().enumerate() {
        let (body, results) = (Rc::clone(&body), Rc::clone(&results));
        spawn(Some(index), move || {
            // Without a timer of its own: the clock is ours.
            let mut worker = Worker::new(WorkerConfig::default(), allocator, None);
            let result = body(&mut worker);
            results.borrow_mut()[index] = Some(result);
        });
    }
    while results.borrow().iter().any(Option::is_none) {
        pause();
    }
    results.take().into_iter().flatten().collect()
}

/// Moves what is built on one thread, and used on no other after that.
struct Moved<T>(T);
// SAFETY: see `allocators`: the value leaves the thread that made it whole, and that thread ends.
unsafe impl<T> Send for Moved<T> {}

/// The channels between the workers of a run. Each is built while the others are, and waits for
/// them, so that takes threads; these only build.
fn allocators(workers: usize) -> Vec<Allocator> {
    if workers == 1 {
        return vec![Allocator::Thread(
            timely::communication::allocator::Thread::default(),
        )];
    }
    let refill = timely::communication::allocator::zero_copy::bytes_slab::BytesRefill {
        logic: std::sync::Arc::new(|size| Box::new(vec![0_u8; size])),
        limit: None,
    };
    let builders = ProcessBuilder::new_typed_vector(workers, refill, None);
    let build = |builder: ProcessBuilder| Moved(Allocator::Process(builder.build()));
    std::thread::scope(|scope| {
        let threads: Vec<_> = builders
            .into_iter()
            .map(|builder| scope.spawn(move || build(builder)))
            .collect();
        let built = threads.into_iter().map(ScopedJoinHandle::join);
        built.map(|moved| moved.expect("it builds").0).collect()
    })
}

impl Task {
    pub(super) fn new(run: usize, worker: usize, body: impl FnOnce() + 'static) -> Self {
        let place = Rc::new(Place {
            run,
            worker,
            yielder: Cell::new(std::ptr::null()),
            timers: RefCell::default(),
        });
        let inner = Rc::clone(&place);
        let stack = STACKS.with_borrow_mut(Vec::pop);
        let stack =
            stack.unwrap_or_else(|| DefaultStack::new(STACK_BYTES).expect("memory for a stack"));
        let coroutine = Coroutine::with_stack(stack, move |yielder: &Yielder<Life, ()>, lives| {
            inner.yielder.set(yielder);
            if !lives {
                return;
            }
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body));
            if let Err(panic) = outcome
                && !panic.is::<Killed>()
            {
                let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
                let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
                PANICS.with_borrow_mut(|all| all.push(text.unwrap_or_default()));
            }
            inner.timers.take();
        });
        Self {
            worker,
            coroutine: Some(coroutine),
            place,
        }
    }

    /// Runs the task up to its next pause; `false`: it has ended.
    pub(super) fn resume(&mut self) -> bool {
        self.go_on(true)
    }

    fn go_on(&mut self, lives: Life) -> bool {
        let Some(coroutine) = &mut self.coroutine else {
            return false;
        };
        CURRENT.set(Some(Rc::clone(&self.place)));
        let result = coroutine.resume(lives);
        CURRENT.set(None);
        if matches!(result, CoroutineResult::Yield(())) {
            return true;
        }
        if let Some(coroutine) = self.coroutine.take() {
            STACKS.with_borrow_mut(|stacks| stacks.push(coroutine.into_stack()));
        }
        false
    }
}

impl Drop for Task {
    /// Kills the task where it stands.
    fn drop(&mut self) {
        while self.coroutine.is_some() && self.go_on(false) {}
    }
}
