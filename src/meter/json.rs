//! A JSON answer of any size, read in passing and in constant memory for the few top-level values that tell usage.

use std::borrow::Cow;

use super::Metered;
use super::usage::{self, TOP_LEVEL_KEYS};
use super::value::Value;
use crate::structure;

/// Longer than any usage object.
const MAX_VALUE: usize = 8 * 1024;
/// Longer than any key of interest.
const MAX_KEY: usize = 64;

/// Follows one JSON document.
#[derive(Debug, Default)]
pub(crate) struct JsonAnswer {
    depth: u32,
    in_string: bool,
    escaped: bool,
    /// At depth 1 the next string is a key.
    expects_key: bool,
    /// The beginning of a key that comes in pieces.
    key: Vec<u8>,
    /// The last key, if it is one of interest.
    named: Option<&'static str>,
    /// The value of a key of interest, as far as it has come.
    value: Option<Member>,
    /// Each key once.
    found: Vec<Member>,
}

/// A key of interest and its value, as it stands in the document.
type Member = (&'static str, Vec<u8>);

impl JsonAnswer {
    pub(crate) fn feed(&mut self, data: &[u8]) {
        let mut at = 0;
        // Where the value stands that is not kept yet.
        let mut from = 0;
        while at < data.len() {
            if self.in_string {
                at += self.string(&data[at..]);
                continue;
            }
            let rest = &data[at..];
            at += if self.depth == 1 { before_next_member(rest) } else { structure::plain(rest) };
            let Some(&byte) = data.get(at) else { break };
            if self.depth == 1 && matches!(byte, b',' | b'}') {
                self.keep(&data[from..at]);
                self.value_ends();
            }
            at += 1;
            if self.structure(byte) {
                from = at;
            }
        }
        self.keep(&data[from..]);
    }

    /// Inside a string: up to its end.
    fn string(&mut self, data: &[u8]) -> usize {
        let mut used = usize::from(std::mem::take(&mut self.escaped));
        while let Some(next) = memchr::memchr2(b'"', b'\\', &data[used..]) {
            used += next + 1;
            if data[used - 1] == b'"' {
                self.in_string = false;
                break;
            }
            if used == data.len() {
                self.escaped = true;
                break;
            }
            // What the backslash escapes.
            used += 1;
        }
        if self.in_string {
            used = data.len();
        }
        if self.depth == 1 && self.expects_key {
            self.key(&data[..used]);
        }
        used
    }

    /// A part of a key, with the closing quote if that has come.
    fn key(&mut self, part: &[u8]) {
        if self.in_string {
            if self.key.len() <= MAX_KEY {
                self.key.extend_from_slice(&part[..part.len().min(MAX_KEY + 1)]);
            }
            return;
        }
        let last = part.strip_suffix(b"\"").unwrap_or(part);
        let is_it = |name: &&&str| match self.key.is_empty() {
            true => name.as_bytes() == last,
            false => name.as_bytes().strip_prefix(&*self.key) == Some(last),
        };
        self.named = TOP_LEVEL_KEYS.iter().find(is_it).copied();
    }

    /// A byte outside of strings that counts. Whether a value of interest begins behind it.
    fn structure(&mut self, byte: u8) -> bool {
        match byte {
            b'"' => {
                self.in_string = true;
                self.key.clear();
            }
            b'{' | b'[' => {
                self.depth = self.depth.saturating_add(1);
                self.expects_key = self.depth == 1;
            }
            b'}' | b']' => self.depth = self.depth.saturating_sub(1),
            b',' if self.depth == 1 => self.expects_key = true,
            b':' if self.depth == 1 && self.expects_key => {
                self.expects_key = false;
                if let Some(name) = self.named {
                    self.value = Some((name, Vec::new()));
                    return true;
                }
            }
            _ => {}
        }
        false
    }

    fn keep(&mut self, data: &[u8]) {
        let Some((_, value)) = &mut self.value else { return };
        if value.len() + data.len() > MAX_VALUE {
            self.value = None;
        } else {
            value.extend_from_slice(data);
        }
    }

    fn value_ends(&mut self) {
        let Some((name, value)) = self.value.take() else { return };
        match self.found.iter_mut().find(|(known, _)| *known == name) {
            None => self.found.push((name, value)),
            // The last one holds, of those that can be read.
            Some((_, earlier)) if serde_json::from_slice::<Value<'_>>(&value).is_ok() => *earlier = value,
            Some(_) => {}
        }
    }

    pub(crate) fn finish(self) -> Metered {
        let found = self.found.iter();
        let members =
            found.filter_map(|(name, value)| Some((Cow::Borrowed(*name), serde_json::from_slice(value).ok()?)));
        let answer = Value::Object(members.collect());
        let usage = usage::of_answer(&answer).unwrap_or_default();
        Metered { usage, service_tier: usage::tier_of(&answer), ..Metered::default() }
    }
}

/// How many bytes stand before the next one that counts among the members of the document.
fn before_next_member(data: &[u8]) -> usize {
    let counts = |byte: &u8| matches!(byte, b'"' | b'{' | b'}' | b'[' | b']' | b',' | b':');
    data.iter().position(counts).unwrap_or(data.len())
}

#[cfg(test)]
mod tests;
