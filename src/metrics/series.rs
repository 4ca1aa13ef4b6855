//! The counters of one label's value, looked up once and kept: a request counts by operation, model, caller and region, and
//! a family would want its labels as strings of its own for each look-up.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use super::labels::Text;

/// What is counted for each value that a label has had. As bounded as the label.
#[derive(Debug)]
pub(super) struct Series<T>(RwLock<HashMap<Text, Arc<T>>>);

impl<T> Default for Series<T> {
    fn default() -> Series<T> {
        Series(RwLock::default())
    }
}

impl<T> Series<T> {
    /// What is counted for this value. `make` is called for one that is new.
    pub(super) fn of(&self, value: &str, make: impl FnOnce(Text) -> T) -> Arc<T> {
        if let Some(known) = self.0.read().unwrap_or_else(PoisonError::into_inner).get(value) {
            return Arc::clone(known);
        }
        let value = Text::of(value);
        let mut all = self.0.write().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(all.entry(value.clone()).or_insert_with(|| Arc::new(make(value))))
    }
}
