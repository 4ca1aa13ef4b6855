pub mod audit;
pub mod config;
pub mod error;
pub mod limits;
pub mod settings;
