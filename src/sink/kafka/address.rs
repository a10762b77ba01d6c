//! `kafka://HOST[:PORT][,HOST[:PORT]...]/TOPIC[?shards=N]`.

use crate::sink::SinkError;
use crate::sink::uri::DEFAULT_SHARDS;

const FORM: &str = "kafka://HOST:PORT[,HOST:PORT]/TOPIC[?shards=N]";
/// Each costs a wait per epoch; no job needs more.
const MAX_SHARDS: u32 = 256;

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Address {
    /// As librdkafka takes it.
    pub brokers: String,
    pub topic: String,
    pub shards: u32,
}

/// What `uri` names. Messages never repeat it: it may hold a password.
pub(super) fn parse(uri: &str) -> Result<Address, SinkError> {
    let Some(address) = uri.strip_prefix("kafka://") else {
        return Err(config("a Kafka output has `//` after `kafka:`"));
    };
    if address.contains('@') {
        return Err(SinkError::Config(
            "credentials do not belong into the URI; give them with --kafka sasl.username=... and \
             --kafka sasl.password=..."
                .to_owned(),
        ));
    }
    let (address, query) = address.split_once('?').unwrap_or((address, ""));
    match address.split_once('/') {
        Some((brokers, topic)) if !brokers.is_empty() && !topic.is_empty() => {
            let (brokers, topic) = (brokers.to_owned(), topic.to_owned());
            Ok(Address {
                brokers,
                topic,
                shards: shards(query)?,
            })
        }
        _ => Err(config("a Kafka output names brokers and a topic")),
    }
}

fn shards(query: &str) -> Result<u32, SinkError> {
    let mut shards = DEFAULT_SHARDS;
    for option in query.split('&').filter(|option| !option.is_empty()) {
        let (key, value) = option.split_once('=').unwrap_or((option, ""));
        if key != "shards" {
            let key: String = key.chars().take(40).collect();
            return Err(config(&format!(
                "a Kafka output has no option `{key}`; what librdkafka knows is set with --kafka \
                 KEY=VALUE"
            )));
        }
        shards = value
            .parse()
            .ok()
            .filter(|shards| (1..=MAX_SHARDS).contains(shards))
            .ok_or_else(|| {
                SinkError::Config(format!(
                    "`shards` is a number from 1 to {MAX_SHARDS}: {FORM}"
                ))
            })?;
    }
    Ok(shards)
}

fn config(what: &str) -> SinkError {
    SinkError::Config(format!("{what}: write {FORM}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brokers_topic_and_shards() {
        let address = |brokers: &str, topic: &str, shards| Address {
            brokers: brokers.to_owned(),
            topic: topic.to_owned(),
            shards,
        };
        assert_eq!(
            parse("kafka://h/t").unwrap(),
            address("h", "t", DEFAULT_SHARDS)
        );
        assert_eq!(
            parse("kafka://a:1,[::1]:2/t?shards=2").unwrap(),
            address("a:1,[::1]:2", "t", 2)
        );
    }

    #[test]
    fn what_is_wrong_is_answered_with_the_form_and_without_secrets() {
        let message = |uri: &str| parse(uri).unwrap_err().to_string();
        for uri in [
            "kafka:h/t",
            "kafka://h:1",
            "kafka://h:1/",
            "kafka:///t",
            "kafka://h/t?x=1",
        ] {
            assert!(message(uri).contains(FORM), "{uri}");
        }
        for shards in ["0", "", "-1", "many", "1000000"] {
            assert!(message(&format!("kafka://h/t?shards={shards}")).contains("1 to 256"));
        }
        assert!(message("kafka://u:hunter2@h/t").contains("sasl.password"));
        assert!(!message("kafka://u:hunter2@h/t").contains("hunter2"));
    }
}
