//! Verifies the events of a stream that its client signs one by one, under the key that the request was signed with.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use subtle::ConstantTimeEq;

use super::authorization::Authorization;
use super::signing_key::SigningKeys;
use super::sigv4::SKEW;
use crate::error::{Refusal, RefusalKind};
use crate::sigv4::events::{self, Chain};

/// The signatures that the frames of one stream must carry.
#[derive(Debug)]
pub(crate) struct SignedEvents {
    chain: Chain,
    keys: Arc<SigningKeys>,
    /// When the request came.
    since: SystemTime,
    /// How many frames have come.
    frames: u64,
}

impl SignedEvents {
    /// Those that follow a request whose signature has been verified.
    pub(crate) fn new(authorization: &Authorization<'_>, keys: Arc<SigningKeys>, since: SystemTime) -> SignedEvents {
        let (_, region, service) = authorization.scope_parts();
        SignedEvents { chain: Chain::new(region, service, &authorization.signature), keys, since, frames: 0 }
    }

    /// Verifies the next frame: the date and the signature that it carries, and what they cover.
    ///
    /// # Errors
    /// 403 if it was made without the key, or is not the one that follows.
    pub(crate) fn verify(
        &mut self,
        milliseconds: i64,
        signature: &[u8],
        payload: &[u8],
        now: SystemTime,
    ) -> Result<(), Refusal> {
        self.frames += 1;
        let number = self.frames;
        // A frame may have waited for its turn as long as the stream lasts, but was not signed before that, nor after now.
        let is_dated = events::moment(milliseconds)
            .is_some_and(|date| date + SKEW + Duration::from_secs(1) > self.since && date < now + SKEW);
        if !is_dated {
            return Err(refuse(format!(
                "frame {number} of the stream is dated before the request, or more than 5 minutes ahead of this host's clock."
            )));
        }
        let keys = &self.keys;
        let expected = self.chain.next(milliseconds, payload, |scope| keys.of_scope(scope));
        if bool::from(expected.ct_eq(signature)) {
            return Ok(());
        }
        Err(refuse(format!(
            "the signature of frame {number} of the stream does not match the one calculated from the frames up to it: it was changed, left out, repeated or put elsewhere, or signed with another key."
        )))
    }

    /// The next frame carries no signature.
    pub(crate) fn unsigned(&self) -> Refusal {
        refuse(format!("frame {} of the stream is not signed, while its request is.", self.frames + 1))
    }
}

fn refuse(message: String) -> Refusal {
    Refusal::new(RefusalKind::SignatureDoesNotMatch, message)
}

#[cfg(test)]
mod tests {
    use super::super::authorization::parse;
    use super::*;
    use crate::settings::callers::Secret;

    const SECRET: &str = "a local secret";
    const NOW_MS: i64 = 1_750_000_000_000;

    fn now() -> SystemTime {
        events::moment(NOW_MS).unwrap()
    }

    fn keys(secret: &str) -> Arc<SigningKeys> {
        Arc::new(SigningKeys::new(Secret::new(secret)))
    }

    fn verifier() -> SignedEvents {
        let seed = "0".repeat(64);
        let text = format!(
            "Credential=LOCAL/20250615/us-gov-west-1/bedrock/aws4_request, SignedHeaders=host, Signature={seed}"
        );
        SignedEvents::new(&parse(&text).unwrap(), keys(SECRET), now())
    }

    /// The signatures of a client with this secret.
    fn signed(secret: &str, frames: &[(i64, &[u8])]) -> Vec<[u8; events::LENGTH]> {
        let (keys, mut chain) = (keys(secret), Chain::new("us-gov-west-1", "bedrock", &"0".repeat(64)));
        frames.iter().map(|(date, payload)| chain.next(*date, payload, |scope| keys.of_scope(scope))).collect()
    }

    const FRAMES: [(i64, &[u8]); 3] = [(NOW_MS, b"one"), (NOW_MS + 20, b"two"), (NOW_MS + 40, b"")];

    #[test]
    fn a_stream_verifies_frame_by_frame() {
        let mut verifier = verifier();
        for ((date, payload), signature) in FRAMES.iter().zip(signed(SECRET, &FRAMES)) {
            verifier.verify(*date, &signature, payload, now()).unwrap();
        }
    }

    #[test]
    fn whatever_is_forged_left_out_repeated_or_put_elsewhere_is_named() {
        let good = signed(SECRET, &FRAMES);
        let refused = |sent: &[(usize, &[u8])]| {
            let mut verifier = verifier();
            let mut refusals = sent.iter().filter_map(|(at, payload)| {
                verifier.verify(FRAMES[*at].0, &good[*at], payload, now()).err().map(|refusal| refusal.text())
            });
            refusals.next().unwrap()
        };
        assert!(refused(&[(0, b"one"), (1, b"tw0")]).contains("frame 2 "));
        assert!(refused(&[(1, b"two")]).contains("frame 1 "));
        assert!(refused(&[(0, b"one"), (0, b"one")]).contains("frame 2 "));
        assert!(refused(&[(0, b"one"), (2, b"")]).contains("frame 2 "));
        let other = signed("another secret", &FRAMES);
        let refusal = verifier().verify(FRAMES[0].0, &other[0], FRAMES[0].1, now()).unwrap_err();
        assert_eq!(refusal.kind, RefusalKind::SignatureDoesNotMatch);
        assert!(verifier().verify(FRAMES[0].0, &good[0][..31], FRAMES[0].1, now()).is_err());
        assert!(verifier().verify(FRAMES[0].0, b"", FRAMES[0].1, now()).is_err());
    }

    #[test]
    fn a_frame_is_of_its_own_stream_and_time() {
        let skew = 300_000;
        for (date, holds) in [
            (NOW_MS - skew, true),
            (NOW_MS - skew - 2_000, false),
            (NOW_MS + skew - 1_000, true),
            (NOW_MS + skew + 1_000, false),
            (i64::MIN, false),
            (i64::MAX, false),
            (-1, false),
        ] {
            let frame: (i64, &[u8]) = (date, b"x");
            let signature = signed(SECRET, &[frame])[0];
            assert_eq!(verifier().verify(date, &signature, b"x", now()).is_ok(), holds, "{date}");
        }
        // One that was signed long ago, of a stream that began before that: it has waited for its turn.
        let much_later = now() + Duration::from_secs(3_600);
        let signature = signed(SECRET, &FRAMES)[0];
        verifier().verify(FRAMES[0].0, &signature, FRAMES[0].1, much_later).unwrap();
    }
}
