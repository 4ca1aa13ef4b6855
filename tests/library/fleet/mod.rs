//! The fleet's limits: simulations of ten to a hundred thousand hosts, the model of the table against the real one, and two hosts on it.

mod scale;
mod simulation;
mod table;
mod world;
