//! Two schemas into one plan: the rules of Avro's "Schema Resolution".

use std::cell::{Cell, RefCell};
use std::collections::HashMap;

use apache_avro::Schema;
use apache_avro::schema::{
    Aliases, ArraySchema, EnumSchema, FixedSchema, InnerDecimalSchema, MapSchema, Name,
    RecordField, RecordSchema, UnionSchema, UuidSchema,
};
use serde_json::Value;

use super::AvroSchema;
use super::plan::{Field, Node};

/// A schema is read by whoever can register one: what it refers to again and again could grow
/// without bound. No event has so many places.
const MOST_NODES: usize = 10_000;

/// How to read what `writer` wrote as `reader` has it.
pub(super) fn resolve(writer: &AvroSchema, reader: Option<&AvroSchema>) -> Result<Node, String> {
    let resolver = Resolver {
        writer: names(writer),
        reader: reader.map(names).unwrap_or_default(),
        nodes: Cell::new(0),
        within: RefCell::default(),
    };
    resolver.node(&writer.root, reader.map(|reader| &reader.root))
}

/// The types of a schema that have names.
type Names<'s> = HashMap<String, &'s Schema>;

fn names(schema: &AvroSchema) -> Names<'_> {
    let mut names = Names::new();
    for schema in schema.others.iter().chain([&schema.root]) {
        gather(schema, &mut names);
    }
    names
}

fn gather<'s>(schema: &'s Schema, names: &mut Names<'s>) {
    match schema {
        Schema::Record(record) => {
            names.insert(full(&record.name), schema);
            let fields = record.fields.iter();
            fields.for_each(|field| gather(&field.schema, names));
        }
        Schema::Enum(EnumSchema { name, .. }) | Schema::Fixed(FixedSchema { name, .. }) => {
            names.insert(full(name), schema);
        }
        Schema::Array(ArraySchema { items: inner, .. })
        | Schema::Map(MapSchema { types: inner, .. }) => gather(inner, names),
        Schema::Union(union) => {
            let branches = union.variants().iter();
            branches.for_each(|branch| gather(branch, names));
        }
        _ => {}
    }
}

fn full(name: &Name) -> String {
    name.fullname(None)
}

/// A schema without its logical type, which does not change its bytes.
#[derive(Clone, Copy)]
enum Shape<'s> {
    Null,
    Boolean,
    Int,
    Long,
    Float,
    Double,
    Bytes,
    Text,
    Fixed(&'s FixedSchema),
    /// Sixteen bytes.
    Uuid,
    Enum(&'s EnumSchema),
    Array(&'s Schema),
    Map(&'s Schema),
    Union(&'s UnionSchema),
    Record(&'s RecordSchema),
}

impl Shape<'_> {
    const fn word(self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Boolean => "boolean",
            Self::Int => "int",
            Self::Long => "long",
            Self::Float => "float",
            Self::Double => "double",
            Self::Bytes => "bytes",
            Self::Text => "string",
            Self::Fixed(_) | Self::Uuid => "fixed",
            Self::Enum(_) => "enum",
            Self::Array(_) => "array",
            Self::Map(_) => "map",
            Self::Union(_) => "union",
            Self::Record(_) => "record",
        }
    }
}

fn shape<'s>(schema: &'s Schema, names: &Names<'s>) -> Result<Shape<'s>, String> {
    Ok(match schema {
        Schema::Null => Shape::Null,
        Schema::Boolean => Shape::Boolean,
        Schema::Int | Schema::Date | Schema::TimeMillis => Shape::Int,
        Schema::Long
        | Schema::TimeMicros
        | Schema::TimestampMillis
        | Schema::TimestampMicros
        | Schema::TimestampNanos
        | Schema::LocalTimestampMillis
        | Schema::LocalTimestampMicros
        | Schema::LocalTimestampNanos => Shape::Long,
        Schema::Float => Shape::Float,
        Schema::Double => Shape::Double,
        Schema::Bytes | Schema::BigDecimal => Shape::Bytes,
        Schema::String | Schema::Uuid(UuidSchema::String) => Shape::Text,
        Schema::Uuid(UuidSchema::Bytes) => Shape::Uuid,
        Schema::Fixed(fixed) | Schema::Duration(fixed) | Schema::Uuid(UuidSchema::Fixed(fixed)) => {
            Shape::Fixed(fixed)
        }
        Schema::Decimal(decimal) => match &decimal.inner {
            InnerDecimalSchema::Bytes => Shape::Bytes,
            InnerDecimalSchema::Fixed(fixed) => Shape::Fixed(fixed),
        },
        Schema::Enum(symbols) => Shape::Enum(symbols),
        Schema::Array(array) => Shape::Array(&array.items),
        Schema::Map(map) => Shape::Map(&map.types),
        Schema::Union(union) => Shape::Union(union),
        Schema::Record(record) => Shape::Record(record),
        Schema::Ref { name } => {
            let name = full(name);
            let meant = names.get(&name);
            let meant = meant.ok_or_else(|| format!("there is no schema called {name}"))?;
            return shape(meant, names);
        }
    })
}

struct Resolver<'s> {
    writer: Names<'s>,
    reader: Names<'s>,
    /// How many places there are so far.
    nodes: Cell<usize>,
    /// The records of the writer from the outermost to the one at hand.
    within: RefCell<Vec<String>>,
}

impl<'s> Resolver<'s> {
    fn node(&self, writer: &'s Schema, reader: Option<&'s Schema>) -> Result<Node, String> {
        if self.nodes.get() >= MOST_NODES {
            return Err(format!("it has more than {MOST_NODES} places"));
        }
        self.nodes.set(self.nodes.get() + 1);
        let from = shape(writer, &self.writer)?;
        let into = reader.map(|it| shape(it, &self.reader)).transpose()?;
        match (from, into) {
            (Shape::Union(union), _) => self.writers_union(union, reader),
            (_, Some(Shape::Union(union))) => self.readers_union(writer, union),
            _ => self.plain(from, into),
        }
    }

    /// Each branch by itself: which of them a message has shows when it is read.
    fn writers_union(
        &self,
        union: &'s UnionSchema,
        reader: Option<&'s Schema>,
    ) -> Result<Node, String> {
        let branches = union.variants().iter();
        let branches: Vec<_> = branches.map(|branch| self.node(branch, reader)).collect();
        match branches.iter().find_map(|branch| branch.as_ref().err()) {
            Some(reason) if branches.iter().all(Result::is_err) => Err(reason.clone()),
            _ => Ok(Node::Union(branches)),
        }
    }

    /// The first branch of the same kind, or else the first that can be read at all.
    fn readers_union(&self, writer: &'s Schema, union: &'s UnionSchema) -> Result<Node, String> {
        let from = shape(writer, &self.writer)?;
        let is_same = |branch: &&'s Schema| {
            shape(branch, &self.reader).is_ok_and(|into| into.word() == from.word())
        };
        let branches = union.variants();
        let same = branches.iter().filter(is_same);
        let others = branches.iter().filter(|branch| !is_same(branch));
        let mut first = None;
        for branch in same.chain(others) {
            match self.node(writer, Some(branch)) {
                Ok(node) => return Ok(node),
                Err(reason) => first = first.or(Some(reason)),
            }
        }
        Err(first.unwrap_or_else(|| "the reader's union is empty".to_owned()))
    }

    /// The items of a list: one whose items cannot be read can still be empty.
    fn items(&self, writer: &'s Schema, reader: Option<&'s Schema>) -> Node {
        self.node(writer, reader).unwrap_or_else(Node::Unreadable)
    }

    fn plain(&self, from: Shape<'s>, into: Option<Shape<'s>>) -> Result<Node, String> {
        use Shape::{
            Array, Boolean, Bytes, Double, Enum, Fixed, Float, Int, Long, Map, Null, Record, Text,
            Uuid,
        };
        let integer = |is_int, as_float| Node::Integer { is_int, as_float };
        Ok(match (from, into) {
            (Null, None | Some(Null)) => Node::Null,
            (Boolean, None | Some(Boolean)) => Node::Boolean,
            (Int, None | Some(Int | Long)) => integer(true, false),
            (Int, Some(Float | Double)) => integer(true, true),
            (Long, None | Some(Long)) => integer(false, false),
            (Long, Some(Float | Double)) => integer(false, true),
            (Float, None | Some(Float)) => Node::Float { as_double: false },
            (Float, Some(Double)) => Node::Float { as_double: true },
            (Double, None | Some(Double)) => Node::Double,
            (Text, None | Some(Text)) | (Bytes, Some(Text)) => Node::Text,
            (Bytes, None | Some(Bytes)) | (Text, Some(Bytes)) => Node::Bytes,
            (Uuid, None | Some(Uuid)) => Node::Fixed(16),
            (Fixed(fixed), None) => Node::Fixed(fixed.size),
            (Fixed(fixed), Some(Fixed(other))) if fixed.size == other.size => {
                same_name(&fixed.name, &other.name, &other.aliases)?;
                Node::Fixed(fixed.size)
            }
            (Enum(symbols), None) => enumeration(symbols, symbols),
            (Enum(symbols), Some(Enum(other))) => {
                same_name(&symbols.name, &other.name, &other.aliases)?;
                enumeration(symbols, other)
            }
            (Array(items), None) => Node::Array(self.items(items, None).into()),
            (Array(items), Some(Array(other))) => {
                Node::Array(self.items(items, Some(other)).into())
            }
            (Map(values), None) => Node::Map(self.items(values, None).into()),
            (Map(values), Some(Map(other))) => Node::Map(self.items(values, Some(other)).into()),
            (Record(record), None) => self.record(record, None)?,
            (Record(record), Some(Record(other))) => {
                same_name(&record.name, &other.name, &other.aliases)?;
                self.record(record, Some(other))?
            }
            (from, into) => {
                let into = into.map_or("nothing", Shape::word);
                return Err(format!("{} cannot be read as {into}", from.word()));
            }
        })
    }

    fn record(
        &self,
        writer: &'s RecordSchema,
        reader: Option<&'s RecordSchema>,
    ) -> Result<Node, String> {
        let name = full(&writer.name);
        if self.within.borrow().contains(&name) {
            return Err(format!(
                "{name} refers to itself, and so can have any depth"
            ));
        }
        self.within.borrow_mut().push(name);
        let fields = writer.fields.iter();
        let fields = fields.map(|field| self.field(field, reader));
        let fields = fields.collect::<Result<_, String>>();
        self.within.borrow_mut().pop();
        let fields = fields?;
        let wanted = reader.into_iter().flat_map(|reader| &reader.fields);
        let missing = wanted.filter(|wanted| {
            let mut fields = writer.fields.iter();
            !fields.any(|field| is_meant(&field.name, wanted))
        });
        let defaults = missing.map(|field| self.default(field));
        Ok(Node::Record {
            fields,
            defaults: defaults.collect::<Result<_, String>>()?,
        })
    }

    /// A field of the writer, as the reader has it, if it does.
    fn field(
        &self,
        field: &'s RecordField,
        reader: Option<&'s RecordSchema>,
    ) -> Result<Field, String> {
        let meant = match reader {
            Some(reader) => meant(field, reader),
            None => Some(field),
        };
        let schema = meant.filter(|_| reader.is_some());
        let node = self.node(&field.schema, schema.map(|it| &it.schema));
        Ok(Field {
            name: field.name.clone(),
            key: meant.map(|meant| key(&meant.name)),
            node: node.map_err(|reason| format!("field {}: {reason}", field.name))?,
        })
    }

    /// `"name":default` of a field that the writer does not have.
    fn default(&self, field: &'s RecordField) -> Result<String, String> {
        let Some(default) = &field.default else {
            return Err(format!(
                "field {} is missing in the schema of the message, and has no default here",
                field.name
            ));
        };
        let mut schema = &field.schema;
        if let Schema::Union(union) = schema {
            // The default of a union is one of its first branch.
            schema = union.variants().first().unwrap_or(schema);
        }
        let is_float = matches!(shape(schema, &self.reader)?, Shape::Float | Shape::Double);
        let float = default.as_f64().filter(|_| is_float).map(Value::from);
        let default = float.as_ref().unwrap_or(default);
        Ok(format!("{}{default}", key(&field.name)))
    }
}

/// The reader's field for a field of the writer.
fn meant<'s>(field: &RecordField, reader: &'s RecordSchema) -> Option<&'s RecordField> {
    let mut named = reader.fields.iter();
    let named = named.find(|wanted| wanted.name == field.name);
    let mut all = reader.fields.iter();
    named.or_else(|| all.find(|wanted| is_meant(&field.name, wanted)))
}

fn is_meant(name: &str, wanted: &RecordField) -> bool {
    wanted.name == name || wanted.aliases.iter().any(|alias| alias == name)
}

/// `"name":`
fn key(name: &str) -> String {
    format!("{}:", Value::from(name))
}

/// The JSON of each symbol of the writer.
fn enumeration(writer: &EnumSchema, reader: &EnumSchema) -> Node {
    let known = |symbol: &String| {
        let known = reader.symbols.contains(symbol).then_some(symbol);
        let symbol = known.or(reader.default.as_ref());
        symbol.map(|symbol| Value::from(symbol.as_str()).to_string())
    };
    Node::Enum(writer.symbols.iter().map(known).collect())
}

/// Types are the same when their names are, without what stands before the last dot.
fn same_name(writer: &Name, reader: &Name, aliases: &Aliases) -> Result<(), String> {
    let mut aliases = aliases.iter().flatten();
    if writer.name() == reader.name() || aliases.any(|alias| alias.name() == writer.name()) {
        return Ok(());
    }
    let (writer, reader) = (full(writer), full(reader));
    Err(format!("it is a {writer}, and not a {reader}"))
}
