//! Answers written to the wire by hand, in every way that HTTP allows and in many that it does not.
//!
//! hyper's server writes answers in one tidy way; the servers of the world do not. A [`Framing`] names one way of
//! writing an answer, and [`ALL`] lists them. A simulator uses one for every answer ([`Choice`], set by
//! `Options::framing`, `Simulator::set_framing`, `--framing` or `POST /_simulator/framing`), or for single requests by a
//! fault ([`crate::Effect::Framing`]). Connections accepted while a choice is set are served by the small servers in
//! `h1` and `h2`, which share no code with hyper; without a choice hyper serves, as ever.

mod catalogue;
pub(crate) mod h1;
pub(crate) mod h2;
mod script;
mod shape;
mod tally;

use std::fmt;
use std::str::FromStr;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::reply::Reply;
use shape::{Cut, H1End, Needs, Shape};

pub use tally::ConnectionTally;
pub(crate) use tally::Tally;

/// One way of writing an answer to the wire. Made from its name by `parse()`; [`ALL`] has the fixed names, and the
/// names of [`FAMILIES`] take a number.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Framing {
    name: &'static str,
    /// Behind the name, for a member of a family.
    number: Option<usize>,
    about: &'static str,
    verdict: Verdict,
    needs: Needs,
    cut: Cut,
    shape: Shape,
}

/// What a framing leaves of an answer, which is what a client may make of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The answer is complete: to be relayed whole and recorded as completed.
    Whole,
    /// A complete answer whose body is empty.
    Empty,
    /// A complete refusal (413), sent before the request's body was read.
    Early,
    /// An event stream that ends cleanly between two events, but without its final one.
    Unfinished,
    /// All of the body has arrived, but not the proper end; or TCP may take a refusal back. Both readings are defensible.
    Either,
    /// The answer broke off.
    Broken,
    /// The server said, or made plain, that it has not processed the request, so that it may be sent again.
    /// Meant for a fault of few `times`: as the choice for every answer it refuses the repetitions too.
    Unprocessed,
    /// The answer is complete, but its connection is closed under the next request, which is not processed.
    NextUnprocessed,
}

impl Framing {
    /// The hand-written server's tidy way: a length where it is known, END_STREAM on the last DATA frame.
    pub const PLAIN: Framing = catalogue::PLAIN;

    /// What it leaves of an answer.
    pub fn verdict(&self) -> Verdict {
        self.verdict
    }

    /// What it does, in a few words.
    pub fn about(&self) -> &'static str {
        self.about
    }

    /// Whether it can be done on such a connection, to such an answer. Where it cannot, [`Framing::PLAIN`] is used.
    pub fn fits(&self, http2: bool, tls: bool, event_stream: bool) -> bool {
        match self.needs {
            Needs::Nothing => true,
            Needs::Http1 => !http2,
            Needs::Http1OverTls => !http2 && tls,
            Needs::Http2 => http2,
            Needs::Http2OverTls => http2 && tls,
            Needs::EventStream => event_stream,
            Needs::Http1EventStream => !http2 && event_stream,
            Needs::Http2EventStream => http2 && event_stream,
        }
    }

    /// Whether a connection may be used in this way for ever. Some HTTP/2 libraries take empty DATA frames for a flood once
    /// a connection has carried a hundred of them (the Rust h2 crate does since 0.4.20), and close it.
    pub(crate) fn is_lasting(&self) -> bool {
        !self.name.starts_with("h2-gaps")
    }

    pub(crate) fn fitting(self, http2: bool, tls: bool, event_stream: bool) -> Framing {
        if self.fits(http2, tls, event_stream) { self } else { Framing::PLAIN }
    }

    /// Whether it answers before the request's body is read.
    pub(crate) fn is_early(&self) -> bool {
        self.verdict == Verdict::Early || matches!(self.shape, Shape::H1(shape) if shape.end == H1End::EarlyReset)
    }

    /// Cuts the script of an answer short, where this framing does.
    pub(crate) fn cut(&self, reply: &mut Reply) {
        self.cut.apply(reply);
    }

    pub(crate) fn h1(&self) -> shape::H1 {
        if let Shape::H1(shape) = self.shape { shape } else { shape::H1::PLAIN }
    }

    pub(crate) fn h2(&self) -> shape::H2 {
        if let Shape::H2(shape) = self.shape { shape } else { shape::H2::PLAIN }
    }
}

impl fmt::Display for Framing {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name)?;
        self.number.map_or(Ok(()), |number| write!(formatter, "{number}"))
    }
}

impl fmt::Debug for Framing {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{self}")
    }
}

/// A name that no framing has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownFraming(String);

impl fmt::Display for UnknownFraming {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "there is no framing {:?}; --list-framings tells their names", self.0)
    }
}

impl std::error::Error for UnknownFraming {}

impl FromStr for Framing {
    type Err = UnknownFraming;

    fn from_str(name: &str) -> Result<Framing, UnknownFraming> {
        ALL.iter()
            .find(|framing| framing.name == name)
            .copied()
            .or_else(|| catalogue::member(name))
            .ok_or_else(|| UnknownFraming(name.to_owned()))
    }
}

impl TryFrom<String> for Framing {
    type Error = UnknownFraming;
    fn try_from(name: String) -> Result<Framing, UnknownFraming> {
        name.parse()
    }
}

impl Serialize for Framing {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Framing {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Framing, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// All framings with a fixed name.
pub static ALL: LazyLock<Vec<Framing>> = LazyLock::new(catalogue::all);

/// Those that leave the answer whole: a client must see no difference, and a proxy record it as completed.
pub static BENIGN: LazyLock<Vec<Framing>> = LazyLock::new(|| with(&[Verdict::Whole]));

/// Those that leave no whole answer: broken off, or not processed at all.
pub static BROKEN: LazyLock<Vec<Framing>> = LazyLock::new(|| with(&[Verdict::Broken, Verdict::Unprocessed]));

/// Names that take a number behind them, with what the number says.
pub const FAMILIES: &[(&str, &str)] = catalogue::FAMILIES;

/// The framings of these verdicts.
pub fn with(verdicts: &[Verdict]) -> Vec<Framing> {
    ALL.iter().filter(|framing| verdicts.contains(&framing.verdict)).copied().collect()
}

/// How a simulator frames its answers by hand. Made from a framing's name, or from `random:SEED`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "there is one in a simulator, and Copy is worth its bytes")]
pub enum Choice {
    /// Every answer that it fits, in this way.
    Always(Framing),
    /// Each answer in some benign way that a connection can bear for ever. The same seed gives the same ways to the same sequence of answers.
    Random(u64),
}

impl From<Framing> for Choice {
    fn from(framing: Framing) -> Choice {
        Choice::Always(framing)
    }
}

impl FromStr for Choice {
    type Err = UnknownFraming;

    fn from_str(name: &str) -> Result<Choice, UnknownFraming> {
        match name.strip_prefix("random:") {
            Some(seed) => seed.parse().map(Choice::Random).map_err(|_| UnknownFraming(name.to_owned())),
            None => name.parse().map(Choice::Always),
        }
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Choice::Always(framing) => write!(formatter, "{framing}"),
            Choice::Random(seed) => write!(formatter, "random:{seed}"),
        }
    }
}

/// The choice of a running simulator.
#[derive(Debug)]
pub(crate) struct Framings {
    choice: watch::Sender<Option<Choice>>,
    picks: AtomicU64,
    /// Resets by the client after which an HTTP/2 connection is closed; 0 means never.
    calm_after: AtomicU64,
}

impl Framings {
    pub(crate) fn new(choice: Option<Choice>, calm_after: Option<u64>) -> Framings {
        let calm_after = AtomicU64::new(calm_after.unwrap_or(0));
        Framings { choice: watch::Sender::new(choice), picks: AtomicU64::new(0), calm_after }
    }

    pub(crate) fn set(&self, choice: Option<Choice>) {
        self.picks.store(0, Ordering::SeqCst);
        self.choice.send_replace(choice);
    }

    pub(crate) fn choice(&self) -> Option<Choice> {
        *self.choice.borrow()
    }

    /// Tells each change; hyper's connections retire when framing by hand begins.
    pub(crate) fn changes(&self) -> watch::Receiver<Option<Choice>> {
        self.choice.subscribe()
    }

    pub(crate) fn set_calm_after(&self, resets: Option<u64>) {
        self.calm_after.store(resets.unwrap_or(0), Ordering::SeqCst);
    }

    pub(crate) fn calm_after(&self) -> Option<u64> {
        Some(self.calm_after.load(Ordering::SeqCst)).filter(|&resets| resets > 0)
    }

    /// The framing of every answer, if it is one that does not wait for the request's body.
    pub(crate) fn early(&self) -> Option<Framing> {
        match self.choice() {
            Some(Choice::Always(framing)) if framing.is_early() => Some(framing),
            _ => None,
        }
    }

    pub(crate) fn choose(&self, http2: bool, tls: bool, event_stream: bool) -> Framing {
        match self.choice() {
            None => Framing::PLAIN,
            Some(Choice::Always(framing)) => framing.fitting(http2, tls, event_stream),
            Some(Choice::Random(seed)) => {
                let fitting: Vec<&Framing> = BENIGN
                    .iter()
                    .filter(|framing| framing.fits(http2, tls, event_stream) && framing.is_lasting())
                    .collect();
                let random = mix(seed ^ mix(self.picks.fetch_add(1, Ordering::SeqCst)));
                let at = usize::try_from(random % fitting.len().max(1) as u64).unwrap_or(0);
                fitting.get(at).map_or(Framing::PLAIN, |found| **found)
            }
        }
    }
}

/// The finalizer of SplitMix64: near numbers in, unrelated numbers out.
fn mix(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_name_is_unique_and_parses_to_its_framing() {
        let names: BTreeSet<&str> = ALL.iter().map(|framing| framing.name).collect();
        assert_eq!(names.len(), ALL.len());
        for framing in ALL.iter() {
            assert_eq!(framing.to_string().parse(), Ok(*framing));
            assert!(!framing.about.is_empty(), "{framing}");
        }
        assert!("h2-none-such".parse::<Framing>().is_err());
        assert!("h2-data-".parse::<Framing>().is_err());
        for (family, _) in FAMILIES {
            let member: Framing = format!("{family}37").parse().unwrap();
            assert_eq!(member.to_string(), format!("{family}37"));
        }
    }

    #[test]
    fn chance_is_repeatable_and_meets_every_benign_framing() {
        let picks = |seed| -> Vec<Framing> {
            let framings = Framings::new(Some(Choice::Random(seed)), None);
            (0..2_000).map(|_| framings.choose(true, true, false)).collect()
        };
        assert_eq!(picks(7), picks(7));
        assert_ne!(picks(7), picks(8));
        for framing in BENIGN.iter().filter(|framing| framing.fits(true, true, false) && framing.is_lasting()) {
            assert!(picks(7).contains(framing), "{framing}");
        }
    }
}
