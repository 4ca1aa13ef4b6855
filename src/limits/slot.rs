//! Where a scope stands in the state, and the scopes that one request belongs to.

/// A scope's place in the state. Places are never given up: their number is bounded by what admins have ever configured.
pub(super) type Slot = u16;

pub(super) const HOST: Slot = 0;

/// Stands for the fleet where scopes are named; it has no place of its own.
pub(super) const FLEET: Slot = Slot::MAX;

/// The scopes that apply to a request. No allocation for the usual one to four.
#[derive(Debug, Clone, Default)]
pub(super) struct Slots {
    few: [Slot; 4],
    count: u8,
    more: Vec<Slot>,
}

impl Slots {
    pub(super) fn push(&mut self, slot: Slot) {
        match self.few.get_mut(usize::from(self.count)) {
            Some(place) => {
                *place = slot;
                self.count += 1;
            }
            None => self.more.push(slot),
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Slot> + '_ {
        self.few[..usize::from(self.count)].iter().chain(&self.more).copied()
    }

    /// Without the fleet, which keeps its counts elsewhere.
    pub(super) fn on_this_host(&self) -> impl Iterator<Item = Slot> + '_ {
        self.iter().filter(|slot| *slot != FLEET)
    }

    pub(super) fn contains(&self, slot: Slot) -> bool {
        self.iter().any(|other| other == slot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_a_few_keep_their_order() {
        let mut slots = Slots::default();
        for slot in [HOST, 7, 3, 9, 4, FLEET] {
            slots.push(slot);
        }
        assert_eq!(slots.iter().collect::<Vec<_>>(), [HOST, 7, 3, 9, 4, FLEET]);
        assert_eq!(slots.on_this_host().collect::<Vec<_>>(), [HOST, 7, 3, 9, 4]);
        assert!(slots.contains(4) && slots.contains(FLEET) && !slots.contains(5));
    }
}
