//! The line of a reading: CSV, alone or wrapped as a JSON string.

use std::borrow::Cow;

use highwater::decode::{Reason, Rejection, Str};

/// More columns than any line of readings has.
const MOST_COLUMNS: usize = 16;

/// The CSV line in `text`. A JSON string is unwrapped; anything else is taken as the line itself, so
/// that what is no JSON shows as a line with the wrong columns.
///
/// # Errors
/// When it begins like a JSON string, but is neither one nor a line whose first field is quoted.
pub fn unwrapped(text: &str) -> Result<Cow<'_, str>, Rejection> {
    let text = text.trim();
    if !text.starts_with('"') {
        return Ok(Cow::Borrowed(text));
    }
    match serde_json::from_str::<Str<'_>>(text) {
        Ok(Str(line)) => Ok(line),
        Err(error) if Fields::split(text).is_ok_and(|fields| fields.len() > 1) => {
            // `"A002","R051",...`
            drop(error);
            Ok(Cow::Borrowed(text))
        }
        Err(error) => {
            let detail = format!("neither a JSON string nor a CSV line: {error}");
            Err(Rejection::new(Reason::Undecodable, detail))
        }
    }
}

/// The fields of one line.
pub struct Fields {
    bytes: Vec<u8>,
    ends: [usize; MOST_COLUMNS],
    len: usize,
}

impl Fields {
    /// Splits a line as RFC 4180 says.
    ///
    /// # Errors
    /// When it has more fields than any reading, or is more than one line.
    pub fn split(line: &str) -> Result<Self, Rejection> {
        let mut reader = csv_core::Reader::new();
        // More than the fields can take, so that there is always room.
        let mut bytes = vec![0; line.len() + 8];
        let mut ends = [0; MOST_COLUMNS];
        let (mut input, mut written, mut len) = (line.as_bytes(), 0, 0);
        loop {
            let (result, read, wrote, ended) =
                reader.read_record(input, &mut bytes[written..], &mut ends[len..]);
            (input, written, len) = (&input[read..], written + wrote, len + ended);
            match result {
                csv_core::ReadRecordResult::InputEmpty => {}
                csv_core::ReadRecordResult::Record | csv_core::ReadRecordResult::End => break,
                _ => return Err(wrong("it has more columns than a reading".to_owned())),
            }
        }
        if !input.trim_ascii().is_empty() {
            return Err(wrong("it is more than one line".to_owned()));
        }
        Ok(Self { bytes, ends, len })
    }

    /// How many there are.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The field at `index`, without white space around it; a missing one is empty.
    pub fn get(&self, index: usize) -> &str {
        if index >= self.len {
            return "";
        }
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        let field = self.bytes.get(start..self.ends[index]);
        // Invariant: a text that is cut at ASCII characters is made of texts.
        std::str::from_utf8(field.unwrap_or_default())
            .unwrap_or_default()
            .trim()
    }

    /// Whether this is the line with the names of the columns, whatever stands before them.
    pub fn is_header(&self) -> bool {
        let is = |index, name| self.get(index).eq_ignore_ascii_case(name);
        (1..self.len).any(|index| is(index - 1, "UNIT") && is(index, "SCP"))
    }
}

fn wrong(detail: String) -> Rejection {
    Rejection::new(Reason::Undecodable, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(text: &str) -> Vec<String> {
        let line = unwrapped(text).expect("a line");
        let fields = Fields::split(&line).expect("one line");
        (0..fields.len())
            .map(|index| fields.get(index).to_owned())
            .collect()
    }

    #[test]
    fn a_line_may_be_a_json_string() {
        assert_eq!(fields("a,b , c"), ["a", "b", "c"]);
        assert_eq!(fields(r#""a,b""#), ["a", "b"]);
        assert_eq!(
            fields(r#" "a,\u0062,\"x, \"\"y\"\"\",é\/" "#),
            ["a", "b", r#"x, "y""#, "é/"]
        );
        assert_eq!(fields(r#""a,b\r\n""#), ["a", "b"]);
        assert_eq!(
            fields(r#""a","b, c""#),
            ["a", "b, c"],
            "a line whose fields are quoted"
        );
        assert_eq!(fields(""), [""; 0]);
        assert_eq!(fields("a,,"), ["a", "", ""]);
    }

    #[test]
    fn what_begins_like_a_json_string_must_be_one() {
        for text in [r#""a,b"#, r#""a\x,b""#, r#"""#, "\"a,b\n\""] {
            let error = unwrapped(text).expect_err(text);
            assert_eq!(error.reason, Reason::Undecodable);
            assert!(error.detail.contains("JSON"), "{}", error.detail);
        }
    }

    #[test]
    fn a_reading_is_one_line_of_few_columns() {
        for text in ["a,b\nc,d", &",".repeat(16)] {
            let Err(error) = Fields::split(text) else {
                panic!("{text}");
            };
            assert_eq!(error.reason, Reason::Undecodable);
        }
        assert_eq!(Fields::split(&",".repeat(15)).map(|it| it.len()), Ok(16));
        assert_eq!(fields("a,\"b\nc\""), ["a", "b\nc"]);
    }

    #[test]
    fn headers_are_known_by_their_names() {
        let is_header = |text| Fields::split(text).is_ok_and(|fields| fields.is_header());
        for text in [
            "C/A,UNIT,SCP,STATION,LINENAME,DIVISION,DATE,TIME,DESC,ENTRIES,EXITS      ",
            "CA,UNIT,SCP,STATION,LINENAME,DIVISION,DATE,TIME,DESC,ENTRIES,EXITS,ID,TIMESTAMP",
            ",ca,unit,scp",
        ] {
            assert!(is_header(text), "{text}");
        }
        assert!(!is_header("A001,R001,02-00-00,Test-Station1") && !is_header(""));
    }
}
