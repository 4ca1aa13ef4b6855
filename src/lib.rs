pub mod audit;
pub mod caller;
pub mod config;
pub mod error;
pub mod listen;
pub mod policy;
pub mod settings;
