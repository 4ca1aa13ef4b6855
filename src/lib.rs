//! bedrock-sidecar: commercial Amazon Bedrock for AWS GovCloud hosts, behind a Bedrock-compatible endpoint on localhost.
//!
//! Start with `proxy`, which is the road of a request in its order; `ARCHITECTURE.md` is the map.

// Only `cli` speaks to a person; tests and benches print what they measured.
#![warn(clippy::print_stdout, clippy::print_stderr)]

pub mod admin;
pub mod app;
pub mod audit;
pub mod caller;
pub mod cli;
pub mod config;
pub mod credentials;
pub mod error;
pub mod exchange;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
pub mod lifecycle;
pub mod limits;
pub mod listen;
pub mod log;
pub mod meter;
pub mod model;
pub mod operation;
pub mod policy;
pub mod proxy;
pub mod receive;
pub mod rest;
pub mod settings;
pub mod upstream;
