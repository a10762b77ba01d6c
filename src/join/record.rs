//! One row of a dimension table, as a place gives it and before a pipeline has read it.

use std::collections::HashMap;

use crate::decode::Text;

/// One row of a dimension table: text by column name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DimRecord(HashMap<String, String>);

impl DimRecord {
    /// A row of these cells.
    pub fn new(cells: impl IntoIterator<Item = (String, String)>) -> Self {
        Self(cells.into_iter().collect())
    }

    /// The text in `column`; `None` when it is empty or there is no such column.
    pub fn get(&self, column: &str) -> Option<&str> {
        self.0
            .get(column)
            .map(String::as_str)
            .filter(|text| !text.is_empty())
    }

    /// The text in `column`, inline.
    ///
    /// # Errors
    /// When it is missing or too long.
    pub fn text<const N: usize>(&self, column: &str) -> Result<Text<N>, String> {
        let text = self
            .get(column)
            .ok_or_else(|| format!("{column} is missing"))?;
        Text::new(text)
            .ok_or_else(|| format!("{column} is longer than {} bytes", Text::<N>::CAPACITY))
    }

    /// The number in `column`.
    ///
    /// # Errors
    /// When it is missing or none.
    pub fn number<I: std::str::FromStr>(&self, column: &str) -> Result<I, String> {
        let text = self
            .get(column)
            .ok_or_else(|| format!("{column} is missing"))?;
        text.parse()
            .map_err(|_| format!("{column}: {text:?} is not a number in range"))
    }
}
