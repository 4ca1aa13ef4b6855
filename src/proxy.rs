//! The road of a request, in its order: guard, operation, body, caller, policy, limits, ledger, model, upstream, answer.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, HOST, HeaderMap};
use http::request::Parts;
use http::uri::{Authority, PathAndQuery};
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;

use crate::admin::metrics::Metrics;
use crate::audit::{Audit, Outcome, Record};
use crate::caller::{Caller, Callers};
use crate::credentials::Credentials;
use crate::error::{Kind, Refusal};
use crate::exchange::{Body, Exchange};
use crate::limits::{self, Admission, Limits};
use crate::listen::{self, Client};
use crate::model::{self, Models, Target};
use crate::operation::{self, Matched, ModelPlace, Operation};
use crate::policy::{self, Permit};
use crate::settings::Settings;
use crate::upstream::answer::Remedy;
use crate::upstream::{Answer, Ask, Failure, Upstream, strip};
use crate::{log, receive, rest};

/// Everything that a request meets on its way. A reload builds another one beside it.
#[derive(Debug)]
pub struct Road {
    /// In the order in which they are tried; never empty.
    pub regions: Vec<Region>,
    pub credentials: Credentials,
    pub callers: Callers,
    pub limits: Arc<Limits>,
    pub audit: Arc<Audit>,
    pub settings: Settings,
    pub metrics: Arc<Metrics>,
}

/// One upstream and what is known of its models.
#[derive(Debug)]
pub struct Region {
    pub upstream: Upstream,
    pub models: Models,
}

/// A request whose operation is known and whose body has arrived.
#[derive(Debug)]
pub struct Received {
    pub operation: &'static Operation,
    pub method: http::Method,
    pub headers: HeaderMap,
    pub query: Option<String>,
    /// The raw path; used as it is where it names no model.
    pub path: String,
    pub body: Bytes,
    pub model: Option<Asked>,
}

/// The model as the client names it, and where.
#[derive(Debug, Clone)]
pub struct Asked {
    pub name: String,
    /// The string in the body that is to be replaced; none when the path names the model.
    pub in_body: Option<Arc<model::body::Named>>,
}

impl Road {
    /// Answers one request.
    pub async fn serve(self: Arc<Self>, client: Arc<Client>, request: Request<Incoming>) -> Response<Body> {
        if request.uri().path() == "/health" && listen::head::Fault::of(request.headers()).is_none() {
            return crate::admin::health();
        }
        let mut exchange = Exchange::begin(&self, &client);
        let (head, body) = request.into_parts();
        if head.uri.path().starts_with("/v1/") {
            return rest::serve(&self, &client, exchange, head, body).await;
        }
        let walked = self.walk(&client, &mut exchange, head, body).await;
        match walked {
            Ok((answer, sent)) => exchange.relay(answer, sent.as_deref()),
            Err(refusal) => exchange.refuse(&refusal),
        }
    }

    async fn walk(
        &self,
        client: &Client,
        exchange: &mut Exchange,
        head: Parts,
        body: Incoming,
    ) -> Result<(Answer, Option<String>), Refusal> {
        listen::guard::check(client, &head)?;
        let Matched { operation, identifier } = operation::find(&head.method, head.uri.path())?;
        exchange.operation(operation);
        if operation.model == ModelPlace::Path {
            exchange.record.model_id = identifier.clone().unwrap_or_default();
        }
        let body = receive::body(&head.headers, body, self.settings.max_body_bytes).await?;
        exchange.record.request_size = body.len() as u64;
        let caller = self.identify(client, exchange, &head, &body).await?;
        let model = asked(operation, identifier, &head.headers, &body)?;
        if let Some(asked) = &model {
            exchange.record.model_id.clone_from(&asked.name);
        }
        let permit = self.permit(&caller, exchange, operation, model.as_ref(), &head.headers)?;
        let admission = self.admit(permit, &caller, operation, model.as_ref(), &body).await?;
        let received = Received {
            operation,
            method: head.method,
            query: head.uri.query().and_then(strip::query),
            path: head.uri.path().to_owned(),
            headers: head.headers,
            body,
            model,
        };
        exchange.open(admission).await?;
        self.forward(exchange, &received).await
    }

    /// Who has sent the request. A signature under a key that we know must verify.
    pub async fn identify(
        &self,
        client: &Client,
        exchange: &mut Exchange,
        head: &Parts,
        body: &[u8],
    ) -> Result<Caller, Refusal> {
        let now = SystemTime::now();
        self.callers.settle(&head.headers, head.uri.query(), now).await;
        let target = head.uri.path_and_query().map_or("/", PathAndQuery::as_str);
        let host = head.headers.get(HOST).and_then(|value| value.to_str().ok());
        let authority = head.uri.authority().map(Authority::as_str).or(host).unwrap_or_default();
        let caller = self
            .callers
            .identify(&client.peer, &head.method, target, authority, &head.headers, body, now)
            .inspect_err(|_| {
                exchange.caller(&self.callers.unproven(&client.peer, &head.headers, head.uri.query(), now))
            })?;
        exchange.caller(&caller);
        Ok(caller)
    }

    /// Whether the caller may do this.
    pub fn permit(
        &self,
        caller: &Caller,
        exchange: &mut Exchange,
        operation: &Operation,
        model: Option<&Asked>,
        headers: &HeaderMap,
    ) -> Result<Permit, Refusal> {
        let model = model.filter(|_| operation.model != ModelPlace::Described).map(|asked| asked.name.as_str());
        let level = headers.get(policy::CLASSIFICATION_HEADER).and_then(|value| value.to_str().ok());
        let permit = policy::permit(caller, operation.name, model, level, &self.settings).inspect_err(|refusal| {
            self.callers.denied(caller.uid, caller.name(), refusal, SystemTime::now());
        })?;
        exchange.record.data_classification = permit.data_classification().map(str::to_owned);
        Ok(permit)
    }

    /// Whether the limits have room; only what is permitted is counted.
    pub async fn admit(
        &self,
        _permit: Permit,
        caller: &Caller,
        operation: &Operation,
        model: Option<&Asked>,
        body: &[u8],
    ) -> Result<Admission, Refusal> {
        let model = model.map(|asked| model::resolve::unalias(&asked.name, &self.settings.models));
        let request = limits::LimitRequest {
            caller: caller.name(),
            caller_limits: caller.entry.as_ref().map(|entry| &entry.limits),
            model,
            estimate: limits::estimate(operation.tokens, body),
        };
        self.limits.admit(request).await
    }

    /// Sends a request to the first region that answers for it.
    pub async fn forward(
        &self,
        exchange: &mut Exchange,
        received: &Received,
    ) -> Result<(Answer, Option<String>), Refusal> {
        let headers = strip::request_headers(&received.headers);
        let last = self.regions.len() - 1;
        let mut missed = None;
        for (at, region) in self.regions.iter().enumerate() {
            if at < last && region.upstream.is_paused() {
                continue;
            }
            match self.through(region, exchange, received, headers.clone()).await {
                Ok((answer, _)) if at < last && serves_elsewhere(answer.status) => {
                    tracing::warn!(region = %region.upstream.region, status = answer.status.as_u16(), "trying the next upstream");
                    missed = Some(Ok((answer, None)));
                }
                Ok(answered) => return Ok(answered),
                Err(Stop::Failed(failure @ Failure::NotSent(_))) if at < last => {
                    tracing::warn!(region = %region.upstream.region, reason = %failure.refusal(), "trying the next upstream");
                    missed = Some(Err(failure.refusal()));
                }
                Err(Stop::Failed(failure)) => {
                    if !matches!(failure, Failure::NoCredential(_)) {
                        exchange.record.outcome = Outcome::UpstreamBroke;
                    }
                    return match missed {
                        Some(Ok(answered)) if matches!(failure, Failure::NotSent(_)) => Ok(answered),
                        _ => {
                            if matches!(failure, Failure::NotSent(_)) {
                                exchange.never_sent();
                            }
                            Err(failure.refusal())
                        }
                    };
                }
                Err(Stop::Refused(refusal)) => return Err(refusal),
            }
        }
        missed
            .unwrap_or_else(|| Err(Refusal::new(Kind::ServiceUnavailable, "no upstream can be reached at the moment.")))
    }

    /// One region: resolves the model, sends, and once more through a profile if the upstream demands one.
    async fn through(
        &self,
        region: &Region,
        exchange: &mut Exchange,
        received: &Received,
        headers: HeaderMap,
    ) -> Result<(Answer, Option<String>), Stop> {
        let Region { upstream, models } = region;
        let credentials = &self.credentials;
        exchange.record.destination_region.clone_from(&upstream.region);
        let Some(asked) = &received.model else {
            let ask = received.ask(headers, None)?;
            let answer = upstream.exchange(&ask, credentials, &mut exchange.record.attempts).await?;
            self.metrics.attempt(&upstream.region, answer.status.as_u16());
            return Ok((answer, None));
        };
        if received.operation.model == ModelPlace::CopyFrom {
            models.check_copy_from(&asked.name, upstream, credentials).await?;
        }
        let mut target = match received.operation.model {
            ModelPlace::CopyFrom | ModelPlace::Described => described(&asked.name)?,
            _ => models.target(&asked.name, upstream, credentials).await?,
        };
        let mut may_retry = !matches!(received.operation.model, ModelPlace::CopyFrom | ModelPlace::Described);
        loop {
            exchange.sent_as(&target.identifier, target.is_profile, &upstream.region);
            self.metrics.resolved(target.how.as_str());
            let ask = received.ask(headers.clone(), Some(&target.identifier))?;
            let answer = upstream.exchange(&ask, credentials, &mut exchange.record.attempts).await?;
            self.metrics.attempt(&upstream.region, answer.status.as_u16());
            let error = answer.error();
            let remedy = error.as_ref().map_or(Remedy::None, |error| error.remedy(answer.status, &answer.headers));
            if remedy == Remedy::Profile && may_retry {
                may_retry = false;
                match models.after_on_demand_refusal(&asked.name, &target, upstream, credentials).await {
                    Some(Ok(profile)) => {
                        target = profile;
                        continue;
                    }
                    Some(Err(refusal)) => return Err(refusal.into()),
                    None => {}
                }
            }
            if matches!(target.how, model::How::Learned | model::How::Created)
                && matches!(answer.status.as_u16(), 400 | 404)
            {
                models.forget(&asked.name, credentials);
            }
            return Ok((answer, Some(target.identifier)));
        }
    }

    pub fn first_region(&self) -> &str {
        self.regions.first().map_or("", |region| &region.upstream.region)
    }

    /// The end of a request: log line and metrics.
    pub fn ended(&self, record: &Record, took: Duration) {
        let label = self.regions.first().and_then(|region| region.models.label(&record.model_id));
        self.metrics.ended(record, label.as_deref(), took);
        log::request(record, self.audit.host_id());
    }
}

/// Why a region gave no answer.
#[derive(Debug)]
enum Stop {
    Failed(Failure),
    Refused(Refusal),
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Stop {
        Stop::Failed(failure)
    }
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Stop {
        Stop::Refused(refusal)
    }
}

/// Answers for which another region may do better: throttled, broken, unavailable.
fn serves_elsewhere(status: StatusCode) -> bool {
    matches!(status.as_u16(), 429 | 500 | 503)
}

/// The model that a request names.
fn asked(
    operation: &Operation,
    identifier: Option<String>,
    headers: &HeaderMap,
    body: &Bytes,
) -> Result<Option<Asked>, Refusal> {
    let in_body = |key: &str| {
        if headers.contains_key(CONTENT_ENCODING) {
            return Err(Refusal::new(Kind::Validation, "a body that names the model must not be compressed."));
        }
        let named = model::body::find(body, key)?;
        Ok(named.map(|named| Asked { name: named.model.clone(), in_body: Some(Arc::new(named)) }))
    };
    match operation.model {
        ModelPlace::None => Ok(None),
        ModelPlace::Path | ModelPlace::Described => Ok(identifier.map(|name| Asked { name, in_body: None })),
        ModelPlace::OptionalBody(_) if body.is_empty() => Ok(None),
        ModelPlace::OptionalBody(key) => in_body(key),
        ModelPlace::Body(key) => match in_body(key)? {
            Some(asked) => Ok(Some(asked)),
            None => Err(Refusal::new(
                Kind::Validation,
                format!("the request's body does not name the model under \"{key}\"."),
            )),
        },
        ModelPlace::CopyFrom => {
            let json: serde_json::Value = serde_json::from_slice(body)
                .map_err(|_| Refusal::new(Kind::Validation, "the request's body is not valid JSON."))?;
            let source = json["modelSource"]["copyFrom"].as_str().unwrap_or_default();
            Ok(Some(Asked { name: source.to_owned(), in_body: None }))
        }
    }
}

/// What is described, deleted or copied is named as it is; only GovCloud's own names are translated or refused.
fn described(name: &str) -> Result<Target, Refusal> {
    use model::identifier::{Identifier, read};
    let identifier = match read(name, |_| false) {
        Ok(Identifier::Model { id, .. }) if name.starts_with("arn:aws-us-gov:") => id,
        Ok(_) if name.starts_with("us-gov.") => {
            return Err(Refusal::new(
                Kind::ResourceNotFound,
                format!("{name} is a GovCloud profile; list the commercial ones with ListInferenceProfiles."),
            ));
        }
        Ok(_) => name,
        Err(refusal) => return Err(refusal),
    };
    Ok(Target { identifier: identifier.to_owned(), is_profile: false, how: model::How::AsIs })
}

impl Received {
    /// The request with `model` in the place of the one that was asked for.
    fn ask(&self, headers: HeaderMap, model: Option<&str>) -> Result<Ask, Refusal> {
        let asked_name = self.model.as_ref().map(|asked| asked.name.as_str());
        let mut path = match (self.operation.model, model) {
            (ModelPlace::Path | ModelPlace::Described, Some(model)) => operation::path_with(self.operation, model),
            _ => self.path.clone(),
        };
        if let Some(query) = &self.query {
            path.push('?');
            path.push_str(query);
        }
        let body = match (self.model.as_ref().and_then(|asked| asked.in_body.as_deref()), model) {
            (Some(named), Some(model)) if Some(model) != asked_name => model::body::replace(&self.body, named, model),
            _ => self.body.clone(),
        };
        let path = PathAndQuery::try_from(path)
            .map_err(|_| Refusal::new(Kind::Validation, "the request's target cannot be sent on."))?;
        let mut headers = headers;
        headers.remove(CONTENT_LENGTH);
        Ok(Ask { plane: self.operation.plane, method: self.method.clone(), path, headers, body })
    }
}
