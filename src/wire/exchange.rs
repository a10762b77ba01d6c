//! Sends each item to the worker that a route names.
//!
//! As timely's own exchange, of vectors; only what crosses the border of a process is another
//! container, [`Batch`]. A vector is moved into it and out of it again, so that nothing changes
//! for threads.

use std::marker::PhantomData;
use std::rc::Rc;

use timely::communication::{Pull, Push};
use timely::container::CapacityContainerBuilder;
use timely::dataflow::channels::Message;
use timely::dataflow::channels::pact::{LogPuller, LogPusher, ParallelizationContract};
use timely::dataflow::channels::pushers::Exchange as Distribute;
use timely::dataflow::channels::pushers::exchange::DrainContainerDistributor;
use timely::logging::TimelyLogger;
use timely::progress::Timestamp;
use timely::worker::Worker;

use super::{Batch, Wire};

/// Sends each item to the worker with the number that `route` gives, modulo their number.
pub struct Exchange<D, H> {
    route: H,
    items: PhantomData<fn(&D)>,
}

impl<D, H: FnMut(&D) -> u64 + 'static> Exchange<D, H> {
    /// By this route.
    pub const fn new(route: H) -> Self {
        let items = PhantomData;
        Self { route, items }
    }
}

type Distributor<D, H> = DrainContainerDistributor<CapacityContainerBuilder<Vec<D>>, H>;

impl<T, D, H> ParallelizationContract<T, Vec<D>> for Exchange<D, H>
where
    T: Timestamp,
    D: Wire,
    H: FnMut(&D) -> u64 + 'static,
{
    type Pusher = Distribute<T, LogPusher<Packing<T, D>>, Distributor<D, H>>;
    type Puller = LogPuller<Unpacking<T, D>>;

    fn connect(
        self,
        worker: &Worker,
        identifier: usize,
        address: Rc<[usize]>,
        logging: Option<TimelyLogger>,
    ) -> (Self::Pusher, Self::Puller) {
        let index = worker.index();
        let (senders, receiver) = worker.allocate::<Message<T, Batch<D>>>(identifier, address);
        let log = |(peer, sender)| {
            LogPusher::new(Packing(sender), index, peer, identifier, logging.clone())
        };
        let senders = senders.into_iter().enumerate().map(log).collect();
        let distributor = Distributor::new(self.route, worker.peers());
        let puller = Unpacking {
            receiver,
            current: None,
        };
        (
            Distribute::new(senders, distributor),
            LogPuller::new(puller, index, identifier, logging),
        )
    }
}

/// The sending end.
pub struct Packing<T, D>(Box<dyn Push<Message<T, Batch<D>>>>);

impl<T, D: Wire> Push<Message<T, Vec<D>>> for Packing<T, D> {
    #[inline]
    fn push(&mut self, element: &mut Option<Message<T, Vec<D>>>) {
        let mut packed = element.take().map(|message| carry(message, Batch::from));
        self.0.push(&mut packed);
        // An encoded vector comes back, to be filled again.
        *element = packed.map(|message| carry(message, |batch| batch.items));
    }
}

/// The receiving end.
pub struct Unpacking<T, D> {
    receiver: Box<dyn Pull<Message<T, Batch<D>>>>,
    current: Option<Message<T, Vec<D>>>,
}

impl<T, D: Wire> Pull<Message<T, Vec<D>>> for Unpacking<T, D> {
    #[inline]
    fn pull(&mut self) -> &mut Option<Message<T, Vec<D>>> {
        let message = self.receiver.pull().take();
        self.current = message.map(|message| carry(message, |batch| batch.items));
        &mut self.current
    }
}

/// The same message with its data in another container.
fn carry<T, A, B>(message: Message<T, A>, into: impl FnOnce(A) -> B) -> Message<T, B> {
    Message {
        time: message.time,
        data: into(message.data),
        from: message.from,
        seq: message.seq,
    }
}
