//! The fleet's limits: a simulation of a thousand hosts, the model of the table against the real one, and two hosts on it.

mod simulation;
mod table;
