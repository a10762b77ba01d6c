//! A source whose messages are framed: the source itself, and the schemas to read them with.

use std::sync::Arc;
use std::time::Duration;

use super::Schemas;
use crate::source::{
    OffsetUnit, Partition, Reader, SharedFormat, SharedSource, Source, SourceError,
};
use crate::time::Offset;

/// See the module.
pub struct Framed {
    source: SharedSource,
    schemas: Arc<Schemas>,
}

impl Framed {
    /// `source` with messages of these schemas.
    pub const fn new(source: SharedSource, schemas: Arc<Schemas>) -> Self {
        Self { source, schemas }
    }
}

impl Source for Framed {
    fn name(&self) -> String {
        self.source.name()
    }

    fn partitions(&self) -> Result<Vec<Partition>, SourceError> {
        self.source.partitions()
    }

    fn remember(&self, known: &[Partition]) {
        self.source.remember(known);
    }

    fn discovery_interval(&self) -> Option<Duration> {
        self.source.discovery_interval()
    }

    fn offset_unit(&self) -> OffsetUnit {
        self.source.offset_unit()
    }

    fn head(&self, partition: &Partition, bytes: u64) -> Result<Option<Vec<u8>>, SourceError> {
        self.source.head(partition, bytes)
    }

    fn end(&self, partition: &Partition) -> Option<Offset> {
        self.source.end(partition)
    }

    fn format(&self) -> Option<SharedFormat> {
        Some(Arc::clone(&self.schemas) as _)
    }

    fn reader(&self) -> Result<Box<dyn Reader>, SourceError> {
        self.source.reader()
    }

    fn check(&self) -> Result<String, SourceError> {
        self.source.check()
    }
}
