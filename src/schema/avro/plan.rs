//! What to expect at each place of a message, and what to write for it.

use std::fmt;

use super::AvroSchema;
use super::resolve::resolve;

/// How messages of one schema become the JSON of another.
#[derive(Clone, Debug)]
pub struct Plan(Node);

/// What stands at a place of a message.
#[derive(Clone, Debug)]
pub(super) enum Node {
    Null,
    Boolean,
    /// `int` or `long`.
    Integer {
        is_int: bool,
        /// Whether the reader has it as a float.
        as_float: bool,
    },
    Float {
        /// Whether the reader has it as a double.
        as_double: bool,
    },
    Double,
    /// `string`, or bytes that the reader has as a text.
    Text,
    /// Bytes, or a text that the reader has as bytes: one character per byte.
    Bytes,
    Fixed(usize),
    /// The JSON of each symbol; `None`: the reader has no such symbol.
    Enum(Vec<Option<String>>),
    Array(Box<Self>),
    Map(Box<Self>),
    /// What no message may hold if it is to be read, and why: the items of a list that must be empty.
    Unreadable(String),
    /// One of these; those that the reader cannot have say why.
    Union(Vec<Result<Self, String>>),
    Record {
        fields: Vec<Field>,
        /// The fields that the writer does not have, as JSON: `"name":default`.
        defaults: Vec<String>,
    },
}

/// A field of the writer.
#[derive(Clone, Debug)]
pub(super) struct Field {
    /// For people.
    pub name: String,
    /// `"name":`, as the reader calls it; `None`: the reader does not know it.
    pub key: Option<String>,
    pub node: Node,
}

/// Why a message does not fit its schema.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The field, from the inside out.
    path: Vec<String>,
    what: String,
}

impl Problem {
    fn new(what: impl Into<String>) -> Self {
        Self {
            path: Vec::new(),
            what: what.into(),
        }
    }

    fn within(mut self, field: &Field) -> Self {
        self.path.push(field.name.clone());
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, field) in self.path.iter().rev().enumerate() {
            write!(f, "{}{field}", if index == 0 { "" } else { "." })?;
        }
        let colon = if self.path.is_empty() { "" } else { ": " };
        write!(f, "{colon}{}", self.what)
    }
}

/// Where the JSON goes; `None`: the value is passed over.
type Out<'o> = Option<&'o mut Vec<u8>>;

impl Plan {
    /// How to read what `writer` wrote as `reader` has it; without one, as it is.
    ///
    /// # Errors
    /// When that is not possible whatever a message holds; the text says which field.
    pub fn new(writer: &AvroSchema, reader: Option<&AvroSchema>) -> Result<Self, String> {
        resolve(writer, reader).map(Self)
    }

    /// Appends `message` as JSON. Floats that are no numbers become the tokens `NaN`, `Infinity`
    /// and `-Infinity`, which are no JSON: whether they mean something is for the decoder to say.
    ///
    /// # Errors
    /// When the bytes do not fit the schema; `out` then holds a part.
    pub fn to_json(&self, message: &[u8], out: &mut Vec<u8>) -> Result<(), Problem> {
        let mut input = Input {
            left: message,
            items: message.len(),
        };
        self.0.read(&mut input, Some(out))?;
        match input.left.len() {
            0 => Ok(()),
            more => Err(Problem::new(format!(
                "{more} bytes are left over at the end"
            ))),
        }
    }
}

/// What is left of a message.
struct Input<'a> {
    left: &'a [u8],
    /// How many items of arrays and maps there may be yet: some have no bytes of their own.
    items: usize,
}

impl<'a> Input<'a> {
    fn take(&mut self, length: usize, what: &str) -> Result<&'a [u8], Problem> {
        let Some((taken, rest)) = self.left.split_at_checked(length) else {
            let left = self.left.len();
            return Err(Problem::new(format!(
                "the message ends within {what}: {length} bytes are needed, {left} are left"
            )));
        };
        self.left = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], Problem> {
        let mut bytes = [0; N];
        bytes.copy_from_slice(self.take(N, what)?);
        Ok(bytes)
    }

    /// Seven bits a byte, the lowest first; the sign is the lowest bit.
    fn long(&mut self, what: &str) -> Result<i64, Problem> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let [byte] = self.array(what)?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                break;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok((value >> 1) as i64 ^ -((value & 1) as i64));
            }
        }
        Err(Problem::new(format!("{what} has more than 64 bits")))
    }

    fn length(&mut self, what: &str) -> Result<usize, Problem> {
        let length = self.long(what)?;
        usize::try_from(length)
            .map_err(|_| Problem::new(format!("the length or index of {what} is {length}")))
    }

    fn bytes(&mut self, what: &str) -> Result<&'a [u8], Problem> {
        let length = self.length(what)?;
        self.take(length, what)
    }

    fn text(&mut self) -> Result<&'a str, Problem> {
        let bytes = self.bytes("a string")?;
        std::str::from_utf8(bytes)
            .map_err(|error| Problem::new(format!("a string is not UTF-8: {error}")))
    }

    /// How many items the next block of an array or a map has; 0 ends it. Items without a byte
    /// would let a few bytes stand for any number of them.
    fn block(&mut self, what: &str) -> Result<usize, Problem> {
        let mut count = self.long(what)?;
        if count < 0 {
            // The size of the block in bytes, for those who want to pass over it.
            self.length(what)?;
            count = count.checked_neg().unwrap_or(i64::MAX);
        }
        let left = self.left.len();
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        match self.items.checked_sub(count) {
            Some(items) if count <= left => {
                self.items = items;
                Ok(count)
            }
            _ => {
                let what = format!("{what} of {count} items in {left} bytes");
                Err(Problem::new(what))
            }
        }
    }
}

impl Node {
    /// Reads one value, and writes it when there is an `out`.
    fn read(&self, input: &mut Input<'_>, out: Out<'_>) -> Result<(), Problem> {
        match self {
            Self::Null => put(out, b"null"),
            Self::Boolean => match input.array("a boolean")? {
                [0] => put(out, b"false"),
                [1] => put(out, b"true"),
                [other] => return Err(Problem::new(format!("a boolean is {other}"))),
            },
            Self::Integer { is_int, as_float } => {
                let value = input.long("a number")?;
                if *is_int && i32::try_from(value).is_err() {
                    return Err(Problem::new(format!("{value} is no int")));
                }
                match out {
                    Some(out) if *as_float => push_json(&(value as f64), out),
                    Some(out) => push_json(&value, out),
                    None => {}
                }
            }
            Self::Float { as_double } => {
                let value = f32::from_le_bytes(input.array("a float")?);
                let wide = f64::from(value);
                match out {
                    Some(out) if *as_double => push_float(wide, wide, out),
                    Some(out) => push_float(value, wide, out),
                    None => {}
                }
            }
            Self::Double => {
                let value = f64::from_le_bytes(input.array("a double")?);
                with(out, |out| push_float(value, value, out));
            }
            Self::Text => {
                let text = input.text()?;
                with(out, |out| push_text(text, out));
            }
            Self::Bytes => {
                let bytes = input.bytes("bytes")?;
                with(out, |out| push_bytes(bytes, out));
            }
            Self::Fixed(length) => {
                let bytes = input.take(*length, "a fixed")?;
                with(out, |out| push_bytes(bytes, out));
            }
            Self::Enum(symbols) => read_enum(symbols, input, out)?,
            Self::Array(items) => read_items(items, input, out)?,
            Self::Map(values) => read_entries(values, input, out)?,
            Self::Unreadable(reason) => return Err(Problem::new(reason.as_str())),
            Self::Union(branches) => read_branch(branches, input, out)?,
            Self::Record { fields, defaults } => read_record(fields, defaults, input, out)?,
        }
        Ok(())
    }
}

fn read_enum(
    symbols: &[Option<String>],
    input: &mut Input<'_>,
    out: Out<'_>,
) -> Result<(), Problem> {
    let index = input.length("an enum")?;
    let symbol = symbols.get(index);
    let symbol = symbol.ok_or_else(|| Problem::new(format!("an enum is {index}")))?;
    let unknown = "a symbol of an enum that the reader does not know";
    let symbol = symbol.as_ref().ok_or_else(|| Problem::new(unknown))?;
    put(out, symbol.as_bytes());
    Ok(())
}

fn read_branch(
    branches: &[Result<Node, String>],
    input: &mut Input<'_>,
    out: Out<'_>,
) -> Result<(), Problem> {
    let index = input.length("a union")?;
    match branches.get(index) {
        Some(Ok(node)) => node.read(input, out),
        Some(Err(reason)) => Err(Problem::new(reason.as_str())),
        None => {
            let count = branches.len();
            let what = format!("branch {index} of a union that has {count}");
            Err(Problem::new(what))
        }
    }
}

fn read_items(items: &Node, input: &mut Input<'_>, mut out: Out<'_>) -> Result<(), Problem> {
    let mut list = List::begin(b"[", out.as_deref_mut());
    loop {
        let count = input.block("an array")?;
        for _ in 0..count {
            list.next(out.as_deref_mut());
            items.read(input, out.as_deref_mut())?;
        }
        if count == 0 {
            put(out, b"]");
            return Ok(());
        }
    }
}

fn read_entries(values: &Node, input: &mut Input<'_>, mut out: Out<'_>) -> Result<(), Problem> {
    let mut list = List::begin(b"{", out.as_deref_mut());
    loop {
        let count = input.block("a map")?;
        for _ in 0..count {
            list.next(out.as_deref_mut());
            let key = input.text()?;
            if let Some(out) = out.as_deref_mut() {
                push_text(key, out);
                out.push(b':');
            }
            values.read(input, out.as_deref_mut())?;
        }
        if count == 0 {
            put(out, b"}");
            return Ok(());
        }
    }
}

fn read_record(
    fields: &[Field],
    defaults: &[String],
    input: &mut Input<'_>,
    mut out: Out<'_>,
) -> Result<(), Problem> {
    let mut list = List::begin(b"{", out.as_deref_mut());
    for field in fields {
        let mut value = None;
        if let Some((key, out)) = field.key.as_ref().zip(out.as_deref_mut()) {
            list.next(Some(out));
            out.extend_from_slice(key.as_bytes());
            value = Some(out);
        }
        let read = field.node.read(input, value);
        read.map_err(|problem| problem.within(field))?;
    }
    for default in defaults {
        list.next(out.as_deref_mut());
        put(out.as_deref_mut(), default.as_bytes());
    }
    put(out, b"}");
    Ok(())
}

fn put(out: Out<'_>, bytes: &[u8]) {
    with(out, |out| out.extend_from_slice(bytes));
}

fn with(out: Out<'_>, write: impl FnOnce(&mut Vec<u8>)) {
    if let Some(out) = out {
        write(out);
    }
}

/// The commas of an object or an array.
struct List {
    is_empty: bool,
}

impl List {
    fn begin(bracket: &[u8], out: Out<'_>) -> Self {
        put(out, bracket);
        Self { is_empty: true }
    }

    fn next(&mut self, out: Out<'_>) {
        if !std::mem::replace(&mut self.is_empty, false) {
            put(out, b",");
        }
    }
}

/// The shortest text that gives the same bits again; `wide` is the same number, to be looked at.
fn push_float(value: impl serde::Serialize, wide: f64, out: &mut Vec<u8>) {
    if wide.is_finite() {
        push_json(&value, out);
    } else if wide.is_nan() {
        out.extend_from_slice(b"NaN");
    } else {
        let text: &[u8] = if wide > 0.0 {
            b"Infinity"
        } else {
            b"-Infinity"
        };
        out.extend_from_slice(text);
    }
}

fn push_text(text: &str, out: &mut Vec<u8>) {
    let is_plain = |byte: &u8| *byte >= b' ' && *byte != b'"' && *byte != b'\\';
    if text.as_bytes().iter().all(is_plain) {
        out.push(b'"');
        out.extend_from_slice(text.as_bytes());
        out.push(b'"');
    } else {
        push_json(text, out);
    }
}

fn push_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    let text: String = bytes.iter().copied().map(char::from).collect();
    push_text(&text, out);
}

fn push_json(value: &(impl serde::Serialize + ?Sized), out: &mut Vec<u8>) {
    // Invariant: numbers and texts are always JSON, and a vector takes every byte.
    let _ = serde_json::to_writer(out, value);
}
