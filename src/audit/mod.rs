//! What is known of each request, and where it is kept.

pub mod record;

pub use record::{Outcome, Record, Usage};
