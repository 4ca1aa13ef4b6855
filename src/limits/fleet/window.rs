//! What was used in the last sixty seconds, never less than that.

use super::super::clock::SECOND;

/// The window's length.
pub(super) const WINDOW: u64 = 60 * SECOND;

/// Use is counted by quarters of a second.
const SLOT: u64 = SECOND / 4;

/// A slot counts until its last moment is a window old: the one that is being left is still in.
const SLOTS: usize = 241;
const _: () = assert!(SLOTS as u64 == WINDOW / SLOT + 1);

/// A sliding sum. It forgets up to a quarter of a second late, never early.
#[derive(Debug, Clone)]
pub(super) struct Window {
    slots: Box<[u64; SLOTS]>,
    /// Number of the slot that is being filled.
    current: u64,
    sum: u64,
}

impl Window {
    pub(super) fn new(now: u64) -> Window {
        Window { slots: Box::new([0; SLOTS]), current: now / SLOT, sum: 0 }
    }

    pub(super) fn sum(&mut self, now: u64) -> u64 {
        self.turn(now);
        self.sum
    }

    /// Returns the number of the slot, for `take_back`.
    pub(super) fn add(&mut self, amount: u64, now: u64) -> u64 {
        self.turn(now);
        let place = place(self.current);
        let amount = amount.min(u64::MAX - self.sum);
        self.slots[place] += amount;
        self.sum += amount;
        self.current
    }

    /// Takes back what was added in a slot, if the window still counts it.
    pub(super) fn take_back(&mut self, amount: u64, slot: u64, now: u64) {
        self.turn(now);
        if self.current.saturating_sub(slot) < SLOTS as u64 {
            let place = place(slot);
            let amount = amount.min(self.slots[place]);
            self.slots[place] -= amount;
            self.sum -= amount;
        }
    }

    /// Nanoseconds until the sum is `most` at most.
    pub(super) fn until(&mut self, most: u64, now: u64) -> u64 {
        self.turn(now);
        let mut sum = self.sum;
        let oldest = (self.current + 1).saturating_sub(SLOTS as u64);
        for slot in oldest..=self.current {
            if sum <= most {
                return (slot * SLOT + WINDOW).saturating_sub(now);
            }
            sum -= self.slots[place(slot)];
        }
        ((self.current + 1) * SLOT + WINDOW).saturating_sub(now)
    }

    fn turn(&mut self, now: u64) {
        let slot = now / SLOT;
        if slot <= self.current {
            return;
        }
        if slot - self.current >= SLOTS as u64 {
            self.slots.fill(0);
            self.sum = 0;
        } else {
            for passed in self.current + 1..=slot {
                self.sum -= std::mem::take(&mut self.slots[place(passed)]);
            }
        }
        self.current = slot;
    }
}

/// Where a slot stands; the remainder always fits.
fn place(slot: u64) -> usize {
    usize::try_from(slot % SLOTS as u64).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_used_counts_for_sixty_seconds() {
        for start in [0, 1, SLOT - 1, 7 * SLOT + 3] {
            let mut window = Window::new(start);
            window.add(5, start);
            assert_eq!(window.sum(start + WINDOW), 5);
            let wait = window.until(0, start);
            assert!((WINDOW..=WINDOW + SLOT).contains(&wait), "{wait}");
            assert_eq!(window.sum(start + wait - 1), 5);
            assert_eq!(window.sum(start + wait), 0);
        }
    }

    #[test]
    fn any_sixty_seconds_are_within_a_cap_that_is_asked_first() {
        let mut random = fastrand(7);
        let (mut window, mut now, mut uses) = (Window::new(0), 0, Vec::<(u64, u64)>::new());
        for _ in 0..20_000 {
            now += random() % SECOND;
            let amount = random() % 10;
            if window.sum(now) + amount <= 100 {
                window.add(amount, now);
                uses.push((now, amount));
            }
        }
        for (start, _) in &uses {
            let sum: u64 =
                uses.iter().filter(|(at, _)| (*start..=start + WINDOW).contains(at)).map(|use_| use_.1).sum();
            assert!(sum <= 100, "{sum} from {start}");
        }
        let sum: u64 = uses.iter().map(|use_| use_.1).sum();
        assert!(sum as f64 > 0.95 * 100.0 * (now / WINDOW) as f64, "{sum} in {} s", now / SECOND);
    }

    #[test]
    fn what_is_taken_back_is_taken_from_its_slot() {
        let mut window = Window::new(0);
        let slot = window.add(10, 0);
        window.add(3, SECOND);
        window.take_back(4, slot, SECOND);
        assert_eq!(window.sum(SECOND), 9);
        window.take_back(100, slot, SECOND);
        assert_eq!(window.sum(SECOND), 3);
        window.take_back(1, slot, 2 * WINDOW);
        assert_eq!(window.sum(2 * WINDOW), 0);
        window.add(u64::MAX, 2 * WINDOW);
        window.add(u64::MAX, 2 * WINDOW);
        assert_eq!(window.sum(2 * WINDOW), u64::MAX);
    }

    /// A small generator, so that tests are the same each time.
    fn fastrand(mut seed: u64) -> impl FnMut() -> u64 {
        move || {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed
        }
    }
}
