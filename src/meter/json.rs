//! A JSON answer of any size, read in passing and in constant memory for the few top-level values that tell usage.

use serde_json::{Map, Value};

use super::Metered;
use super::usage::{self, TOP_LEVEL_KEYS};
use crate::structure;

/// Longer than any usage object.
const MAX_VALUE: usize = 8 * 1024;
/// What most usage objects have room in.
const COMMON_VALUE: usize = 256;
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
    key: Vec<u8>,
    /// The value of a key of interest, as far as it has come.
    value: Option<Vec<u8>>,
    found: Map<String, Value>,
}

impl JsonAnswer {
    pub(crate) fn feed(&mut self, mut data: &[u8]) {
        while !data.is_empty() {
            let used = if self.in_string { self.string(data) } else { self.structure(data) };
            data = &data[used..];
        }
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
        if self.depth == 1 && self.expects_key && self.key.len() <= MAX_KEY {
            self.key.extend_from_slice(&data[..used.min(MAX_KEY + 1)]);
        }
        self.keep(&data[..used]);
        used
    }

    /// Outside of strings: up to the next byte that counts, or that one.
    fn structure(&mut self, data: &[u8]) -> usize {
        let plain = if self.depth == 1 { before_next_member(data) } else { structure::plain(data) };
        if plain > 0 {
            self.keep(&data[..plain]);
            return plain;
        }
        let byte = data[0];
        if self.depth == 1 && matches!(byte, b',' | b'}') {
            self.value_ends();
        }
        match byte {
            b'"' => {
                self.in_string = true;
                if self.depth == 1 && self.expects_key {
                    self.key.clear();
                    self.key.reserve(MAX_KEY + 1);
                }
            }
            b'{' | b'[' => {
                self.depth = self.depth.saturating_add(1);
                self.expects_key = self.depth == 1;
            }
            b'}' | b']' => self.depth = self.depth.saturating_sub(1),
            b',' if self.depth == 1 => self.expects_key = true,
            b':' if self.depth == 1 && self.expects_key => {
                self.expects_key = false;
                // The closing quote is part of what was kept.
                let key = self.key.strip_suffix(b"\"").unwrap_or(&self.key);
                if TOP_LEVEL_KEYS.iter().any(|name| name.as_bytes() == key) {
                    self.value = Some(Vec::with_capacity(COMMON_VALUE));
                }
                return 1;
            }
            _ => {}
        }
        self.keep(&[byte]);
        1
    }

    fn keep(&mut self, data: &[u8]) {
        if let Some(value) = &mut self.value {
            if value.len() + data.len() > MAX_VALUE {
                self.value = None;
            } else {
                value.extend_from_slice(data);
            }
        }
    }

    fn value_ends(&mut self) {
        let Some(value) = self.value.take() else { return };
        let key = self.key.strip_suffix(b"\"").unwrap_or(&self.key);
        if let (Ok(key), Ok(value)) = (std::str::from_utf8(key), serde_json::from_slice(&value)) {
            self.found.insert(key.to_owned(), value);
        }
    }

    pub(crate) fn finish(self) -> Metered {
        let answer = Value::Object(self.found);
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
