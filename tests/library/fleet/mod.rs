//! The fleet's limits: a simulation of a thousand hosts, the model of the table against the real one, and two hosts on it.

mod scale;
mod simulation;
mod table;
mod world;
