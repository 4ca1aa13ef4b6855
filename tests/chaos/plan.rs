//! What fails when. The plan follows from the seed, and from nothing else.

use std::fmt;
use std::time::Duration;

use simulator::{Certificate, Ending};
use test_support::dynamodb;

use crate::proxy::Weather;
use crate::random::Random;

/// Which upstreams something happens to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    First,
    Second,
    Both,
}

impl Place {
    /// Their numbers.
    pub(crate) fn numbers(self) -> &'static [usize] {
        match self {
            Place::First => &[0],
            Place::Second => &[1],
            Place::Both => &[0, 1],
        }
    }
}

/// What an upstream does with some of its answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answers {
    Throttled,
    ServerError,
    Unavailable,
    Slow {
        ms: u64,
    },
    /// The connection ends before the answer.
    Broken(Ending),
    Cut {
        after_bytes: usize,
        how: Ending,
    },
    ExceptionInStream,
    GoAway,
    Closing,
}

/// How the secret cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Away {
    Refused,
    ServerError,
    Silent,
}

/// Something that fails for a time, or happens once.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Trouble {
    Network(Place, Weather),
    Answers(Place, Answers),
    Certificate(Place, Certificate),
    Down(Place),
    Table(dynamodb::Fault),
    /// The new key is in the secret 0.3 s before the old one stops.
    Rotation,
    /// The key stops before there is a new one in the secret.
    Revocation,
    SecretAway(Away),
    Reload,
    BadReload,
    ReloadWithSecretAway(Away),
    Kill,
    Restart,
}

/// A trouble with its time, from the round's start.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Planned {
    pub(crate) after: Duration,
    pub(crate) lasts: Duration,
    pub(crate) trouble: Trouble,
}

/// Troubles that overlap. When they are over, requests have to be served again.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Round(pub(crate) Vec<Planned>);

impl Trouble {
    /// Whether it may keep an upstream from answering a request.
    pub(crate) fn fails_upstreams(self) -> bool {
        match self {
            Trouble::Network(..) | Trouble::Certificate(..) | Trouble::Down(_) => true,
            // These end connections in order.
            Trouble::Answers(_, answers) => !matches!(answers, Answers::GoAway | Answers::Closing),
            _ => false,
        }
    }

    /// Whether it may end a connection under a request that is being sent.
    pub(crate) fn ends_connections(self) -> bool {
        match self {
            Trouble::Network(..) | Trouble::Certificate(..) | Trouble::Down(_) | Trouble::Kill | Trouble::Restart => {
                true
            }
            Trouble::Answers(_, answers) => {
                matches!(answers, Answers::Broken(_) | Answers::Cut { .. } | Answers::GoAway | Answers::Closing)
            }
            _ => false,
        }
    }

    /// Whether a key cannot be read for a time. Who has a good one does not need it.
    pub(crate) fn hides_key(self) -> bool {
        matches!(self, Trouble::SecretAway(_) | Trouble::ReloadWithSecretAway(_))
    }

    /// Whether a key has to be read for requests to be served.
    pub(crate) fn needs_key(self) -> bool {
        matches!(self, Trouble::Rotation | Trouble::Kill | Trouble::Restart)
    }
}

impl fmt::Display for Round {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, planned) in self.0.iter().enumerate() {
            let separator = if at == 0 { "" } else { ", " };
            let Planned { after, lasts, trouble } = planned;
            write!(f, "{separator}{trouble:?} {:.1}+{:.1} s", after.as_secs_f32(), lasts.as_secs_f32())?;
        }
        Ok(())
    }
}

/// Deals troubles in a random order; each kind comes once before any comes again. Now and then a round has nothing but
/// rotations, which no request may feel.
#[derive(Debug)]
pub(crate) struct Plan {
    random: Random,
    deck: Vec<usize>,
    rounds: usize,
}

/// Every so many rounds there are only rotations.
const ROTATIONS_EVERY: usize = 4;

/// How many kinds [`draw`] knows.
const KINDS: usize = 25;

impl Plan {
    pub(crate) fn new(seed: u64) -> Plan {
        Plan { random: Random::new(seed), deck: Vec::new(), rounds: 0 }
    }

    /// Three troubles, rarely four, or as many rotations.
    pub(crate) fn next_round(&mut self) -> Round {
        self.rounds += 1;
        if self.rounds.is_multiple_of(ROTATIONS_EVERY) {
            let mut rotation = || Planned {
                after: Duration::from_millis(self.random.within(0, 1500)),
                lasts: Duration::ZERO,
                trouble: Trouble::Rotation,
            };
            return Round((0..3).map(|_| rotation()).collect());
        }
        let count = if self.random.one_in(4) { 4 } else { 3 };
        Round((0..count).map(|_| self.next_trouble()).collect())
    }

    fn next_trouble(&mut self) -> Planned {
        if self.deck.is_empty() {
            self.deck = (0..KINDS).collect();
            for at in (1..KINDS).rev() {
                let other = usize::try_from(self.random.within(0, at as u64 + 1)).unwrap();
                self.deck.swap(at, other);
            }
        }
        let kind = self.deck.pop().unwrap();
        let random = &mut self.random;
        Planned {
            after: Duration::from_millis(random.within(0, 3000)),
            lasts: Duration::from_millis(random.within(1000, 6000)),
            trouble: draw(kind, random),
        }
    }
}

impl Round {
    /// What fails for requests, one thing after the other so that each is felt, and leaves the daemon's process alone.
    pub(crate) fn in_one_life() -> Round {
        let cut = Answers::Cut { after_bytes: 300, how: Ending::Fin };
        let troubles = [
            (0, 5, Trouble::Answers(Place::Both, Answers::Broken(Ending::Rst))),
            (5, 3, Trouble::Answers(Place::Both, cut)),
            (8, 2, Trouble::Network(Place::Both, Weather::Resets)),
            (10, 2, Trouble::Certificate(Place::Both, Certificate::OtherCa)),
            (0, 4, Trouble::Table(dynamodb::Fault::Gone)),
            (1, 0, Trouble::Rotation),
            (6, 3, Trouble::SecretAway(Away::Silent)),
            (7, 0, Trouble::Reload),
        ];
        let planned = |(after, lasts, trouble)| Planned {
            after: Duration::from_secs(after),
            lasts: Duration::from_secs(lasts),
            trouble,
        };
        Round(troubles.map(planned).into())
    }
}

fn draw(kind: usize, random: &mut Random) -> Trouble {
    let place = random.of(&[Place::First, Place::First, Place::Second, Place::Both]);
    let how = random.of(&[Ending::Rst, Ending::Fin]);
    let bytes = random.of(&[0, 1, 100, 1000, 5000, 40_000]);
    let away = random.of(&[Away::Refused, Away::ServerError, Away::Silent]);
    match kind {
        0 => Trouble::Network(place, Weather::Delay { ms: random.within(20, 500) }),
        1 => Trouble::Network(place, Weather::Silent),
        2 => Trouble::Network(place, Weather::Resets),
        3 | 4 => Trouble::Network(place, Weather::Cuts { after_bytes: bytes, how }),
        5 => Trouble::Network(place, Weather::Trickle { bytes_a_second: random.within(2000, 50_000) }),
        6 => Trouble::Answers(place, Answers::Throttled),
        7 => Trouble::Answers(place, Answers::ServerError),
        8 => Trouble::Answers(place, Answers::Unavailable),
        9 => Trouble::Answers(place, Answers::Slow { ms: random.within(500, 12_000) }),
        10 => Trouble::Answers(place, Answers::Broken(how)),
        11 => {
            let how = random.of(&[Ending::Rst, Ending::Fin, Ending::StreamError]);
            let after_bytes = random.of(&[0, 10, 300, 2000]);
            Trouble::Answers(place, Answers::Cut { after_bytes, how })
        }
        12 => Trouble::Answers(place, Answers::ExceptionInStream),
        13 => Trouble::Answers(place, Answers::GoAway),
        14 => Trouble::Answers(place, Answers::Closing),
        15 => {
            let bad = [Certificate::OtherCa, Certificate::Expired, Certificate::WrongName];
            Trouble::Certificate(place, random.of(&bad))
        }
        16 => Trouble::Down(place),
        17 => {
            use dynamodb::Fault::{Denied, Expired, Gone, Half, ServerError, Throttled};
            Trouble::Table(random.of(&[Gone, Gone, Throttled, ServerError, Half, Expired, Denied]))
        }
        18 => Trouble::Rotation,
        19 => Trouble::Revocation,
        20 => Trouble::SecretAway(away),
        21 => random.of(&[Trouble::Reload, Trouble::BadReload]),
        22 => Trouble::ReloadWithSecretAway(away),
        23 => Trouble::Kill,
        _ => Trouble::Restart,
    }
}

#[test]
fn a_seed_gives_one_plan_in_which_everything_fails() {
    let rounds = |seed| {
        let mut plan = Plan::new(seed);
        (0..12).map(|_| plan.next_round()).collect::<Vec<_>>()
    };
    for seed in 0..100 {
        let plan = rounds(seed);
        assert_eq!(plan, rounds(seed));
        let has = |wanted: Trouble| plan.iter().flat_map(|round| &round.0).any(|planned| planned.trouble == wanted);
        for wanted in [Trouble::Kill, Trouble::Restart, Trouble::Rotation, Trouble::Revocation] {
            assert!(has(wanted), "{seed}: {wanted:?}");
        }
    }
    assert_ne!(rounds(1), rounds(2));
}
