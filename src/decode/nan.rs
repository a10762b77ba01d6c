//! `NaN` where JSON has no such number: Python's encoder writes it for a missing float.

/// `json` with `null` in place of each bare `NaN` that is the value of one of `fields`; `None` when
/// there is no such value. A text of three letters stays what it is, wherever it stands, and so
/// does a `NaN` of another field: that one is still no JSON.
///
/// For a message that was no JSON as it came, so that others cost nothing.
pub fn nan_as_null(json: &str, fields: &[&str]) -> Option<String> {
    const NAN: &[u8] = b"NaN";
    let bytes = json.as_bytes();
    let (mut mended, mut copied, mut at) = (String::new(), 0, 0);
    // The text that has just ended, and the field whose value begins here.
    let (mut text, mut field) = (None, None);
    while at < bytes.len() {
        match bytes[at] {
            b'"' => {
                let end = end_of_text(bytes, at + 1)?;
                (text, field) = (json.get(at + 1..end), None);
                at = end;
            }
            b':' => field = text.take(),
            b' ' | b'\t' | b'\n' | b'\r' => {}
            b'N' if field.is_some_and(|name| fields.contains(&name))
                && bytes[at..].starts_with(NAN)
                && ends_value(bytes.get(at + NAN.len())) =>
            {
                mended += &json[copied..at];
                mended += "null";
                at += NAN.len() - 1;
                copied = at + 1;
                field = None;
            }
            _ => (text, field) = (None, None),
        }
        at += 1;
    }
    (copied > 0).then(|| mended + &json[copied..])
}

/// The position of the quote that ends the text whose first byte is at `start`.
fn end_of_text(bytes: &[u8], start: usize) -> Option<usize> {
    let mut at = start;
    loop {
        match bytes.get(at)? {
            b'"' => return Some(at),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}

fn ends_value(next: Option<&u8>) -> bool {
    matches!(
        next,
        None | Some(b',' | b'}' | b' ' | b'\t' | b'\n' | b'\r')
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIELDS: &[&str] = &["latitude", "longitude"];

    fn mended(json: &str) -> Option<String> {
        nan_as_null(json, FIELDS)
    }

    #[test]
    fn each_bare_nan_of_a_field_is_null() {
        assert_eq!(
            mended(r#"{"latitude":NaN,"longitude" : NaN ,"é":1}"#).as_deref(),
            Some(r#"{"latitude":null,"longitude" : null ,"é":1}"#)
        );
        assert_eq!(
            mended(r#"{"longitude":NaN}"#).as_deref(),
            Some(r#"{"longitude":null}"#)
        );
    }

    #[test]
    fn a_text_that_holds_nan_is_a_text() {
        for text in [
            r#"{"latitude":"NaN"}"#,
            r#"{"note":"\"latitude\":NaN,"}"#,
            r#"{"note":"\\\"latitude\":NaN}"}"#,
            r#"{"latitude":["latitude",NaN]}"#,
        ] {
            assert_eq!(mended(text), None, "{text}");
        }
        assert_eq!(
            mended(r#"{"vehicle_id":"NaN\\","latitude":NaN,"note":"latitude\":NaN"}"#).as_deref(),
            Some(r#"{"vehicle_id":"NaN\\","latitude":null,"note":"latitude\":NaN"}"#)
        );
    }

    #[test]
    fn what_is_no_nan_of_a_field_stays_as_it_is() {
        for text in [
            "",
            "NaN",
            r#"{"speed":NaN}"#,
            r#"{"latitude":NaNs}"#,
            r#"{"latitude":-NaN}"#,
            r#"{"latitude":nan}"#,
            r#"{"latitude":Na"#,
            r#"{"latitude":1 NaN}"#,
            r#"{"latitude":NaN,"open"#,
            r#"{"open\"#,
            r#"["latitude",NaN]"#,
        ] {
            assert_eq!(mended(text), None, "{text}");
        }
    }
}
