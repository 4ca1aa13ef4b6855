//! Answers that are framed by hand: by an ordinary client, and byte by byte.

#![allow(clippy::unwrap_used, clippy::panic)]
#![expect(clippy::cast_possible_truncation, reason = "lengths and codes in these tests are small")]

mod bytes1;
mod bytes2;
mod client;
mod control;
mod curl;
mod frames;
mod matrix;
mod resets;
