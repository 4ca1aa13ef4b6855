pub mod audit;
pub mod config;
pub mod credentials;
pub mod error;
pub mod meter;
pub mod operation;
pub mod settings;
pub mod upstream;
pub mod model {
    pub mod body;
}
