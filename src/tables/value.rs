//! A cell of a dimension table as its place has it, and whether it fits its column.

use crate::rows::{Column, ColumnType};
use crate::time::{EventTime, parse_rfc3339};

/// A cell.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Nothing.
    Null,
    /// Text; in a file without types, any cell.
    Text(String),
    /// A whole number.
    Int(i64),
    /// A number.
    Float(f64),
    /// True or false.
    Bool(bool),
    /// An instant.
    Time(EventTime),
    /// What no column takes: its type, and what it looks like.
    Other(String, String),
}

impl Value {
    /// Whether there is nothing. An empty text is nothing, as files without types have no other.
    pub fn is_empty(&self) -> bool {
        matches!(self, Self::Null) || matches!(self, Self::Text(text) if text.is_empty())
    }

    /// The cell as text for `column`; `None` when it is empty.
    ///
    /// # Errors
    /// When it is not of the column's type, or is empty and must not be: what is wrong, and what
    /// to do.
    pub fn checked(&self, column: &Column) -> Result<Option<String>, String> {
        let name = column.name;
        if self.is_empty() {
            return if column.nullable {
                Ok(None)
            } else {
                Err(format!("{name} is missing: each row needs one"))
            };
        }
        let text = match (column.kind, self) {
            (ColumnType::Text, Self::Text(text)) => text.clone(),
            (ColumnType::Int | ColumnType::Float, Self::Int(number)) => number.to_string(),
            (ColumnType::Int, Self::Text(text)) => text
                .parse::<i64>()
                .map_err(|_| format!("{name}: {text:?} is not a number in range"))?
                .to_string(),
            (ColumnType::Float, Self::Float(number)) => number.to_string(),
            (ColumnType::Float, Self::Text(text)) => text
                .parse::<f64>()
                .map_err(|_| format!("{name}: {text:?} is not a number"))?
                .to_string(),
            (ColumnType::Bool, Self::Bool(is)) => is.to_string(),
            (ColumnType::Bool, Self::Text(text)) if text == "true" || text == "false" => {
                text.clone()
            }
            (ColumnType::Timestamp, _) => self
                .time(name)?
                .map_or_else(String::new, |time| time.to_string()),
            (kind, _) => return Err(self.misfit(name, kind)),
        };
        Ok(Some(text))
    }

    /// The instant in column `name`; `None` when it is empty.
    ///
    /// # Errors
    /// When it is none.
    pub fn time(&self, name: &str) -> Result<Option<EventTime>, String> {
        match self {
            _ if self.is_empty() => Ok(None),
            Self::Time(time) => Ok(Some(*time)),
            Self::Text(text) => parse_rfc3339(text.as_bytes())
                .map(Some)
                .map_err(|error| format!("{name}: {error}; write 2024-01-31T10:00:00Z")),
            _ => Err(self.misfit(name, ColumnType::Timestamp)),
        }
    }

    fn misfit(&self, name: &str, kind: ColumnType) -> String {
        let (is, shown) = match self {
            Self::Null => ("null", String::new()),
            Self::Text(text) => ("a text", format!("{text:?}")),
            Self::Int(number) => ("a whole number", number.to_string()),
            Self::Float(number) => ("a floating-point number", number.to_string()),
            Self::Bool(is) => ("a boolean", is.to_string()),
            Self::Time(time) => ("a time", time.to_string()),
            Self::Other(kind, shown) => (kind.as_str(), shown.clone()),
        };
        let (needed, advice) = match kind {
            ColumnType::Int => (
                "a whole number",
                "make the column one of whole numbers (bigint)",
            ),
            ColumnType::Text => (
                "a text",
                "write it in quotes, or make the column one of texts (text)",
            ),
            ColumnType::Float => (
                "a number",
                "make the column one of numbers (double precision)",
            ),
            ColumnType::Bool => ("true or false", "make the column one of booleans"),
            ColumnType::Timestamp => (
                "a time",
                "make the column one of times (timestamptz), or write 2024-01-31T10:00:00Z",
            ),
            ColumnType::Uuid | ColumnType::Bytes => {
                ("what no dimension table has", "correct the pipeline")
            }
        };
        format!("{name}: {shown} is {is}, and {needed} is needed: {advice}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: Column = Column::new("id", ColumnType::Int);
    const NAME: Column = Column::new("name", ColumnType::Text);

    fn text(text: &str) -> Value {
        Value::Text(text.to_owned())
    }

    #[test]
    fn what_fits_becomes_text() {
        for (value, column, expected) in [
            (Value::Int(7), &ID, "7"),
            (text("0007"), &ID, "7"),
            (text("7"), &NAME, "7"),
        ] {
            assert_eq!(value.checked(column), Ok(Some(expected.to_owned())));
        }
        let nullable = Column::nullable("name", ColumnType::Text);
        assert_eq!(text("").checked(&nullable), Ok(None));
    }

    #[test]
    fn what_does_not_fit_is_told_with_its_column_and_what_to_do() {
        for (value, column, parts) in [
            (text("x"), &ID, ["id", "\"x\"", "not a number"]),
            (
                Value::Float(1.5),
                &ID,
                ["id: 1.5", "floating-point", "bigint"],
            ),
            (
                Value::Int(3),
                &NAME,
                ["name: 3", "whole number", "in quotes"],
            ),
            (Value::Null, &NAME, ["name", "missing", "each row"]),
            (
                Value::Other("a json".to_owned(), "{}".to_owned()),
                &ID,
                ["id: {}", "a json", "whole number is needed"],
            ),
        ] {
            let error = value.checked(column).expect_err("does not fit");
            assert!(parts.iter().all(|part| error.contains(part)), "{error}");
        }
    }

    #[test]
    fn times_are_instants_or_rfc_3339() {
        let noon = EventTime(43_200_000);
        assert_eq!(Value::Time(noon).time("valid_from"), Ok(Some(noon)));
        assert_eq!(
            text("1970-01-01T12:00:00Z").time("valid_from"),
            Ok(Some(noon))
        );
        assert_eq!(text("").time("valid_from"), Ok(None));
        let error = text("noon").time("valid_from").expect_err("no time");
        assert!(
            error.contains("valid_from") && error.contains("write 2024"),
            "{error}"
        );
        assert!(Value::Int(7).time("valid_from").is_err());
    }
}
