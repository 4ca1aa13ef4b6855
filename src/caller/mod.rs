//! Who is calling: the kernel's word on the peer, the signature or token of the request, and the `[[callers]]` entry
//! that both lead to. See docs/callers.md.

pub(crate) mod authorization;
mod denials;
pub(crate) mod events;
mod host;
mod index;
mod memberships;
mod peer;
pub(crate) mod signing_key;
pub(crate) mod sigv4;
mod sock_diag;
mod user;

use std::sync::Arc;
use std::time::SystemTime;

use http::header::AUTHORIZATION;
use http::{HeaderMap, Method};

pub(crate) use authorization::{Claim, claim};
pub use host::HostRole;
pub use peer::{NoPeer, Peer, Peers};
pub use user::User;

use crate::error::{Refusal, RefusalKind};
use crate::settings::Settings;
use crate::settings::callers::CallerEntry;
use authorization::{Authorization, Malformed};
use denials::Denials;
use events::SignedEvents;
use index::Index;
use memberships::Memberships;
use signing_key::SigningKeys;
use sigv4::Payload;

/// Who a request is from, as far as it is known.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The first `[[callers]]` entry that fits.
    pub(crate) entry: Option<Arc<CallerEntry>>,
    /// The owner of the peer's socket.
    pub uid: Option<u32>,
    /// The key that the request says it is signed with; proven only if `identity_verified`.
    pub access_key_id: Option<String>,
    /// The request has a signature, bearer token or client certificate that was verified.
    pub identity_verified: bool,
    /// The role that has signed, if it was verified as this host's; the host's own otherwise.
    pub user_arn: Arc<str>,
}

impl Caller {
    /// The name of the entry, as `[[callers]]` gives it; none for a caller that is not known.
    pub fn name(&self) -> Option<&str> {
        self.entry.as_ref().map(|entry| entry.name.as_str())
    }

    /// The level of the entry; `policy::Permit` has the level of the request.
    pub fn data_classification(&self) -> Option<&str> {
        self.entry.as_ref().and_then(|entry| entry.data_classification.as_deref())
    }
}

/// Everything that callers are recognised by.
#[derive(Debug)]
pub struct Callers {
    entries: Vec<Arc<CallerEntry>>,
    index: Index,
    /// By entry, in the same order.
    local_keys: Vec<Option<Arc<SigningKeys>>>,
    /// Regions that clients may sign for beside GovCloud's.
    regions: Vec<String>,
    memberships: Memberships,
    host: Arc<HostRole>,
    denials: Denials,
}

/// A signature that was verified, and the key that it was made with.
type Signed<'a> = (Authorization<'a>, Arc<SigningKeys>);

/// What a request has proven.
enum Proof {
    Nothing,
    /// By the key or the token of the entry with this index.
    Entry(usize),
    HostRole(Option<Arc<str>>),
}

impl Callers {
    /// `host` is kept from one configuration to the next, so that its keys need not be found again.
    pub fn new(settings: &Settings, host: Arc<HostRole>) -> Callers {
        let entries = settings.callers.entries.clone();
        for warning in settings.all_warnings() {
            tracing::warn!("{warning}");
        }
        let local_key =
            |entry: &Arc<CallerEntry>| entry.key.as_ref().map(|key| Arc::new(SigningKeys::new(key.secret.clone())));
        Callers {
            local_keys: entries.iter().map(local_key).collect(),
            index: Index::new(&entries),
            entries,
            regions: settings.upstreams.iter().map(|upstream| upstream.region.clone()).collect(),
            memberships: Memberships::default(),
            host,
            denials: Denials::default(),
        }
    }

    /// Finds out who a request is from. `path_and_query` is raw, as on the wire; `authority` is HTTP/2's `:authority` or
    /// HTTP/1.1's `Host`; `headers` are those received. The body is hashed only if the request is signed with a key that
    /// is known here.
    ///
    /// # Errors
    /// 400 when what names a key of this daemon cannot be read, 403 when a signature with a known key does not verify.
    #[expect(clippy::too_many_arguments, reason = "the parts of one request, which the road holds apart")]
    pub fn identify(
        &self,
        peer: &Peer,
        method: &Method,
        path_and_query: &str,
        authority: &str,
        headers: &HeaderMap,
        body: &[u8],
        now: SystemTime,
    ) -> Result<Caller, Refusal> {
        let payload = Payload::Whole(body);
        let request = sigv4::Request::new(method, path_and_query, authority, headers, payload);
        self.identify_signed(peer, &request, now).map(|(caller, _)| caller)
    }

    /// The same for a request whose body is a stream of events, by its head, and how the events are verified: those of a
    /// request that is signed with a key that is known here.
    ///
    /// # Errors
    /// As those of `identify`.
    pub(crate) fn identify_streaming(
        &self,
        peer: &Peer,
        method: &Method,
        path_and_query: &str,
        authority: &str,
        headers: &HeaderMap,
        now: SystemTime,
    ) -> Result<(Caller, Option<SignedEvents>), Refusal> {
        let request = sigv4::Request::new(method, path_and_query, authority, headers, Payload::Events);
        let (caller, signed) = self.identify_signed(peer, &request, now)?;
        let events = signed.map(|(authorization, keys)| SignedEvents::new(&authorization, keys, now));
        Ok((caller, events))
    }

    fn identify_signed<'a>(
        &self,
        peer: &Peer,
        request: &sigv4::Request<'a>,
        now: SystemTime,
    ) -> Result<(Caller, Option<Signed<'a>>), Refusal> {
        let (headers, query) = (request.headers, request.query);
        let found = self.read(claim(headers, query), headers, query).and_then(|claim| {
            let (proof, keys) = match &claim {
                Claim::Signature(authorization) => self.signer(authorization, request, now)?,
                other => (self.proof_by_head(other), None),
            };
            let caller = self.caller(peer, &claim, proof, now);
            let signed = match claim {
                Claim::Signature(authorization) => keys.map(|keys| (authorization, keys)),
                Claim::Nothing | Claim::Bearer(_) => None,
            };
            Ok((caller, signed))
        });
        found.inspect_err(|refusal| self.denied(peer.uid, None, refusal, now))
    }

    /// The same by the head alone, for a `claim` that is no signature for us (`is_signed_for_us`): a signature proves nothing
    /// then. A key that becomes known meanwhile does not change this, because the body that it covers has not been read.
    ///
    /// # Errors
    /// 400 when what names a key of this daemon cannot be read.
    pub(crate) fn identify_by_head(
        &self,
        peer: &Peer,
        headers: &HeaderMap,
        query: Option<&str>,
        claim: Result<Claim<'_>, Malformed>,
        now: SystemTime,
    ) -> Result<Caller, Refusal> {
        let found = self.read(claim, headers, query).map(|claim| {
            let proof = self.proof_by_head(&claim);
            self.caller(peer, &claim, proof, now)
        });
        found.inspect_err(|refusal| self.denied(peer.uid, None, refusal, now))
    }

    /// What is known before anything is proven: for the record of a request that is refused early, or by `identify`.
    pub fn unproven(&self, peer: &Peer, headers: &HeaderMap, query: Option<&str>, now: SystemTime) -> Caller {
        let claim = claim(headers, query).unwrap_or(Claim::Nothing);
        Caller { identity_verified: false, ..self.caller(peer, &claim, Proof::Nothing, now) }
    }

    /// To be awaited before `identify`: gives keys of the host's role that have just changed a second to arrive. Returns
    /// at once in every other case, and always where the host has no role.
    pub async fn await_new_key(&self, headers: &HeaderMap, query: Option<&str>, now: SystemTime) {
        if self.host.has_keys()
            && let Ok(Claim::Signature(authorization)) = claim(headers, query)
            && !self.is_local_key(&authorization.access_key_id)
        {
            self.host.await_new_key(&authorization.access_key_id, now).await;
        }
    }

    /// Whether a request is signed with a key that is known here, so that its body is needed to say who has sent it.
    pub(crate) fn is_signed_for_us(&self, claim: &Result<Claim<'_>, Malformed>, now: SystemTime) -> bool {
        match claim {
            Ok(Claim::Signature(authorization)) => {
                let id = authorization.access_key_id.as_ref();
                self.is_local_key(id) || self.host.key(id, now).is_some()
            }
            _ => false,
        }
    }

    /// Whether a local user is in a group of that name.
    pub fn is_member(&self, uid: u32, group: &str) -> bool {
        self.memberships.is_member(uid, group, SystemTime::now())
    }

    /// The ARN of whoever has not proven another one.
    pub fn host_arn(&self) -> Arc<str> {
        self.host.user_arn()
    }

    /// Logs a refusal of this module or of `policy`, a bounded number a minute: strangers may cause any number.
    pub fn denied(&self, uid: Option<u32>, name: Option<&str>, refusal: &Refusal, now: SystemTime) {
        self.denials.report(uid, name, refusal, now);
    }

    /// Whether an authentication that cannot be read names a key that could verify it here.
    fn is_addressed(&self, headers: &HeaderMap, query: Option<&str>) -> bool {
        let mut texts = headers.get_all(AUTHORIZATION).iter().map(|value| String::from_utf8_lossy(value.as_bytes()));
        let in_query = query.unwrap_or_default();
        let local = self.entries.iter().filter_map(|entry| entry.key.as_ref()).map(|key| key.access_key_id.clone());
        let keys: Vec<String> = local.chain(self.host.key_ids()).collect();
        keys.iter().any(|key| in_query.contains(key)) || texts.any(|text| keys.iter().any(|key| text.contains(key)))
    }

    fn is_local_key(&self, access_key_id: &str) -> bool {
        self.index.of_key(access_key_id).is_some()
    }

    fn read<'a>(
        &self,
        claim: Result<Claim<'a>, Malformed>,
        headers: &HeaderMap,
        query: Option<&str>,
    ) -> Result<Claim<'a>, Refusal> {
        match claim {
            // It is stripped like any other; only one that names a key of ours was meant for us.
            Err(malformed) if !self.is_addressed(headers, query) => {
                tracing::debug!(reason = %Refusal::from(malformed), "the client's own authentication is unreadable and proves nothing");
                Ok(Claim::Nothing)
            }
            read => read.map_err(Refusal::from),
        }
    }

    /// What a claim proves without the request's body.
    fn proof_by_head(&self, claim: &Claim<'_>) -> Proof {
        match claim {
            Claim::Bearer(token) => self.index.of_token(token).map_or(Proof::Nothing, Proof::Entry),
            Claim::Nothing | Claim::Signature(_) => Proof::Nothing,
        }
    }

    /// Verifies a signature under a key that is known, and gives that key; one under any other key proves nothing and is no
    /// fault.
    fn signer(
        &self,
        authorization: &Authorization<'_>,
        request: &sigv4::Request<'_>,
        now: SystemTime,
    ) -> Result<(Proof, Option<Arc<SigningKeys>>), Refusal> {
        let id = authorization.access_key_id.as_ref();
        if let Some(index) = self.index.of_key(id)
            && let Some(Some(keys)) = self.local_keys.get(index)
        {
            sigv4::verify(authorization, request, keys, &self.regions, now)?;
            return Ok((Proof::Entry(index), Some(Arc::clone(keys))));
        }
        let Some(key) = self.host.key(id, now) else { return Ok((Proof::Nothing, None)) };
        sigv4::verify(authorization, request, &key.signing, &self.regions, now)?;
        Ok((Proof::HostRole(key.user_arn), Some(key.signing)))
    }

    fn caller(&self, peer: &Peer, claim: &Claim<'_>, proof: Proof, now: SystemTime) -> Caller {
        let entry = self.first_that_fits(peer, &proof, now).and_then(|at| self.entries.get(at)).cloned();
        let access_key_id = match claim {
            Claim::Signature(authorization) => Some(authorization.access_key_id.clone().into_owned()),
            Claim::Nothing | Claim::Bearer(_) => None,
        };
        let identity_verified = !matches!(proof, Proof::Nothing) || !peer.certificate_names.is_empty();
        let user_arn = match proof {
            Proof::HostRole(Some(user_arn)) => user_arn,
            _ => self.host.user_arn(),
        };
        Caller { entry, uid: peer.uid, access_key_id, identity_verified, user_arn }
    }

    /// The place of the first entry that fits. Any one criterion of an entry suffices.
    fn first_that_fits(&self, peer: &Peer, proof: &Proof, now: SystemTime) -> Option<usize> {
        let user = peer.uid.and_then(|uid| self.index.of_user(uid));
        let group = peer.gid.and_then(|gid| self.index.of_group(gid));
        let member = peer.uid.filter(|_| self.index.has_groups()).and_then(|uid| {
            let accounts = self.memberships.accounts(now);
            accounts.groups_of(uid).iter().filter_map(|gid| self.index.of_group(*gid)).min()
        });
        let certificate = self.index.of_certificate(&peer.certificate_names);
        let proven = match proof {
            Proof::Nothing => None,
            Proof::Entry(proven) => Some(*proven),
            Proof::HostRole(_) => self.index.of_host_role(),
        };
        [user, group, member, certificate, proven].into_iter().flatten().min()
    }
}

/// The answer when nobody known is calling and only known callers may.
pub(crate) fn unknown_caller(rule: &crate::settings::callers::Place) -> Refusal {
    Refusal::new(
        RefusalKind::AccessDenied,
        format!(
            "only known callers may call (require_known_caller at {rule}), and no [[callers]] entry fits this request."
        ),
    )
}

/// The answer when the kernel does not say who is calling, and rules exist that may be meant for exactly this user.
pub(crate) fn unknown_user() -> Refusal {
    Refusal::new(
        RefusalKind::AccessDenied,
        "the kernel does not say which user has sent this request, and no [[callers]] entry fits it by a signature, token or certificate.",
    )
}

#[cfg(test)]
mod tests;
