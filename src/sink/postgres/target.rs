//! What a `postgres://` URI says: the driver's settings, the table, the shards.

use std::fmt;

use ::postgres::Config;
use ::postgres::config::{Host, SslMode};

use crate::sink::{OutputSpec, SinkError};

/// The server cuts longer names without a word.
const MAX_NAME_BYTES: usize = 63;
/// More shards than any job needs.
const MAX_SHARDS: u32 = 256;

/// A parsed URI.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) config: Config,
    /// Host, port and database: what messages show. Never holds a user or a password.
    pub(super) place: String,
    pub(super) table: Option<TableName>,
    pub(super) shards: Option<u32>,
}

/// What output URIs look like.
const FORM: &str = "postgres://USER@HOST/DATABASE?table=TABLE";
/// Parameters of outputs that are not the driver's.
const OURS: [&str; 2] = ["table", "shards"];

impl Target {
    pub(super) fn parse(uri: &str) -> Result<Self, SinkError> {
        let refuse = |what: String| SinkError::Config(format!("{}: {what}", mask(uri)));
        let address = Address::parse(uri, &OURS, FORM)?;
        let (mut table, mut shards) = (None, None);
        for (name, value) in &address.own {
            match *name {
                "table" => table = Some(TableName::parse(value).map_err(refuse)?),
                _ => shards = Some(parse_shards(value).map_err(refuse)?),
            }
        }
        Ok(Self {
            config: address.config,
            place: address.place,
            table,
            shards,
        })
    }
}

/// A database on a server, and the parameters of a URI that are not the driver's.
pub(super) struct Address {
    pub(super) config: Config,
    /// Host, port and database: what messages show. Never holds a user or a password.
    pub(super) place: String,
    pub(super) own: Vec<(&'static str, String)>,
}

impl Address {
    /// Reads `uri`, whose parameters with the names `own` are not the driver's.
    pub(super) fn parse(uri: &str, own: &[&'static str], form: &str) -> Result<Self, SinkError> {
        let refuse = |what: &str| SinkError::Config(format!("{}: {what}", mask(uri)));
        let (driver_uri, own) = take_parameters(uri, own).map_err(|what| refuse(&what))?;
        let config: Config = driver_uri
            .parse()
            .map_err(|error| refuse(&format!("{}; write {form}", super::failure::chain(&error))))?;
        let Some(database) = config.get_dbname() else {
            return Err(refuse(&format!("no database is named; write {form}")));
        };
        if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
            return Err(refuse(&format!(
                "no host is named; write {form} (a socket: ?host=/var/run/postgresql)"
            )));
        }
        if config.get_ssl_mode() == SslMode::Require {
            return Err(refuse(
                "sslmode=require: this build speaks no TLS; connect through a local proxy that \
                 does (pgbouncer, stunnel), or leave sslmode away",
            ));
        }
        let place = format!("{}/{database}", hosts(&config));
        Ok(Self { config, place, own })
    }
}

/// Parameters by name.
type Parameters = Vec<(&'static str, String)>;

/// `uri` without the parameters that are `own`, and these.
fn take_parameters(uri: &str, own: &[&'static str]) -> Result<(String, Parameters), String> {
    // A password may hold a question mark: the driver's credentials end at the first `@`.
    let credentials = uri.find('@').unwrap_or(0);
    let Some(at) = uri[credentials..].find('?') else {
        return Ok((uri.to_owned(), Vec::new()));
    };
    let (base, query) = (&uri[..credentials + at], &uri[credentials + at + 1..]);
    let (mut left, mut taken) = (Vec::new(), Vec::new());
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let Some((name, value)) = pair.split_once('=') else {
            return Err(format!("parameter `{pair}` has no value; write {pair}=..."));
        };
        match own.iter().find(|own| **own == name) {
            Some(own) => taken.push((*own, decode(value)?)),
            None => left.push(pair),
        }
    }
    let mut driver_uri = base.to_owned();
    if !left.is_empty() {
        driver_uri.push('?');
        driver_uri.push_str(&left.join("&"));
    }
    Ok((driver_uri, taken))
}

fn parse_shards(number: &str) -> Result<u32, String> {
    let shards = number
        .parse()
        .ok()
        .filter(|shards| (1..=MAX_SHARDS).contains(shards));
    shards.ok_or_else(|| format!("shards={number}: write a number from 1 to {MAX_SHARDS}"))
}

/// `%41` is `A`.
fn decode(text: &str) -> Result<String, String> {
    let wrong = || format!("`{text}`: after % two hexadecimal digits of UTF-8 are needed");
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        if first == b'%' {
            let digits = after
                .get(..2)
                .and_then(|pair| std::str::from_utf8(pair).ok());
            let byte = digits.and_then(|pair| u8::from_str_radix(pair, 16).ok());
            bytes.push(byte.ok_or_else(wrong)?);
            rest = &after[2..];
        } else {
            bytes.push(first);
        }
    }
    String::from_utf8(bytes).map_err(|_| wrong())
}

fn hosts(config: &Config) -> String {
    let names = config.get_hosts().iter().map(|host| match host {
        Host::Tcp(name) if name.contains(':') => format!("[{name}]"),
        Host::Tcp(name) => name.clone(),
        #[cfg(unix)]
        Host::Unix(path) => path.display().to_string(),
    });
    let mut names: Vec<String> = names.collect();
    if names.is_empty() {
        names = config
            .get_hostaddrs()
            .iter()
            .map(ToString::to_string)
            .collect();
    }
    let ports = config.get_ports();
    for (at, name) in names.iter_mut().enumerate() {
        if let Some(port) = ports.get(at).or(ports.first())
            && *port != 5432
        {
            *name = format!("{name}:{port}");
        }
    }
    names.join(",")
}

/// `uri` as people may see it: without passwords.
pub(super) fn mask(uri: &str) -> String {
    let (scheme, rest) = uri.split_once("://").unwrap_or(("postgres", uri));
    let (credentials, rest) = rest.rsplit_once('@').unwrap_or(("", rest));
    let mut masked = format!("{scheme}://");
    if let Some((user, _)) = credentials.split_once(':') {
        masked.push_str(user);
        masked.push_str(":***@");
    } else if !credentials.is_empty() {
        masked.push_str(credentials);
        masked.push('@');
    }
    let (base, query) = rest.split_once('?').unwrap_or((rest, ""));
    masked.push_str(base);
    for (at, pair) in query.split('&').filter(|pair| !pair.is_empty()).enumerate() {
        masked.push(if at == 0 { '?' } else { '&' });
        let is_secret = pair.starts_with("password=") || pair.contains('%') && !is_ours(pair);
        let shown = pair
            .split_once('=')
            .filter(|_| is_secret)
            .map(|(name, _)| name);
        masked.push_str(&shown.map_or_else(|| pair.to_owned(), |name| format!("{name}=***")));
    }
    masked
}

/// A name of the driver's own may be written with `%`, and so hide that it is `password`.
fn is_ours(pair: &str) -> bool {
    pair.starts_with("table=") || pair.starts_with("shards=")
}

/// The name of a table, perhaps with its schema.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TableName {
    pub(super) schema: Option<String>,
    pub(super) name: String,
}

impl TableName {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let (schema, name) = match text.split_once('.') {
            Some((schema, name)) => (Some(schema), name),
            None => (None, text),
        };
        for part in schema.into_iter().chain([name]) {
            if part.is_empty() || part.contains(['.', '\0']) {
                return Err(format!(
                    "table={text}: write table=TABLE or table=SCHEMA.TABLE"
                ));
            }
            if part.len() > MAX_NAME_BYTES {
                return Err(format!(
                    "table={text}: `{part}` is longer than the {MAX_NAME_BYTES} bytes of a name \
                     in PostgreSQL; choose a shorter one"
                ));
            }
        }
        Ok(Self {
            schema: schema.map(str::to_owned),
            name: name.to_owned(),
        })
    }

    /// Another table in the same schema.
    pub(super) fn beside(&self, name: &str) -> Self {
        Self {
            schema: self.schema.clone(),
            name: name.to_owned(),
        }
    }

    /// The table of an output for which the URI names none.
    pub(super) fn of(output: &OutputSpec) -> Self {
        let name = format!("{}_{}", output.pipeline, output.name).replace('-', "_");
        Self { schema: None, name }
    }
}

/// As SQL: quoted.
impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(schema) = &self.schema {
            write!(f, "{}.", quote(schema))?;
        }
        f.write_str(&quote(&self.name))
    }
}

/// `name` as an SQL identifier.
pub(crate) fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_parameters_do_not_reach_the_driver() {
        let uri = "postgres://ada:s%40?crt@db.example:6543/shop?table=sales.per%2Dday&\
                   application_name=x&shards=3&connect_timeout=7";
        let target = Target::parse(uri).unwrap();
        assert_eq!(target.place, "db.example:6543/shop");
        assert_eq!(target.config.get_user(), Some("ada"));
        assert_eq!(target.config.get_password(), Some(&b"s@?crt"[..]));
        assert_eq!(target.config.get_application_name(), Some("x"));
        assert_eq!(target.table.unwrap().to_string(), r#""sales"."per-day""#);
        assert_eq!(target.shards, Some(3));
        let plain = Target::parse("postgres://ada@localhost/shop").unwrap();
        assert_eq!(
            (plain.place.as_str(), plain.table, plain.shards),
            ("localhost/shop", None, None)
        );
        let socket = Target::parse("postgres:///shop?host=/run/pg&table=t").unwrap();
        assert_eq!(socket.place, "/run/pg/shop");
    }

    #[test]
    fn identifiers_are_quoted() {
        let name = TableName::parse("a\"; DROP TABLE b; --").unwrap();
        assert_eq!(name.to_string(), "\"a\"\"; DROP TABLE b; --\"");
    }

    #[test]
    fn what_is_wrong_is_said_without_the_password() {
        let wrong = [
            ("postgres://ada:hunter2@h/d?table=", "SCHEMA.TABLE"),
            ("postgres://ada:hunter2@h/d?table=a.b.c", "SCHEMA.TABLE"),
            ("postgres://ada:hunter2@h/d?table=%zz", "hexadecimal"),
            ("postgres://ada:hunter2@h/d?shards=0", "from 1 to 256"),
            ("postgres://ada:hunter2@h/d?tabel=x", "unknown option"),
            ("postgres://ada:hunter2@h/d?table", "no value"),
            ("postgres://ada:hunter2@h:port/d", "port"),
            ("postgres://ada:hunter2@h/d?sslmode=require", "no TLS"),
            ("postgres://ada:hunter2@h", "no database"),
            ("postgres://ada@h/?password=hunter2", "no database"),
            ("postgres://ada@h/?p%61ssword=hunter2", "no database"),
            ("postgres:///d", "no host"),
        ];
        for (uri, part) in wrong {
            let error = Target::parse(uri).expect_err(uri).to_string();
            assert!(error.contains(part), "{uri}: {error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
        let long = format!("postgres://h/d?table={}", "x".repeat(64));
        assert!(
            Target::parse(&long)
                .unwrap_err()
                .to_string()
                .contains("shorter")
        );
    }

    #[test]
    fn masking_keeps_the_rest() {
        let masked = mask("postgres://ada:p@ss:w@h:1/d?table=t&password=x&sslmode=disable");
        assert_eq!(
            masked,
            "postgres://ada:***@h:1/d?table=t&password=***&sslmode=disable"
        );
        assert_eq!(mask("postgres://ada@h/d"), "postgres://ada@h/d");
    }
}
