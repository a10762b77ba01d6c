//! A topic as a table: all messages that are there, read once from the beginning to the end.

use std::collections::BTreeSet;
use std::time::Instant;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::Message as _;
use rdkafka::{Offset as KafkaOffset, TopicPartitionList};

use super::client::{self, Context};
use super::metadata::{code, partitions, unreachable, watermarks};
use super::{KafkaOptions, check_topic};
use crate::source::SourceError;
use crate::time::{EventTime, Offset, PartitionId};

/// A message of a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicMessage {
    /// Its partition.
    pub partition: PartitionId,
    /// Its offset.
    pub offset: Offset,
    /// Its timestamp, whoever gave it; `None`: it has none.
    pub time: Option<EventTime>,
    /// Its key.
    pub key: Option<Vec<u8>>,
    /// Its payload; `None`: a deletion, as compaction has it.
    pub value: Option<Vec<u8>>,
}

/// Reads all that is in the topic now, partition by partition, each in the order of its offsets.
/// Of transactions only those that were committed are read, unless the options say otherwise.
///
/// # Errors
/// When a property is not valid, the topic is missing, or brokers do not answer for as long as the
/// connect time-out.
pub fn read_topic(options: &KafkaOptions) -> Result<Vec<TopicMessage>, SourceError> {
    check_topic(&options.topic)?;
    client::check_properties(&options.properties)?;
    let client = client::consumer(&hasty(options))?;
    let mut list = TopicPartitionList::new();
    let mut open = 0;
    for partition in partitions(&client, options)? {
        let id = partition.id.0 as i32;
        let bounds = watermarks(&client, options, id);
        let (low, high) =
            bounds.map_err(|error| unreachable(&client, options, &code(&error).to_string()))?;
        if low < high {
            let added = list.add_partition_offset(&options.topic, id, KafkaOffset::Beginning);
            added.map_err(|error| failed(options, id, &error))?;
            open += 1;
        }
    }
    client
        .assign(&list)
        .map_err(|error| failed(options, 0, &error))?;
    let mut messages = read_to_ends(&client, options, open)?;
    messages.sort_by_key(|message| (message.partition, message.offset));
    Ok(messages)
}

/// A broker that has nothing more says so after this many milliseconds, unless the user wants it
/// otherwise: half a second for each topic (the default) would be all that a load takes.
const FETCH_WAIT: (&str, &str) = ("fetch.wait.max.ms", "10");

fn hasty(options: &KafkaOptions) -> KafkaOptions {
    let mut options = options.clone();
    let (key, value) = FETCH_WAIT;
    options
        .properties
        .insert(0, (key.to_owned(), value.to_owned()));
    options
}

/// The end of a partition is what the client says: transaction markers and compaction leave gaps.
fn read_to_ends(
    client: &BaseConsumer<Context>,
    options: &KafkaOptions,
    mut open: usize,
) -> Result<Vec<TopicMessage>, SourceError> {
    let mut messages = Vec::new();
    let mut ended = BTreeSet::new();
    let mut last = Instant::now();
    while open > 0 {
        let left = options.connect_timeout.saturating_sub(last.elapsed());
        match client.poll(left) {
            Some(Ok(message)) => {
                last = Instant::now();
                messages.push(TopicMessage {
                    partition: PartitionId(message.partition() as u32),
                    offset: Offset(message.offset() as u64),
                    time: message.timestamp().to_millis().map(EventTime),
                    key: message.key().map(<[u8]>::to_vec),
                    value: message.payload().map(<[u8]>::to_vec),
                });
            }
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                // What comes after it, it says again at the next end.
                if ended.insert(partition) {
                    open -= 1;
                }
            }
            Some(Err(error)) if is_lasting(&error) => {
                return Err(failed(options, 0, &error));
            }
            // The client goes on by itself, or nothing came: the time-out decides.
            Some(Err(_)) | None => {}
        }
        if last.elapsed() >= options.connect_timeout {
            return Err(unreachable(client, options, "no message comes"));
        }
    }
    Ok(messages)
}

/// Whether waiting does not help.
fn is_lasting(error: &KafkaError) -> bool {
    use rdkafka::types::RDKafkaErrorCode as Code;
    matches!(
        code(error),
        Code::AutoOffsetReset
            | Code::TopicAuthorizationFailed
            | Code::GroupAuthorizationFailed
            | Code::OffsetOutOfRange
    )
}

fn failed(options: &KafkaOptions, partition: i32, error: &KafkaError) -> SourceError {
    SourceError::Read {
        partition: options.partition_name(partition),
        reason: error.to_string(),
    }
}
