//! What others than sinks need of a server: its address, and a connection.

use std::time::Duration;

use ::postgres::{Client, Config};

pub(crate) use super::failure::chain;
pub(crate) use super::session::LOCK_TIMEOUT;
pub(crate) use super::target::quote;
use super::{session, target};
use crate::sink::SinkError;

/// Where a server is.
pub(crate) struct Address {
    /// The driver's settings.
    pub(crate) config: Config,
    /// Host, port and database: what messages show.
    pub(crate) place: String,
    /// Parameters that are not the driver's.
    pub(crate) own: Vec<(&'static str, String)>,
}

impl Address {
    /// Reads `uri`; parameters with the names `own` are taken out of it. `form`: what messages say
    /// that is to be written.
    pub(crate) fn parse(
        uri: &str,
        own: &[&'static str],
        form: &str,
        connect_timeout: Duration,
    ) -> Result<Self, SinkError> {
        let target::Address {
            mut config,
            place,
            own,
        } = target::Address::parse(uri, own, form)?;
        super::tune(&mut config, connect_timeout);
        Ok(Self { config, place, own })
    }
}

/// A connection, within this time.
pub(crate) fn connect(config: &Config, timeout: Duration) -> Result<Client, String> {
    session::connect(config, timeout, &|| false).map_err(|trouble| trouble.reason())
}
