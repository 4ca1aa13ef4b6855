//! One commercial region: its hosts, its clock, and what it takes to have one request answered there.

pub(crate) mod answer;
pub(crate) mod attempts;
pub(crate) mod body;
pub(crate) mod breaker;
pub(crate) mod clock;
pub(crate) mod outgoing;
pub(crate) mod pool;
pub(crate) mod sign;
mod standing;
pub(crate) mod strip;
pub(crate) mod throttled;
pub(crate) mod tls;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwapOption;
use bytes::{Bytes, BytesMut};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use http_body_util::BodyExt;

use answer::{AwsError, Remedy};
use body::UpstreamBody;
use breaker::{Breaker, Seen};
use clock::{Clock, Learnt, News};
use outgoing::{Events, OutgoingBody};
use pool::{Effort, Pool, PoolStatus, Pools, SendError};
use sign::BodyHash;
use standing::Standing;
use throttled::Throttled;

use crate::bidirectional::ClientEvents;
use crate::credentials::{Credential, CredentialKind, Credentials};
use crate::error::{Refusal, RefusalKind};
use crate::operation::{Plane, Planes};
use crate::settings;
use crate::sigv4;

/// Calls of the daemon's own, which requests may wait for, wait no longer than this for an answer or for more of it.
const OWN_PATIENCE: Duration = Duration::from_secs(20);
/// An error answer of which the rest has not come after this long is not waited for.
const ERROR_BODY_TIME: Duration = Duration::from_secs(5);
/// Error answers are read up to this size to learn what they ask for; longer ones are relayed unread.
const MAX_ERROR_BODY: usize = 64 * 1024;
/// What the upstream is told about its client.
const USER_AGENT: HeaderValue = HeaderValue::from_static(concat!("bedrock-sidecar/", env!("CARGO_PKG_VERSION")));
/// A key that was refused is tried again after this long, unless another one has taken its place.
const KEY_REFUSED_FOR: Duration = Duration::from_secs(10);

/// A commercial region that requests can be sent to.
#[derive(Debug)]
pub(crate) struct Upstream {
    pub region: String,
    credentials: Arc<Credentials>,
    /// The fingerprint of the key that the host of each plane has refused last, and until when that is remembered.
    refused_keys: Planes<ArcSwapOption<([u8; 32], Instant)>>,
    hosts: Arc<Planes<Host>>,
    timeouts: settings::Timeouts,
    clock: Clock,
    standing: Standing,
}

/// What serves one plane.
#[derive(Debug)]
struct Host {
    pools: Pools,
    breaker: Breaker,
    /// What it has no room for at the moment: each host has quotas of its own.
    throttled: Throttled,
    /// Requests may be sent to it.
    is_used: bool,
}

/// A request as it is to be sent, without credential. It can be sent more than once.
#[derive(Debug, Clone)]
pub(crate) struct UpstreamRequest {
    pub plane: Plane,
    pub method: Method,
    pub path: PathAndQuery,
    /// After `strip::request_headers`: the same for all upstreams of a request.
    pub headers: Arc<HeaderMap>,
    pub body: Bytes,
    /// Of this body.
    pub body_hash: BodyHash,
    /// What follows in place of a body, where the client speaks as long as the stream lasts.
    pub events: Option<ClientEvents>,
}

/// What the upstream answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: AnswerBody,
    /// The fingerprint of the current key, where the upstream has refused that and a further request would be signed no better.
    pub refused_key: Option<[u8; 32]>,
}

#[derive(Debug)]
pub(crate) enum AnswerBody {
    /// An error's body that has been looked at: the same bytes.
    Read(Bytes),
    Passing(UpstreamBody),
}

/// Why an upstream gave no answer.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Nobody has done anything with it: another upstream may be tried. `handshake`: the one that has failed; none where
    /// connections did not take the request.
    NotSent { why: String, handshake: Option<pool::Handshake> },
    /// Nobody has done anything with it, but only the client may repeat it: a part of its stream has been sent.
    NotRepeatable(String),
    /// The request may have been received: only the client may repeat it.
    Broke(String),
    /// There is no credential for this upstream.
    NoCredential(Refusal),
    /// It does not serve requests of this kind, with the credential or the protocol that it has. Nothing was sent.
    Unfit(Refusal),
}

impl Upstream {
    /// # Errors
    /// A sentence for the admin when no root certificates can be found.
    pub(crate) fn new(
        upstream: &settings::Upstream,
        timeouts: settings::Timeouts,
        credentials: Arc<Credentials>,
    ) -> Result<Upstream, String> {
        let needs_tls = Plane::ALL.into_iter().any(|plane| upstream.serves(plane) && upstream.endpoint(plane).tls);
        let config = needs_tls.then(|| tls::config(upstream.ca.as_deref())).transpose()?;
        let hosts = Planes::try_each(|plane| {
            let endpoint = upstream.endpoint(plane);
            let pools = Pools::new(endpoint.clone(), config.clone().filter(|_| endpoint.tls), timeouts.connect)?;
            let breaker = Breaker::new(&upstream.region, plane, Instant::now());
            Ok::<_, String>(Host { pools, breaker, throttled: Throttled::default(), is_used: upstream.serves(plane) })
        })?;
        Ok(Upstream::on(&upstream.region, timeouts, credentials, Arc::new(hosts)))
    }

    /// The same upstream with another store of credentials. It shares the connections, and what is known of the hosts and of
    /// their room.
    pub(crate) fn with_credentials(&self, credentials: Arc<Credentials>) -> Upstream {
        let other = Upstream::on(&self.region, self.timeouts, credentials, Arc::clone(&self.hosts));
        Upstream { clock: Clock::starting_from(&self.clock), ..other }
    }

    fn on(
        region: &str,
        timeouts: settings::Timeouts,
        credentials: Arc<Credentials>,
        hosts: Arc<Planes<Host>>,
    ) -> Upstream {
        Upstream {
            region: region.to_owned(),
            credentials,
            refused_keys: Planes::default(),
            hosts,
            timeouts,
            clock: Clock::default(),
            standing: Standing::default(),
        }
    }

    /// The credential that requests to this upstream are authenticated with.
    pub(crate) fn credentials(&self) -> &Arc<Credentials> {
        &self.credentials
    }

    /// Takes down that the host of a plane has refused the key with this fingerprint. Another one may take it.
    pub(crate) fn note_refused_key(&self, plane: Plane, fingerprint: [u8; 32], now: Instant) {
        self.refused_keys.of(plane).store(Some(Arc::new((fingerprint, now + KEY_REFUSED_FOR))));
    }

    /// The key that would be used was refused there a moment ago.
    pub(crate) fn refuses_key(&self, plane: Plane, now: Instant) -> bool {
        let Some((fingerprint, until)) = self.refused_keys.of(plane).load().as_deref().copied() else { return false };
        let is_current = || self.credentials.current(SystemTime::now()).is_ok_and(|key| key.fingerprint == fingerprint);
        now < until && is_current()
    }

    /// Sends a request of the daemon's own, which waits for no model.
    pub(crate) async fn exchange(&self, request: &UpstreamRequest, effort: &mut Effort) -> Result<Answer, Failure> {
        self.exchange_within(own_timeouts(self.timeouts), request, effort, |_| {}).await
    }

    /// Sends a request with the current credential. A key that is refused as stale is refreshed and the request repeated
    /// once; so is one whose date was off. What it takes is added to `effort`. Each time before the request is sent, `tell`
    /// gets how often it will have been sent then.
    pub(crate) async fn exchange_telling(
        &self,
        request: &UpstreamRequest,
        effort: &mut Effort,
        tell: impl FnMut(u32) + Send,
    ) -> Result<Answer, Failure> {
        self.exchange_within(self.timeouts, request, effort, tell).await
    }

    async fn exchange_within(
        &self,
        timeouts: settings::Timeouts,
        request: &UpstreamRequest,
        effort: &mut Effort,
        tell: impl FnMut(u32) + Send,
    ) -> Result<Answer, Failure> {
        // In a box: a dozen futures stand around this one, and each would be larger by all that sending needs.
        let result = Box::pin(self.answer(timeouts, request, effort, tell)).await;
        self.standing.learn(request.plane, &result);
        result
    }

    async fn answer(
        &self,
        timeouts: settings::Timeouts,
        request: &UpstreamRequest,
        effort: &mut Effort,
        mut tell: impl FnMut(u32) + Send,
    ) -> Result<Answer, Failure> {
        let mut credential = self.credentials.obtain().await.map_err(Failure::NoCredential)?;
        let (mut may_refresh, mut may_shift) = (true, true);
        // The fingerprint of the key that was refused before this one.
        let mut refused = None;
        loop {
            let is_good = credential.check_region(&self.region);
            let is_good = is_good.and_then(|()| credential.check_plane(request.plane, &self.region));
            is_good.map_err(Failure::NoCredential)?;
            if request.events.is_some() {
                self.check_signs(&credential).map_err(Failure::Unfit)?;
            }
            let began = Instant::now();
            let (offset, before) = (self.clock_offset(), effort.attempts);
            let answer = self.attempt(timeouts, request, &credential, offset, effort, &mut tell).await;
            effort.results.came(before, effort.attempts, &answer);
            if let Some(seen) = seen(&answer) {
                self.breaker(request.plane).seen(began, Instant::now(), seen);
            }
            let mut answer = answer?;
            let has_begun = request.events.as_ref().is_some_and(ClientEvents::has_begun);
            match answer.remedy() {
                // Nothing that the client has said can be said again; the next request has the other key, or the right date.
                Remedy::Credential if has_begun => {
                    let other = Box::pin(self.credentials.after_rejection(&credential)).await;
                    // Requests that can be repeated get on with another one, be it the next or the one before.
                    let has_other = other.is_some_and(|other| other.fingerprint != credential.fingerprint);
                    answer.refused_key = self.refused_of(&credential, refused).filter(|_| !has_other);
                    return Ok(answer);
                }
                Remedy::Clock(theirs) if has_begun => {
                    let is_learnt = self.learn_clock(theirs, offset);
                    answer.refused_key = self.refused_of(&credential, refused).filter(|_| !is_learnt);
                    return Ok(answer);
                }
                Remedy::Credential if may_refresh => {
                    may_refresh = false;
                    let error = answer.error().unwrap_or_default().error_type;
                    tracing::warn!(region = %self.region, %error, "the upstream refused the credential; refreshing it");
                    let Some(other) = Box::pin(self.credentials.after_rejection(&credential)).await else {
                        answer.refused_key = self.refused_of(&credential, refused);
                        return Ok(answer);
                    };
                    refused = Some(credential.fingerprint);
                    credential = other;
                }
                Remedy::Clock(theirs) if may_shift && self.learn_clock(theirs, offset) => may_shift = false,
                Remedy::Credential | Remedy::Clock(_) => {
                    answer.refused_key = self.refused_of(&credential, refused);
                    return Ok(answer);
                }
                Remedy::None | Remedy::Profile => return Ok(answer),
            }
        }
    }

    /// The current key, if it is the one that was used or the one before, which were refused; none if there is a newer one.
    fn refused_of(&self, used: &Credential, before: Option<[u8; 32]>) -> Option<[u8; 32]> {
        let current = self.credentials.current(SystemTime::now()).ok()?.fingerprint;
        (used.fingerprint == current || before == Some(current)).then_some(current)
    }

    async fn attempt(
        &self,
        timeouts: settings::Timeouts,
        outgoing: &UpstreamRequest,
        credential: &Arc<Credential>,
        offset: i64,
        effort: &mut Effort,
        tell: &mut (impl FnMut(u32) + Send),
    ) -> Result<Answer, Failure> {
        if !self.serves(outgoing.plane) {
            let why = format!("there is no {} host in {}", outgoing.plane.name(), self.region);
            return Err(Failure::NotSent { why, handshake: None });
        }
        let pool = self.pool(outgoing.plane);
        let body_hash = outgoing.body_hash.of(credential, &outgoing.body).await;
        let signed = |attempt| {
            tell(attempt);
            self.signed(outgoing, credential, body_hash, offset)
        };
        let events = outgoing.events.as_ref();
        let sent = pool.send_with(events, timeouts.first_byte, effort, signed).await;
        let is_refused = sent.as_ref().map_or(true, |(response, _)| response.status().as_u16() >= 400);
        if let Some(events) = events.filter(|_| is_refused) {
            // From here on it is certain whether another attempt could have all of them.
            events.withdraw();
        }
        let (response, lease) = match sent {
            Ok(answered) => answered,
            Err(error @ SendError::OnlyHttp1 { .. }) => return Err(Failure::Unfit(only_http1(&error))),
            Err(error @ (SendError::Connect { .. } | SendError::NotMade(_) | SendError::NotTaken { .. })) => {
                return Err(Failure::NotSent { why: error.to_string(), handshake: error.handshake() });
            }
            Err(error @ SendError::NotRepeatable { .. }) => return Err(Failure::NotRepeatable(error.to_string())),
            Err(error @ (SendError::Broke { .. } | SendError::Silent { .. })) => {
                return Err(Failure::Broke(error.to_string()));
            }
        };
        let (head, incoming) = response.into_parts();
        let body = UpstreamBody::new(incoming, lease, timeouts.idle);
        // An error is small; what it says decides about another attempt, and stands in the record.
        let body = match head.status.as_u16() {
            400.. => Box::pin(read_error(head.status, body, ERROR_BODY_TIME))
                .await
                .map_err(|why| Failure::Broke(format!("{}: {why}", pool.endpoint())))?,
            _ => AnswerBody::Passing(body),
        };
        Ok(Answer { status: head.status, headers: head.headers, body, refused_key: None })
    }

    /// The request with its credential. A signature carries the time of this moment.
    fn signed(
        &self,
        outgoing: &UpstreamRequest,
        credential: &Arc<Credential>,
        body_hash: &str,
        offset: i64,
    ) -> Result<pool::Outgoing, String> {
        let mut request = http::Request::new(OutgoingBody::from(outgoing.body.clone()));
        *request.method_mut() = outgoing.method.clone();
        *request.uri_mut() = http::Uri::from(outgoing.path.clone());
        *request.headers_mut() = HeaderMap::clone(&outgoing.headers);
        request.headers_mut().insert(http::header::USER_AGENT, USER_AGENT);
        let signed = sign::Signed {
            method: &outgoing.method,
            path: &outgoing.path,
            plane: outgoing.plane,
            endpoint: self.endpoint(outgoing.plane),
            region: &self.region,
            body_hash,
            now: clock::shifted(SystemTime::now(), offset),
        };
        let Some(client) = &outgoing.events else {
            sign::authenticate(request.headers_mut(), credential, signed)?;
            return Ok(request);
        };
        let signed = sign::Signed { body_hash: sigv4::events::PAYLOAD, ..signed };
        let chain = sign::authenticate_events(request.headers_mut(), credential, signed)?
            .ok_or("the credential does not sign")?;
        let events = Events::new(client.offer(), Arc::clone(credential), chain, offset);
        *request.body_mut() = OutgoingBody::Events(Box::new(events));
        Ok(request)
    }

    /// Whether the credential that there is can sign a bidirectional stream.
    ///
    /// # Errors
    /// There is no credential, or Bedrock does not take it for streams.
    pub(crate) async fn check_signer(&self) -> Result<(), Failure> {
        let credential = self.credentials.obtain().await.map_err(Failure::NoCredential)?;
        self.check_signs(&credential).map_err(Failure::Unfit)
    }

    /// Bedrock takes no API keys for bidirectional streams.
    fn check_signs(&self, credential: &Credential) -> Result<(), Refusal> {
        if matches!(credential.kind, CredentialKind::AwsKeys(_)) {
            return Ok(());
        }
        let message = format!(
            "Bedrock takes no API key for bidirectional streams, and the upstream {} has a {}; configure AWS keys (SigV4) for it, or another upstream that has them.",
            self.region,
            credential.description()
        );
        Err(Refusal::new(RefusalKind::Validation, message))
    }

    /// The connections to the host of a plane; what came of opening them is told once.
    pub(crate) fn take_pool_status(&self, plane: Plane) -> PoolStatus {
        self.host(plane).pools.take_status()
    }

    /// The planes that it has hosts for.
    pub(crate) fn planes(&self) -> impl Iterator<Item = Plane> {
        Plane::ALL.into_iter().filter(|plane| self.serves(*plane))
    }

    /// Whether it has a host for this plane.
    pub(crate) fn serves(&self, plane: Plane) -> bool {
        self.host(plane).is_used
    }

    fn host(&self, plane: Plane) -> &Host {
        self.hosts.of(plane)
    }

    /// What the host of a plane has no room for at the moment.
    pub(crate) fn throttled(&self, plane: Plane) -> &Throttled {
        &self.host(plane).throttled
    }

    /// The connections to the host of a plane that are for what runs on this thread.
    pub(crate) fn pool(&self, plane: Plane) -> &Arc<Pool> {
        self.host(plane).pools.here()
    }

    /// Whether this plane is worth asking. A plane that fails says nothing about the other one.
    pub(crate) fn breaker(&self, plane: Plane) -> &Breaker {
        &self.host(plane).breaker
    }

    /// Where requests of this kind go.
    pub(crate) fn endpoint(&self, plane: Plane) -> &crate::config::Endpoint {
        self.host(plane).pools.endpoint()
    }

    /// Takes over the upstream's clock. True if that changes the date of an attempt that was signed with the offset `used`.
    fn learn_clock(&self, theirs: SystemTime, used: i64) -> bool {
        let Learnt { helps, news } = self.clock.learn(theirs, SystemTime::now(), used);
        match news {
            None => {}
            Some(News::Differs(offset)) => tracing::warn!(
                seconds = offset / 1000,
                "this host's clock differs from the upstream's; requests are signed with the upstream's time, but the clock should be synchronised (chronyc tracking)"
            ),
            Some(News::NotBelieved(offset)) => tracing::warn!(
                region = %self.region,
                seconds = offset / 1000,
                "the upstream claims a time that is more than a day away from this host's clock; it is not believed. Check the clock (chronyc tracking), and who answers at the upstream's address"
            ),
        }
        helps
    }

    /// How many answers claimed a time that was not believed since this was last asked.
    pub(crate) fn take_disbelieved_clocks(&self) -> u64 {
        self.clock.take_disbelieved()
    }

    /// How far the upstream's clock is ahead of ours as far as it mattered, in milliseconds.
    pub(crate) fn clock_offset(&self) -> i64 {
        self.clock.offset()
    }
}

fn only_http1(error: &SendError) -> Refusal {
    let message = format!(
        "a bidirectional stream needs HTTP/2 upstream: {error}; give the upstream an endpoint that speaks HTTP/2 over TLS."
    );
    Refusal::new(RefusalKind::Validation, message)
}

/// What an attempt tells of its upstream; none if nothing.
fn seen(attempt: &Result<Answer, Failure>) -> Option<Seen> {
    match attempt {
        Ok(answer) if answer.status == StatusCode::TOO_MANY_REQUESTS => Some(Seen::Throttled),
        Ok(answer) if answer.status.is_server_error() => Some(Seen::Failed),
        Ok(_) => Some(Seen::Served),
        Err(Failure::Broke(_)) => Some(Seen::Failed),
        Err(Failure::NotSent { handshake, .. }) => Some(Seen::Unreached { handshake: *handshake }),
        // A peer that closes a connection in order, or has no room for one stream more, is as well as it was.
        Err(Failure::NoCredential(_) | Failure::Unfit(_) | Failure::NotRepeatable(_)) => None,
    }
}

impl Answer {
    /// The error that an inspected answer carries.
    pub(crate) fn error(&self) -> Option<AwsError> {
        match &self.body {
            AnswerBody::Read(bytes) => Some(AwsError::new(&self.headers, bytes)),
            AnswerBody::Passing(_) => None,
        }
    }

    /// What would help against the error that the answer carries; `None` for a success.
    pub(crate) fn remedy(&self) -> Remedy {
        self.error().map_or(Remedy::None, |error| error.remedy(self.status, &self.headers))
    }

    /// The whole body, for answers to requests of our own.
    pub(crate) async fn read(self, most: usize) -> Result<Bytes, String> {
        match self.body {
            AnswerBody::Read(bytes) => Ok(bytes),
            AnswerBody::Passing(body) => match http_body_util::Limited::new(body, most).collect().await {
                Ok(collected) => Ok(collected.to_bytes()),
                Err(error) => Err(error.to_string()),
            },
        }
    }
}

/// What a call of the daemon's own waits for at most.
fn own_timeouts(timeouts: settings::Timeouts) -> settings::Timeouts {
    let (first_byte, idle) = (timeouts.first_byte.min(OWN_PATIENCE), timeouts.idle.min(OWN_PATIENCE));
    settings::Timeouts { first_byte, idle, ..timeouts }
}

/// Reads an error's body as long as it is as small as errors are. One that does not come in time is relayed unread if its
/// status alone says what to do with it.
async fn read_error(status: StatusCode, mut body: UpstreamBody, time: Duration) -> Result<AnswerBody, String> {
    use http_body::Body;
    if body.size_hint().lower() > MAX_ERROR_BODY as u64 {
        return Ok(AnswerBody::Passing(body));
    }
    let mut read = BytesMut::new();
    let end = tokio::time::Instant::now() + time;
    loop {
        let frame = match tokio::time::timeout_at(end, body.frame()).await {
            Ok(Some(frame)) => frame,
            Ok(None) => break,
            Err(_) if status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error() => {
                body.put_back(read.freeze());
                return Ok(AnswerBody::Passing(body));
            }
            Err(_) => {
                body.give_up();
                return Err(format!("an error answer that did not end within {} s", time.as_secs_f32()));
            }
        };
        let frame = frame.map_err(|error| error.to_string())?;
        if let Some(data) = frame.data_ref() {
            read.extend_from_slice(data);
        }
        if read.len() > 16 * MAX_ERROR_BODY {
            return Err("an error answer of more than 1 MiB".to_owned());
        }
    }
    Ok(AnswerBody::Read(read.freeze()))
}

impl Failure {
    /// The answer of our own that says so.
    pub(crate) fn refusal(&self) -> Refusal {
        match self {
            Failure::NoCredential(refusal) | Failure::Unfit(refusal) => refusal.clone(),
            Failure::NotSent { why, .. } | Failure::NotRepeatable(why) | Failure::Broke(why) => {
                Refusal::new(RefusalKind::ServiceUnavailable, format!("the upstream gave no answer: {why}."))
            }
        }
    }
}

#[cfg(test)]
mod tests;
