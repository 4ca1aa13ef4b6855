//! JSON without white space, byte for byte as serde_json writes it, for what is written for every request.

use serde::Serialize;

/// An object in the making.
#[derive(Debug)]
pub(crate) struct Object {
    bytes: Vec<u8>,
}

impl Object {
    /// One without members, with room for so many bytes.
    pub(crate) fn with_capacity(bytes: usize) -> Object {
        Object { bytes: Vec::with_capacity(bytes) }
    }

    #[inline(always)]
    pub(crate) fn text(&mut self, name: &'static str, text: &str) {
        self.name(name);
        quote(&mut self.bytes, text);
    }

    #[inline]
    pub(crate) fn text_if(&mut self, name: &'static str, text: Option<&str>) {
        if let Some(text) = text {
            self.text(name, text);
        }
    }

    #[inline(always)]
    pub(crate) fn number(&mut self, name: &'static str, number: impl Serialize) {
        self.name(name);
        self.value(&number);
    }

    #[inline]
    pub(crate) fn number_if(&mut self, name: &'static str, number: Option<impl Serialize>) {
        if let Some(number) = number {
            self.number(name, number);
        }
    }

    #[inline(always)]
    pub(crate) fn flag(&mut self, name: &'static str, flag: bool) {
        self.name(name);
        self.bytes.extend_from_slice(if flag { b"true" } else { b"false" });
    }

    /// A member of any name and value.
    pub(crate) fn member(&mut self, name: &str, value: &impl Serialize) {
        self.begin_member();
        quote(&mut self.bytes, name);
        self.bytes.push(b':');
        self.value(value);
    }

    /// Leaves out the value of a member. Returns where in the bytes it is to be put.
    pub(crate) fn gap(&mut self, name: &'static str) -> usize {
        self.name(name);
        self.bytes.len()
    }

    /// Its bytes, when it is complete.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        if self.bytes.is_empty() {
            self.bytes.push(b'{');
        }
        self.bytes.push(b'}');
        self.bytes
    }

    fn value(&mut self, value: &impl Serialize) {
        // Writing into a Vec cannot fail.
        let _ = serde_json::to_writer(&mut self.bytes, value);
    }

    /// The name of a member, which needs no escape. Inlined, with whoever calls it, so that the compiler knows its length and
    /// calls nothing to copy it.
    #[inline(always)]
    fn name(&mut self, name: &'static str) {
        self.begin_member();
        self.bytes.push(b'"');
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.extend_from_slice(b"\":");
    }

    fn begin_member(&mut self) {
        self.bytes.push(if self.bytes.is_empty() { b'{' } else { b',' });
    }
}

/// Appends a text in quotes. Most need no escape, and are copied.
fn quote(bytes: &mut Vec<u8>, text: &str) {
    if special(text.as_bytes()).is_some() {
        // Writing into a Vec cannot fail.
        let _ = serde_json::to_writer(bytes, text);
        return;
    }
    bytes.reserve(text.len() + 2);
    bytes.push(b'"');
    bytes.extend_from_slice(text.as_bytes());
    bytes.push(b'"');
}

/// Where the first byte is that a text has only escaped: a quote, a backslash, a control character.
pub(crate) fn special(text: &[u8]) -> Option<usize> {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const HIGH_BITS: u64 = u64::from_ne_bytes([0x80; 8]);
    let (words, rest) = text.as_chunks::<8>();
    for (index, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        // Of ASCII bytes, the high bit of each that is below the limit; behind the first such one, perhaps of more.
        let below = |word: u64, limit: u64| word.wrapping_sub(ONES * limit);
        let equal = |byte: u8| below(word ^ (ONES * u64::from(byte)), 1);
        let found = (equal(b'"') | equal(b'\\') | below(word, 0x20)) & !word & HIGH_BITS;
        if found != 0 {
            return Some(8 * index + found.trailing_zeros() as usize / 8);
        }
    }
    let is_special = |byte: &u8| matches!(byte, b'"' | b'\\' | ..0x20);
    rest.iter().position(is_special).map(|at| 8 * words.len() + at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_written_as_serde_json_writes_it() {
        let mut texts: Vec<String> =
            (0..=0x2ff).chain([0xfffd, 0x1_f600]).filter_map(char::from_u32).map(String::from).collect();
        // An escape at every place of texts of every length, around the widths that the compiler takes at once.
        for length in 0..70 {
            for at in 0..=length {
                for one in ["\"", "\\", "\u{1f}", "\u{7f}", "é"] {
                    let mut text = "a".repeat(length);
                    text.insert_str(at, one);
                    texts.push(text);
                }
            }
        }
        for text in texts {
            let mut written = Vec::new();
            quote(&mut written, &text);
            assert_eq!(String::from_utf8(written).unwrap(), serde_json::to_string(&text).unwrap());
        }
    }

    #[test]
    fn members_are_kept_apart() {
        assert_eq!(Object::with_capacity(0).finish(), b"{}");
        let mut object = Object::with_capacity(0);
        object.text("a", "b");
        object.text_if("c", None);
        object.number_if("d", Some(-7_i64));
        object.number_if("e", None::<u64>);
        object.flag("f", false);
        object.member("g\"", &None::<u64>);
        let gap = object.gap("h");
        object.number("i", 8);
        let mut bytes = object.finish();
        bytes.insert(gap, b'9');
        assert_eq!(bytes, br#"{"a":"b","d":-7,"f":false,"g\"":null,"h":9,"i":8}"#);
    }
}
