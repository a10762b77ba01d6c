//! Taking messages from librdkafka by the batch: all `unsafe` code of the sources.
//!
//! A call per message costs more than everything that follows in a pipeline, and rdkafka has no
//! safe batch interface. The invariants on which the code rests:
//!
//! * A queue lives no longer than its client: [`MessageQueue`] holds the client, and lets go of
//!   its queue first.
//! * A message is valid, and ours alone, from the call that returns it until it is destroyed;
//!   [`Messages`] destroys each exactly once, and lends out its bytes for no longer.
//! * Errors and ends of partitions arrive as messages with an error code, whose payload is not
//!   that of a record.
//! * The callback gets a [`Thread`] that outlives it: librdkafka calls it while it holds the
//!   queue's lock, under which it is also switched off before the `Thread` is freed.

use std::borrow::Cow;
use std::ffi::{CStr, CString, c_void};
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::Arc;
use std::thread::Thread;

use rdkafka::bindings as ffi;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::types::{RDKafkaErrorCode, RDKafkaRespErr};

use super::client::Context;

/// Messages that one call takes at most.
pub(super) const BATCH: usize = 4096;

/// The queue of one partition, cut off from the queue that all partitions share, so that not
/// taking from it holds up this partition alone.
pub(super) struct MessageQueue {
    queue: NonNull<ffi::rd_kafka_queue_t>,
    taken: Vec<*mut ffi::rd_kafka_message_t>,
    /// Woken by the callback. A raw box, because the callback reads it while we own it.
    reader: NonNull<Thread>,
    _client: Arc<BaseConsumer<Context>>,
}

/// What was taken from a queue.
#[derive(Debug)]
pub(super) enum Taken<'a> {
    /// A record.
    Message(Message<'a>),
    /// The end of the partition (as far as this client may read), and the offset that comes next.
    End(i64),
    /// The client has a problem with this partition.
    Error(RDKafkaErrorCode, Cow<'a, str>),
}

/// A record.
#[derive(Debug)]
pub(super) struct Message<'a> {
    pub offset: i64,
    pub payload: Option<&'a [u8]>,
    pub key: Option<&'a [u8]>,
    /// Milliseconds since 1970, when the broker stamps the messages of the topic.
    pub append_time: Option<i64>,
}

impl MessageQueue {
    /// The queue of a partition that is not assigned yet. `reader` is unparked whenever the empty
    /// queue gets a message. `None` when the client refuses.
    pub fn new(
        client: Arc<BaseConsumer<Context>>,
        topic: &str,
        partition: i32,
        reader: Thread,
    ) -> Option<Self> {
        let topic = CString::new(topic).ok()?;
        let native = client.client().native_ptr();
        // SAFETY: the client is alive, and the topic's text is copied by the callee.
        let queue = unsafe { ffi::rd_kafka_queue_get_partition(native, topic.as_ptr(), partition) };
        let queue = NonNull::new(queue)?;
        let reader = NonNull::from(Box::leak(Box::new(reader)));
        // SAFETY: the queue is ours until it is destroyed in `drop`, which also switches the
        // callback off before `reader` is freed.
        unsafe {
            ffi::rd_kafka_queue_forward(queue.as_ptr(), ptr::null_mut());
            let opaque = reader.as_ptr().cast::<c_void>();
            ffi::rd_kafka_queue_cb_event_enable(queue.as_ptr(), Some(unpark), opaque);
        }
        let taken = Vec::with_capacity(BATCH);
        Some(Self {
            queue,
            taken,
            reader,
            _client: client,
        })
    }

    /// What is in the queue, at most `most` messages (and [`BATCH`]), without waiting.
    pub fn take(&mut self, most: usize) -> Messages<'_> {
        let most = most.min(BATCH);
        debug_assert!(self.taken.is_empty(), "the last batch was destroyed");
        let space = self.taken.as_mut_ptr();
        // SAFETY: the queue and its client are alive; the callee writes at most `most` pointers
        // into the space, which holds BATCH, and returns how many it wrote (or -1).
        unsafe {
            let count = ffi::rd_kafka_consume_batch_queue(self.queue.as_ptr(), 0, space, most);
            self.taken
                .set_len(usize::try_from(count).unwrap_or(0).min(most));
        }
        Messages(&mut self.taken)
    }
}

impl Drop for MessageQueue {
    fn drop(&mut self) {
        let queue = self.queue.as_ptr();
        // SAFETY: the queue is alive and is not used after this; no callback runs once it is
        // switched off, so nothing else refers to `reader`, which came from a box.
        unsafe {
            ffi::rd_kafka_queue_cb_event_enable(queue, None, ptr::null_mut());
            ffi::rd_kafka_queue_destroy(queue);
            drop(Box::from_raw(self.reader.as_ptr()));
        }
    }
}

/// The next offset to be written to a partition, as of the client's last fetch of it; asks nobody.
/// `None` before there was one.
pub(super) fn known_end(
    client: &BaseConsumer<Context>,
    topic: &str,
    partition: i32,
) -> Option<u64> {
    let topic = CString::new(topic).ok()?;
    let native = client.client().native_ptr();
    let (mut low, mut high) = (-1, -1);
    // SAFETY: the client is alive, the topic's text is only read, and both numbers are locals that
    // outlive the call and that nobody else has a pointer to.
    let error = unsafe {
        ffi::rd_kafka_get_watermark_offsets(
            native,
            topic.as_ptr(),
            partition,
            &raw mut low,
            &raw mut high,
        )
    };
    let is_known = error == RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR;
    // What the client does not know is negative.
    u64::try_from(high).ok().filter(|_| is_known)
}

unsafe extern "C" fn unpark(_: *mut ffi::rd_kafka_t, reader: *mut c_void) {
    // SAFETY: `reader` is the `Thread` of a queue whose callback is still switched on.
    unsafe { &*reader.cast::<Thread>() }.unpark();
}

/// Messages that were taken together; dropping it destroys them.
pub(super) struct Messages<'q>(&'q mut Vec<*mut ffi::rd_kafka_message_t>);

impl Messages<'_> {
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// How many bytes the keys and payloads of all records have.
    pub fn bytes(&self) -> usize {
        self.natives()
            .map(|message| message.len + message.key_len)
            .sum()
    }

    pub fn iter(&self) -> impl Iterator<Item = Taken<'_>> {
        self.natives().map(taken)
    }

    fn natives(&self) -> impl Iterator<Item = &ffi::rd_kafka_message_t> {
        // SAFETY: each pointer came from librdkafka and is destroyed when `self` is dropped,
        // which the reference's lifetime excludes.
        self.0.iter().map(|message| unsafe { &**message })
    }
}

impl Drop for Messages<'_> {
    fn drop(&mut self) {
        for message in self.0.drain(..) {
            // SAFETY: the message is ours, and is destroyed here only.
            unsafe { ffi::rd_kafka_message_destroy(message) };
        }
    }
}

fn taken(message: &ffi::rd_kafka_message_t) -> Taken<'_> {
    match message.err {
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR => Taken::Message(Message {
            offset: message.offset,
            payload: bytes(message, message.payload, message.len),
            key: bytes(message, message.key, message.key_len),
            append_time: append_time(message),
        }),
        RDKafkaRespErr::RD_KAFKA_RESP_ERR__PARTITION_EOF => Taken::End(message.offset),
        error => {
            // SAFETY: the text belongs to the message, or is static.
            let text = unsafe {
                let text = ffi::rd_kafka_message_errstr(message);
                if text.is_null() {
                    c""
                } else {
                    CStr::from_ptr(text)
                }
            };
            Taken::Error(error.into(), text.to_string_lossy())
        }
    }
}

/// The part of a message at `start`; it lives as long as the message.
fn bytes(_: &ffi::rd_kafka_message_t, start: *mut c_void, len: usize) -> Option<&[u8]> {
    // SAFETY: librdkafka gives pointer and length of bytes that it neither changes nor frees
    // before the message is destroyed.
    (!start.is_null()).then(|| unsafe { slice::from_raw_parts(start.cast::<u8>(), len) })
}

fn append_time(message: &ffi::rd_kafka_message_t) -> Option<i64> {
    use ffi::rd_kafka_timestamp_type_t as Kind;
    let mut kind = Kind::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
    // SAFETY: the message is alive and `kind` takes any of the values that may be written.
    let time = unsafe { ffi::rd_kafka_message_timestamp(message, &raw mut kind) };
    (kind == Kind::RD_KAFKA_TIMESTAMP_LOG_APPEND_TIME && time >= 0).then_some(time)
}
