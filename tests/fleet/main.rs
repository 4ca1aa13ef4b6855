//! The fleet's limits: a simulation of a thousand hosts, the real table, and two daemons' worth of limits on it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

mod simulation;
mod table;
