//! What the requests of one sum have in common, and how it is kept bounded whatever names clients send.

use super::counted::Counted;

/// In place of a name of which there are too many.
pub(super) const OTHER: &str = "(other)";

/// Longest name of a model that is told apart, in bytes: every ARN of a model has less.
const MAX_NAME: usize = 200;

/// What the requests of a sum have in common.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    pub(crate) uid: Option<u32>,
    /// Empty when no entry fitted.
    pub(crate) caller: String,
    /// Empty when none was named.
    pub(crate) model: String,
    pub(crate) operation: String,
    pub(crate) region: String,
    pub(crate) outcome: String,
    pub(crate) status: u16,
}

/// How much of a key is left, from all to what can only be few.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Grain {
    Whole,
    WithoutModel,
    OfCaller,
    OfAll,
}

/// So many keys an interval may have, of one uid and in all.
#[derive(Debug, Clone, Copy)]
struct Room {
    of_uid: u64,
    in_all: u64,
}

impl Grain {
    pub(super) const ALL: [Grain; 4] = [Grain::Whole, Grain::WithoutModel, Grain::OfCaller, Grain::OfAll];

    /// Each coarser grain has some room that the finer ones leave: who sends many names loses his own models, not others
    /// theirs.
    const fn room(self) -> Room {
        match self {
            Grain::Whole => Room { of_uid: 112, in_all: 448 },
            Grain::WithoutModel => Room { of_uid: 128, in_all: 512 },
            Grain::OfCaller => Room { of_uid: 160, in_all: 640 },
            // Outcomes and status codes are few.
            Grain::OfAll => Room { of_uid: u64::MAX, in_all: u64::MAX },
        }
    }

    /// Whether an interval that has so many keys takes one more of this grain.
    pub(super) fn has_room(self, of_uid: u64, in_all: u64) -> bool {
        let room = self.room();
        of_uid < room.of_uid && in_all < room.in_all
    }
}

impl Key {
    pub(super) fn of(counted: &Counted<'_>) -> Key {
        Key {
            uid: counted.caller_uid,
            caller: bounded(counted.caller.as_deref().unwrap_or_default()),
            model: bounded(&counted.model_id),
            operation: bounded(&counted.operation),
            region: bounded(&counted.destination_region),
            outcome: bounded(&counted.outcome),
            status: counted.status_code,
        }
    }

    pub(super) fn at(&self, grain: Grain) -> Key {
        let other = || OTHER.to_owned();
        match grain {
            Grain::Whole => self.clone(),
            Grain::WithoutModel => Key { model: other(), ..self.clone() },
            Grain::OfCaller => Key { model: other(), operation: other(), region: other(), ..self.clone() },
            Grain::OfAll => Key { uid: None, caller: String::new(), ..self.at(Grain::OfCaller) },
        }
    }
}

/// As much of a name as is kept.
pub(crate) fn bounded(name: &str) -> String {
    name[..name.floor_char_boundary(MAX_NAME)].to_owned()
}
