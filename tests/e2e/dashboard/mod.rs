//! The dashboard: its page, who sees what there, and what it is made from.

mod front;
mod usage;
