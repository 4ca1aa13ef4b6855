//! Bytes as text.

const DIGITS: &[u8; 16] = b"0123456789abcdef";

/// Lower-case hexadecimal digits.
pub(crate) fn hexadecimal(bytes: &[u8]) -> String {
    let mut text = Vec::with_capacity(bytes.len() * 2);
    push_hexadecimal(&mut text, bytes);
    // Digits are text.
    String::from_utf8(text).unwrap_or_default()
}

/// The same, appended to `text`.
pub(crate) fn push_hexadecimal(text: &mut Vec<u8>, bytes: &[u8]) {
    for byte in bytes {
        text.extend_from_slice(&[DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
    }
}
