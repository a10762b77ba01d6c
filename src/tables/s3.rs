//! A bucket with an object per table: `NAME.csv` or `NAME.parquet`, or Parquet objects below
//! `NAME.parquet/`. An object is read whole or not at all, so nobody sees half a table.

use object_store::{Error, ObjectStore, ObjectStoreExt, PutPayload};

use super::files::{append, decode, encode, file_name};
use super::{
    Contents, PlaceOptions, TableFormat, TablePlace, TableRows, Whole, WriteOptions, listed,
};
use crate::join::{DimError, DimTable};
use crate::s3::{Client, is_passing};
use crate::terminal::chain;

/// A bucket with a prefix.
pub(super) struct BucketPlace {
    client: Client,
}

impl BucketPlace {
    /// Reads the environment; connects to nothing yet.
    pub(super) fn new(
        bucket: &str,
        prefix: &str,
        options: &PlaceOptions,
    ) -> Result<Self, DimError> {
        let client = Client::new(bucket, prefix, options.connect_timeout);
        client
            .map(|client| Self { client })
            .map_err(|error| DimError(error.to_string()))
    }

    /// What the object `name` holds, if it is there.
    fn get(&self, name: &str) -> Result<Option<Vec<u8>>, DimError> {
        let (store, key) = (&self.client.store, self.client.key(name));
        let got = self.client.block_on(async {
            let found = store.get(&key).await?;
            found.bytes().await
        });
        match got {
            Ok(bytes) => Ok(Some(bytes.into())),
            Err(error) => self.unless_missing(&error).map(|()| None),
        }
    }

    /// Nothing, when an object is missing and not its bucket.
    fn unless_missing(&self, error: &Error) -> Result<(), DimError> {
        let failed = self.client.failed(error);
        let is_missing = matches!(error, Error::NotFound { .. })
            && !matches!(failed, crate::s3::ClientError::Config(_));
        if is_missing {
            return Ok(());
        }
        if is_passing(error) {
            return Err(DimError(format!(
                "{}: cannot be reached: {}; check AWS_ENDPOINT_URL and that the store runs",
                self.client.name,
                chain(error)
            )));
        }
        Err(DimError(failed.to_string()))
    }

    fn read_table(&self, table: &DimTable) -> Result<Whole, DimError> {
        for format in [TableFormat::Csv, TableFormat::Parquet] {
            let name = file_name(table, format);
            if let Some(bytes) = self.get(&name)? {
                let name = format!("{}/{name}", self.client.name);
                return decode(table, &name, bytes, format);
            }
        }
        let mut parts = Whole::default();
        for name in self.parts(table)? {
            let Some(bytes) = self.get(&name)? else {
                let what = "was removed while it was read; it is read again at the next refresh";
                return Err(DimError(format!("{}/{name} {what}", self.client.name)));
            };
            let name = format!("{}/{name}", self.client.name);
            parts = append(parts, decode(table, &name, bytes, TableFormat::Parquet)?)?;
        }
        if parts.columns.is_empty() {
            return Err(DimError(format!(
                "{}: neither {name}.csv nor {name}.parquet is there; `highwater dims` makes the \
                 tables",
                self.client.name,
                name = table.name
            )));
        }
        Ok(parts)
    }

    /// The Parquet objects of a table that has several.
    fn parts(&self, table: &DimTable) -> Result<Vec<String>, DimError> {
        let prefix = self.client.key(&file_name(table, TableFormat::Parquet));
        let listed = self
            .client
            .block_on(self.client.store.list_with_delimiter(Some(&prefix)));
        let objects = match listed {
            Ok(listed) => listed.objects,
            Err(error) => return self.unless_missing(&error).map(|()| Vec::new()),
        };
        let names = objects
            .iter()
            .map(|object| self.client.name_of(&object.location).to_owned());
        let mut names: Vec<_> = names.filter(|name| name.ends_with(".parquet")).collect();
        names.sort();
        Ok(names)
    }
}

impl TablePlace for BucketPlace {
    fn name(&self) -> String {
        self.client.name.clone()
    }

    fn read(&self, tables: &[DimTable]) -> Result<Vec<Contents>, DimError> {
        let read = |table| self.read_table(table).map(Contents::Whole);
        tables.iter().map(read).collect()
    }

    fn write(&self, tables: &[TableRows], options: &WriteOptions) -> Result<String, DimError> {
        let format = options.format;
        for it in tables {
            let other = file_name(&it.table, format.other());
            if self.get(&other)?.is_some() {
                return Err(DimError(format!(
                    "{}/{other} is there and might be read instead: remove it or choose another \
                     prefix",
                    self.client.name
                )));
            }
        }
        for it in tables {
            let name = file_name(&it.table, format);
            let bytes = encode(&it.rows, format, Vec::new())
                .map_err(|error| DimError(format!("{}/{name}: {error}", self.client.name)))?;
            let (store, key) = (&self.client.store, self.client.key(&name));
            let put = self
                .client
                .block_on(store.put(&key, PutPayload::from(bytes)));
            if let Err(error) = put {
                self.unless_missing(&error)?;
                return Err(DimError(self.client.failed(&error).to_string()));
            }
        }
        let made = listed(tables, |table| file_name(table, format));
        Ok(format!("{}: {made}", self.client.name))
    }
}
