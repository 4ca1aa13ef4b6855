//! A model that is named in a JSON body: found, and replaced by an edit of that one string. Everything else keeps its bytes.

use std::borrow::Cow;
use std::ops::Range;

use bytes::{Bytes, BytesMut};

use crate::error::{Refusal, RefusalKind};
use crate::structure;

/// The string value of a top-level key: where it stands (quotes included) and what it says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct NamedModel {
    pub span: Range<usize>,
    pub model: String,
}

/// Finds the string that `keys` lead to: the first stands at the top level of a JSON object, and each further one in the
/// object under the one before. `None` when one of them is not there.
///
/// # Errors
/// A body that is not a JSON object, a value that is not a string, and a key that stands twice (readers disagree
/// about which one counts) are refused.
pub(crate) fn find(body: &[u8], keys: &[&str]) -> Result<Option<NamedModel>, Refusal> {
    let Some((last, outer)) = keys.split_last() else { return Ok(None) };
    let mut place = 0..body.len();
    for key in outer {
        let within =
            Scanner { body: &body[place.clone()], at: 0 }.value_of(key).map_err(|fault| refusal(fault, key))?;
        let Some(within) = within else { return Ok(None) };
        place = place.start + within.start..place.start + within.end;
    }
    let found = Scanner { body: &body[place.clone()], at: 0 }.find(last).map_err(|fault| refusal(fault, last))?;
    Ok(found
        .map(|NamedModel { span, model }| NamedModel { span: place.start + span.start..place.start + span.end, model }))
}

/// The string at `modelSource.copyFrom`; empty when there is none.
///
/// # Errors
/// As those of `find`, for both keys.
pub(crate) fn copy_source(body: &[u8]) -> Result<String, Refusal> {
    Ok(find(body, &["modelSource", "copyFrom"])?.map_or_else(String::new, |named| named.model))
}

/// The body with another model under the same key.
pub(crate) fn replace(body: &Bytes, named: &NamedModel, model: &str) -> Bytes {
    let mut edited = BytesMut::with_capacity(body.len() + model.len());
    edited.extend_from_slice(&body[..named.span.start]);
    edited.extend_from_slice(serde_json::Value::from(model).to_string().as_bytes());
    edited.extend_from_slice(&body[named.span.end..]);
    edited.freeze()
}

fn refusal(fault: Fault, key: &str) -> Refusal {
    Refusal::new(
        RefusalKind::Validation,
        match fault {
            Fault::NotAnObject => {
                format!("the request's body must be a JSON object that names the model under \"{key}\".")
            }
            Fault::NotAString => format!("\"{key}\" in the request's body must be a string."),
            Fault::OtherCase => {
                format!("a key in the request's body differs from \"{key}\" in case alone; send \"{key}\" once.")
            }
            Fault::Twice => format!("\"{key}\" stands twice in the request's body; send it once."),
        },
    )
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    NotAnObject,
    NotAString,
    Twice,
    OtherCase,
}

struct Scanner<'a> {
    body: &'a [u8],
    at: usize,
}

impl<'a> Scanner<'a> {
    fn find(&mut self, key: &str) -> Result<Option<NamedModel>, Fault> {
        let Some(span) = self.value_of(key)? else { return Ok(None) };
        if self.body.get(span.start) != Some(&b'"') {
            return Err(Fault::NotAString);
        }
        let model = self.text(&span)?.into_owned();
        Ok(Some(NamedModel { span, model }))
    }

    /// Where the value of a key of the object stands.
    fn value_of(&mut self, key: &str) -> Result<Option<Range<usize>>, Fault> {
        let mut found = None;
        self.expect(b'{')?;
        if self.peek()? == b'}' {
            self.at += 1;
            return self.end(found);
        }
        loop {
            let name = self.string()?;
            self.expect(b':')?;
            self.skip_space();
            let start = self.at;
            let name = self.text(&name)?;
            if name != key && name.eq_ignore_ascii_case(key) {
                // A reader that does not mind case would take it for the model.
                return Err(Fault::OtherCase);
            }
            self.skip_value()?;
            if name == key && found.replace(start..self.at).is_some() {
                return Err(Fault::Twice);
            }
            match self.next()? {
                b',' => {}
                b'}' => return self.end(found),
                _ => return Err(Fault::NotAnObject),
            }
        }
    }

    fn end(&mut self, found: Option<Range<usize>>) -> Result<Option<Range<usize>>, Fault> {
        self.skip_space();
        if self.at == self.body.len() { Ok(found) } else { Err(Fault::NotAnObject) }
    }

    fn skip_space(&mut self) {
        while matches!(self.body.get(self.at), Some(b' ' | b'\n' | b'\r' | b'\t')) {
            self.at += 1;
        }
    }

    fn peek(&mut self) -> Result<u8, Fault> {
        self.skip_space();
        self.body.get(self.at).copied().ok_or(Fault::NotAnObject)
    }

    fn next(&mut self) -> Result<u8, Fault> {
        let byte = self.peek()?;
        self.at += 1;
        Ok(byte)
    }

    fn expect(&mut self, byte: u8) -> Result<(), Fault> {
        if self.next()? == byte { Ok(()) } else { Err(Fault::NotAnObject) }
    }

    /// The span of a string, quotes included.
    fn string(&mut self) -> Result<Range<usize>, Fault> {
        self.expect(b'"')?;
        let start = self.at - 1;
        let length = structure::closing_quote(&self.body[self.at..]).ok_or(Fault::NotAnObject)?;
        self.at += length + 1;
        Ok(start..self.at)
    }

    /// What a string says: without a copy where it has no escape.
    fn text(&self, span: &Range<usize>) -> Result<Cow<'a, str>, Fault> {
        let quoted = &self.body[span.clone()];
        serde_json::from_slice(quoted)
            .map(Cow::Borrowed)
            .or_else(|_| serde_json::from_slice(quoted).map(Cow::Owned))
            .map_err(|_| Fault::NotAnObject)
    }

    /// Steps over a value. Brackets are counted, not matched by kind: the upstream is the judge of everything but the model.
    fn skip_value(&mut self) -> Result<(), Fault> {
        match self.peek()? {
            b'"' => self.string().map(drop),
            b'{' | b'[' => self.skip_container(),
            b'}' | b']' | b',' | b':' => Err(Fault::NotAnObject),
            _ => {
                let rest = &self.body[self.at..];
                let ends =
                    |b: &u8| matches!(b, b',' | b':' | b'}' | b']' | b'{' | b'[' | b'"' | b' ' | b'\n' | b'\r' | b'\t');
                self.at += rest.iter().position(ends).unwrap_or(rest.len());
                Ok(())
            }
        }
    }

    fn skip_container(&mut self) -> Result<(), Fault> {
        let mut depth = 0usize;
        loop {
            self.at += structure::plain(&self.body[self.at..]);
            match self.peek()? {
                b'"' => {
                    self.string()?;
                    continue;
                }
                b'{' | b'[' => depth += 1,
                _ => depth -= 1,
            }
            self.at += 1;
            if depth == 0 {
                return Ok(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn swap(body: &str, key: &str, model: &str) -> Option<String> {
        let bytes = Bytes::copy_from_slice(body.as_bytes());
        let named = find(&bytes, &[key]).unwrap()?;
        Some(String::from_utf8(replace(&bytes, &named, model).to_vec()).unwrap())
    }

    #[test]
    fn only_the_one_string_changes() {
        let body =
            "{ \"messages\" : [{\"model\":\"inner\", \"n\":1.50e3}],\t\"model\" :\"a.b\" , \"x\":{\"model\":null} }\n";
        let expected = body.replace("\"a.b\"", "\"us.a.b\"");
        assert_eq!(swap(body, "model", "us.a.b"), Some(expected));
        assert_eq!(swap(r#"{"mod\u0065l":"a"}"#, "model", "b").as_deref(), Some(r#"{"mod\u0065l":"b"}"#));
        assert_eq!(
            swap(r#"{"a":"x\\\"model","modelId":"m"}"#, "modelId", "n").as_deref(),
            Some(r#"{"a":"x\\\"model","modelId":"n"}"#)
        );
        assert_eq!(swap("{}", "model", "b"), None);
        assert_eq!(swap(r#"{"a":[{}],"b":true}"#, "model", "b"), None);
    }

    #[test]
    fn what_two_readers_could_read_differently_is_refused() {
        for body in [
            r#"{"model":"a","model":"b"}"#,
            r#"{"model":"a","mod\u0065l":"b"}"#,
            r#"{"model":1}"#,
            r#"{"model":"a","Model":"b"}"#,
            r#"{"MODEL":1,"model":"a"}"#,
            r#"{"mode\u004c":"b","model":"a"}"#,
            r#"["model"]"#,
            "",
            "{",
            r#"{"model":"a""#,
            r#"{"model":"a"} x"#,
            r#"{"model":"a","#,
            r#"{"x":,"model":"a"}"#,
            r#"{"model":"a\"#,
            "null",
        ] {
            assert!(find(body.as_bytes(), &["model"]).is_err(), "{body}");
        }
    }

    #[test]
    fn a_string_within_objects_is_replaced_where_it_stands() {
        let keys = ["rerankingConfiguration", "modelConfiguration", "modelArn"];
        let body = r#"{"sources":[{"modelArn":"prompt"}], "rerankingConfiguration" : {"x":{"modelArn":"y"},
            "modelConfiguration":{ "n":1.50e3, "modelArn" : "a\u002eb" } },"queries":[{"modelArn":"prompt"}]}"#;
        let bytes = Bytes::copy_from_slice(body.as_bytes());
        let named = find(&bytes, &keys).unwrap().unwrap();
        assert_eq!(named.model, "a.b");
        let replaced = replace(&bytes, &named, "arn:c");
        assert_eq!(replaced, body.replace("\"a\\u002eb\"", "\"arn:c\""));
        assert_eq!(find(br#"{"rerankingConfiguration":{}}"#, &keys).unwrap(), None);
        for twice in [
            r#"{"rerankingConfiguration":{"modelConfiguration":{"modelArn":"a"},"modelConfiguration":{"modelArn":"b"}}}"#,
            r#"{"rerankingConfiguration":{"modelConfiguration":{"modelArn":"a","ModelArn":"b"}}}"#,
            r#"{"rerankingConfiguration":{"modelConfiguration":{"modelArn":["a"]}}}"#,
            r#"{"rerankingConfiguration":"a"}"#,
        ] {
            assert!(find(twice.as_bytes(), &keys).is_err(), "{twice}");
        }
    }

    #[test]
    fn the_source_of_a_profile_stands_once_at_both_levels() {
        let of = |body: &str| copy_source(body.as_bytes()).map_err(|refusal| refusal.message.into_owned());
        assert_eq!(
            of(r#"{"a":[1,{"copyFrom":"x"}], "modelSource" : { "b":1, "copyFrom":"a\u002eb" } }"#).unwrap(),
            "a.b"
        );
        assert_eq!(of(r#"{"modelSource":{}}"#).unwrap(), "");
        assert_eq!(of("{}").unwrap(), "");
        for (body, says) in [
            (r#"{"modelSource":{"copyFrom":"a"},"modelSource":{"copyFrom":"b"}}"#, "\"modelSource\" stands twice"),
            (r#"{"modelSource":{"copyFrom":"a"},"model\u0053ource":{}}"#, "\"modelSource\" stands twice"),
            (r#"{"modelSource":{"copyFrom":"a","copyFrom":"b"}}"#, "\"copyFrom\" stands twice"),
            (r#"{"modelSource":{"copyFrom":"a"},"ModelSource":{"copyFrom":"b"}}"#, "in case alone"),
            (r#"{"modelSource":{"copyFrom":"a","copyfrom":"b"}}"#, "in case alone"),
            (r#"{"modelSource":{"copyFrom":7}}"#, "must be a string"),
            (r#"{"modelSource":"a"}"#, "must be a JSON object"),
        ] {
            assert!(of(body).unwrap_err().contains(says), "{body}");
        }
    }
}
