//! What a topic has: its partitions, and where each begins and ends.

use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::metadata::MetadataPartition;
use rdkafka::types::{RDKafkaErrorCode, RDKafkaRespErr};
use rdkafka::{Offset as KafkaOffset, TopicPartitionList};

use super::KafkaOptions;
use super::client::Context;
use super::position::Position;
use crate::source::{Partition, SourceError, Start, Until};
use crate::time::{EventTime, Offset, PartitionId};

/// How long one question may take once brokers have been reached.
const QUERY_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a topic may be unknown: a broker that has just started knows none.
const UNKNOWN_FOR: Duration = Duration::from_secs(1);
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// The partitions of the topic, or why there are none within the time-out.
pub(super) fn partitions(
    client: &BaseConsumer<Context>,
    options: &KafkaOptions,
) -> Result<Vec<Partition>, SourceError> {
    let begin = Instant::now();
    loop {
        let left = options.connect_timeout.saturating_sub(begin.elapsed());
        let found = partition_ids(client, options, left.max(RETRY_PAUSE));
        serve(client);
        let error = match found {
            Ok(ids) => return Ok(named(options, ids)),
            Err(error) => error,
        };
        let patience = if is_unknown_topic(error) {
            UNKNOWN_FOR.min(options.connect_timeout)
        } else {
            options.connect_timeout
        };
        if begin.elapsed() + RETRY_PAUSE >= patience {
            return Err(explain(client, options, error));
        }
        std::thread::sleep(RETRY_PAUSE);
    }
}

fn named(options: &KafkaOptions, ids: Vec<i32>) -> Vec<Partition> {
    let named = |id| Partition {
        id: PartitionId(id as u32),
        name: options.partition_name(id),
    };
    ids.into_iter().map(named).collect()
}

fn partition_ids(
    client: &BaseConsumer<Context>,
    options: &KafkaOptions,
    timeout: Duration,
) -> Result<Vec<i32>, RDKafkaErrorCode> {
    let metadata = client
        .fetch_metadata(Some(&options.topic), timeout)
        .map_err(|e| code(&e))?;
    let topic = metadata
        .topics()
        .iter()
        .find(|topic| topic.name() == options.topic);
    let topic = topic.ok_or(RDKafkaErrorCode::UnknownTopicOrPartition)?;
    match topic.error() {
        None | Some(RDKafkaRespErr::RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE) => {}
        Some(error) => return Err(error.into()),
    }
    let mut ids: Vec<i32> = topic
        .partitions()
        .iter()
        .map(MetadataPartition::id)
        .collect();
    ids.sort_unstable();
    if ids.is_empty() {
        Err(RDKafkaErrorCode::LeaderNotAvailable)
    } else {
        Ok(ids)
    }
}

/// Has the client look again which partitions the topic has, and who leads them.
pub(super) fn refresh(client: &BaseConsumer<Context>, options: &KafkaOptions) {
    let _ = client.fetch_metadata(Some(&options.topic), QUERY_TIMEOUT);
}

/// Lets the client report what happened to it.
fn serve(client: &BaseConsumer<Context>) {
    for _ in 0..100 {
        if client.poll(Duration::ZERO).is_none() {
            return;
        }
    }
}

pub(super) fn code(error: &KafkaError) -> RDKafkaErrorCode {
    error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail)
}

pub(super) fn is_unknown_topic(error: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        error,
        Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition
    )
}

fn explain(
    client: &BaseConsumer<Context>,
    options: &KafkaOptions,
    error: RDKafkaErrorCode,
) -> SourceError {
    if is_unknown_topic(error) {
        return missing(client, options);
    }
    if error == RDKafkaErrorCode::TopicAuthorizationFailed {
        let reason = "reading this topic is not allowed: grant READ and DESCRIBE".to_owned();
        return SourceError::Read {
            partition: options.topic.clone(),
            reason,
        };
    }
    unreachable(client, options, &error.to_string())
}

/// Brokers do not answer.
pub(super) fn unreachable(
    client: &BaseConsumer<Context>,
    options: &KafkaOptions,
    reason: &str,
) -> SourceError {
    let complaint = client.context().complaint();
    let complaint = complaint.as_deref().unwrap_or(reason);
    let waited = options.connect_timeout;
    let advice = advice(complaint, options);
    SourceError::Unreachable {
        target: format!("kafka://{}", options.brokers),
        reason: format!("{complaint} (waited {waited:?}). {advice}"),
    }
}

/// What to do about a complaint of librdkafka, which knows texts but no codes for these.
fn advice(complaint: &str, options: &KafkaOptions) -> &'static str {
    let has_protocol = options
        .properties
        .iter()
        .any(|(key, _)| key == "security.protocol");
    if complaint.contains("uthentication") {
        "Check --kafka sasl.username, sasl.password and sasl.mechanism"
    } else if complaint.contains("SSL") {
        "Check --kafka ssl.ca.location, and that the address is a name that the certificate has"
    } else if has_protocol {
        "Check the address and that the broker runs"
    } else {
        "Check the address and that the broker runs; one that wants TLS or SASL says nothing \
         without --kafka security.protocol=SASL_SSL and so on"
    }
}

fn missing(client: &BaseConsumer<Context>, options: &KafkaOptions) -> SourceError {
    let KafkaOptions { brokers, topic, .. } = options;
    let names = topic_names(client).unwrap_or_default();
    let near = similar(topic, &names);
    let hint = if near.is_empty() {
        String::new()
    } else {
        format!(". Did you mean {}?", near.join(", "))
    };
    SourceError::Missing(format!(
        "kafka://{brokers}/{topic}: there is no such topic{hint} To create it: kafka-topics.sh \
         --bootstrap-server {brokers} --create --topic {topic} --partitions 4, or write to it \
         with highwater generate PIPELINE --to kafka://{brokers}/{topic}"
    ))
}

fn topic_names(client: &BaseConsumer<Context>) -> KafkaResult<Vec<String>> {
    let metadata = client.fetch_metadata(None, QUERY_TIMEOUT)?;
    Ok(metadata
        .topics()
        .iter()
        .map(|topic| topic.name().to_owned())
        .collect())
}

/// Up to three of `names` that are like `name`, the nearest first.
fn similar<'a>(name: &str, names: &'a [String]) -> Vec<&'a str> {
    let lower = name.to_lowercase();
    let likeness = |other: &str| strsim::jaro_winkler(&lower, &other.to_lowercase());
    let mut near: Vec<_> = names
        .iter()
        .filter(|other| !other.starts_with("__"))
        .map(|other| (likeness(other), other.as_str()))
        .filter(|(likeness, _)| *likeness > 0.8)
        .collect();
    near.sort_by(|a, b| b.0.total_cmp(&a.0));
    near.into_iter().take(3).map(|(_, name)| name).collect()
}

/// Why there are no bounds.
pub(super) enum BoundsError {
    /// Asking again may help.
    Retry(RDKafkaErrorCode),
    /// It will not.
    Final(SourceError),
}

impl From<KafkaError> for BoundsError {
    fn from(error: KafkaError) -> Self {
        Self::Retry(code(&error))
    }
}

/// Where to read a partition from, and to.
pub(super) fn bounds(
    client: &BaseConsumer<Context>,
    options: &KafkaOptions,
    partition: i32,
    from: Option<Offset>,
) -> Result<Position, BoundsError> {
    // With read_committed the client asks for the end of what may be read, which lies before the
    // first open transaction.
    let (low, high) = watermarks(client, options, partition)?;
    let next = match (from, options.start) {
        (Some(from), _) => recorded(options, partition, from, low..=high)?,
        (None, Start::Earliest) => low,
        (None, Start::Latest) => high,
        (None, Start::At(time)) => {
            offset_at(client, options, partition, time)?.map_or(high, |at| at.max(low))
        }
    };
    Ok(Position::new(
        next,
        (options.until == Until::End).then_some(high),
    ))
}

/// The offsets of the oldest record of a partition, and of the next one to be written.
pub(super) fn watermarks(
    client: &BaseConsumer<Context>,
    options: &KafkaOptions,
    partition: i32,
) -> KafkaResult<(u64, u64)> {
    let (low, high) = client.fetch_watermarks(&options.topic, partition, QUERY_TIMEOUT)?;
    Ok((
        u64::try_from(low).unwrap_or(0),
        u64::try_from(high).unwrap_or(0),
    ))
}

fn recorded(
    options: &KafkaOptions,
    partition: i32,
    from: Offset,
    there: std::ops::RangeInclusive<u64>,
) -> Result<u64, BoundsError> {
    if there.contains(&from.0) {
        return Ok(from.0);
    }
    Err(BoundsError::Final(SourceError::Gone {
        partition: options.partition_name(partition),
        reason: out_of_range(from, Some(&there)),
    }))
}

/// Why an offset cannot be read, and what to do.
pub(super) fn out_of_range(at: Offset, there: Option<&std::ops::RangeInclusive<u64>>) -> String {
    let there = there.map_or(String::new(), |there| {
        format!(" (the partition has {} to {})", there.start(), there.end())
    });
    format!(
        "offset {at}, where reading is to go on, does not exist any more{there}: the topic's \
         retention deleted it, or the topic was made anew. Records are lost to this run; to \
         accept that, start anew with --fresh. To keep more: retention.ms of the topic"
    )
}

/// The first offset whose record has a timestamp at or after `time`.
fn offset_at(
    client: &BaseConsumer<Context>,
    options: &KafkaOptions,
    partition: i32,
    time: EventTime,
) -> KafkaResult<Option<u64>> {
    let mut asked = TopicPartitionList::new();
    // The protocol has no times before 1970: -1 and -2 have meanings of their own.
    let time = KafkaOffset::Offset(time.0.max(0));
    asked.add_partition_offset(&options.topic, partition, time)?;
    let answer = client.offsets_for_times(asked, QUERY_TIMEOUT)?;
    let found = answer.find_partition(&options.topic, partition);
    let Some(found) = found else { return Ok(None) };
    found.error()?;
    Ok(match found.offset() {
        KafkaOffset::Offset(offset) => u64::try_from(offset).ok(),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_topics_are_suggested_nearest_first() {
        let names = ["__consumer_offsets", "orders", "cars-raw", "cars", "Cars2"];
        let names = names.map(str::to_owned);
        assert_eq!(similar("cras", &names), ["cars", "Cars2"]);
        assert!(similar("turnstile", &names).is_empty());
    }

    #[test]
    fn advice_is_about_what_is_wrong() {
        let options = |key: &str| KafkaOptions {
            properties: vec![(key.to_owned(), "x".to_owned())],
            ..KafkaOptions::new("host:1", "topic")
        };
        let (plain, secure) = (options("client.id"), options("security.protocol"));
        let refused = "SASL authentication error: Authentication failed during authentication";
        assert!(advice(refused, &secure).contains("sasl.password"));
        let handshake = "SSL handshake failed: certificate verify failed";
        assert!(advice(handshake, &secure).contains("ssl.ca.location"));
        let closed = "Connect to ipv4#127.0.0.1:1 failed: Connection refused";
        assert!(!advice(closed, &secure).contains("security.protocol"));
        assert!(advice(closed, &plain).contains("security.protocol"));
    }
}
