//! Keys for a certificate: IAM Roles Anywhere exchanges the signature of this host's private key for temporary keys of a role.
//! Nothing that lasts is kept in memory: certificate and key are read for each session, which also takes over new ones.

mod answer;
mod identity;
mod key;
mod request;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwapOption;
use aws_smithy_http_client::{Connector, tls};
use aws_smithy_runtime_api::client::http::HttpConnector;
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;
use aws_smithy_types::body::SdkBody;
use aws_smithy_types::byte_stream::ByteStream;
use tokio::time::timeout;
use zeroize::Zeroizing;

use answer::{Answer, Verdict};
use identity::Identity;

use super::aws_files::LONGEST_LOOK;
use super::file::{Lookout, unanswering};
use super::secret::Credential;
use crate::crypto::SDK_CRYPTO;
use crate::file_stamp::FileStamp;
use crate::sdk_failure::bounded;
use crate::settings::roles_anywhere::RolesAnywhere;

/// For connection, request and answer together.
const LONGEST_CALL: Duration = Duration::from_secs(15);
/// Answers have some kilobytes.
const MAX_ANSWER: usize = 64 * 1024;
/// What may have been a passing fault is tried once more, after this.
const PAUSE: Duration = Duration::from_millis(200);
/// A certificate that ends within this time is warned of.
pub(crate) const END_IS_NEAR: Duration = Duration::from_secs(14 * 86_400);
const USER_AGENT: &str = concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION"));

/// This host's certificate as a source of keys.
#[derive(Debug)]
pub(crate) struct Sessions {
    settings: RolesAnywhere,
    lookout: Lookout,
    /// When the certificate ends that was read last.
    ends: ArcSwapOption<SystemTime>,
}

impl Sessions {
    /// Nothing is read or contacted yet.
    pub(super) fn new(settings: &RolesAnywhere) -> Sessions {
        Sessions { settings: settings.clone(), lookout: Lookout::new(LONGEST_LOOK), ends: ArcSwapOption::empty() }
    }

    /// Begins a session.
    ///
    /// # Errors
    /// A sentence that tells the admin what to mend.
    pub(super) async fn begin(&self) -> Result<Credential, String> {
        let settings = self.settings.clone();
        let read = self.lookout.look(move || Identity::read(&settings)).await;
        let identity = read.ok_or_else(|| unanswering(&self.settings.private_key_file))??;
        if let Some(warning) = &identity.warning {
            tracing::warn!("{warning}");
        }
        self.ends.store(Some(Arc::new(identity.ends)));
        self.warn_of_end(identity.ends);
        let keys = self.create(&identity).await?;
        Credential::from_keys(keys).map_err(|why| {
            format!("the keys of IAM Roles Anywhere for {} cannot be used: {why}", self.settings.role_arn)
        })
    }

    /// When the certificate ends; none before it was read.
    pub(super) fn certificate_ends(&self) -> Option<SystemTime> {
        self.ends.load().as_deref().copied()
    }

    /// What changes when certificate or key is replaced.
    pub(super) async fn file_stamps(&self) -> Option<Vec<Option<FileStamp>>> {
        let paths = [self.settings.certificate_file.clone(), self.settings.private_key_file.clone()];
        self.lookout.look(move || paths.iter().map(|path| FileStamp::of(path)).collect()).await
    }

    fn warn_of_end(&self, ends: SystemTime) {
        let left = ends.duration_since(SystemTime::now()).unwrap_or_default();
        if left < END_IS_NEAR {
            let (file, days) = (self.settings.certificate_file.display(), left.as_secs() / 86_400);
            tracing::warn!(%file, days, "this host's certificate is about to expire; renew it");
        }
    }

    /// One more attempt follows a fault that may pass, and one a clock that is off.
    async fn create(&self, identity: &Identity) -> Result<aws_credential_types::Credentials, String> {
        let (mut now, mut is_set_right, mut may_repeat) = (SystemTime::now(), false, true);
        loop {
            let local = if is_set_right { SystemTime::now() } else { now };
            match self.call(identity, now).await {
                Ok(answer) => match answer.verdict(&self.settings, identity.ends, now, local) {
                    Verdict::Keys(keys) => return Ok(keys),
                    Verdict::Clock(theirs, _) if !is_set_right => {
                        let time = jiff::Timestamp::try_from(theirs).map(|time| time.to_string()).unwrap_or_default();
                        tracing::warn!(%time, "IAM Roles Anywhere has another time than this host; synchronise the clock");
                        (now, is_set_right) = (theirs, true);
                        continue;
                    }
                    Verdict::Passing(_) if may_repeat => {}
                    Verdict::Clock(_, why) | Verdict::Passing(why) | Verdict::Refused(why) => return Err(why),
                },
                Err(_) if may_repeat => {}
                Err(why) => return Err(why),
            }
            may_repeat = false;
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Asks once.
    async fn call(&self, identity: &Identity, now: SystemTime) -> Result<Answer, String> {
        let request = self.request(identity, now)?;
        let endpoint = &self.settings.endpoint;
        let silent = || {
            let seconds = LONGEST_CALL.as_secs();
            format!(
                "IAM Roles Anywhere ({endpoint}) has given no answer within {seconds} s; look at names, routes, security groups and VPC endpoints on the way to it"
            )
        };
        timeout(LONGEST_CALL, self.exchange(request)).await.map_err(|_| silent())?
    }

    async fn exchange(&self, request: HttpRequest) -> Result<Answer, String> {
        let endpoint = &self.settings.endpoint;
        let failed = |error: &dyn std::error::Error| {
            let reason = bounded(&aws_smithy_types::error::display::DisplayErrorContext(error).to_string());
            format!("IAM Roles Anywhere ({endpoint}) cannot be asked: {reason}")
        };
        // Made for one call: the next one is an hour away.
        let connector = Connector::builder().tls_provider(tls::Provider::Rustls(SDK_CRYPTO)).build();
        let response = connector.call(request).await.map_err(|error| failed(&error))?;
        let status = response.status().as_u16();
        let header = |name: &str| response.headers().get(name).map(str::to_owned);
        let (error_type, date) = (header("x-amzn-errortype"), header("date"));
        let mut body = Zeroizing::new(Vec::with_capacity(MAX_ANSWER));
        let mut stream = ByteStream::new(response.into_body());
        while let Some(part) = stream.next().await {
            let part = part.map_err(|error| failed(&error))?;
            if body.len() + part.len() > MAX_ANSWER {
                return Err(format!(
                    "IAM Roles Anywhere ({endpoint}) has given an answer of more than {MAX_ANSWER} bytes"
                ));
            }
            body.extend_from_slice(&part);
        }
        Ok(Answer { status, error_type, date, body })
    }

    fn request(&self, identity: &Identity, now: SystemTime) -> Result<HttpRequest, String> {
        let body = request::body(&self.settings);
        let headers = request::signed_headers(&self.settings, identity, &body, now)?;
        let mut request = HttpRequest::new(SdkBody::from(body));
        request.set_method("POST").map_err(|error| error.to_string())?;
        let url = format!("{}{}", self.settings.endpoint, request::PATH);
        request.set_uri(url).map_err(|error| error.to_string())?;
        for (name, value) in &headers {
            let text = value.to_str().unwrap_or_default().to_owned();
            request.headers_mut().insert(name.as_str().to_owned(), text);
        }
        request.headers_mut().insert("user-agent", USER_AGENT);
        Ok(request)
    }
}

/// How long this host's certificate still holds, zero once it has ended.
///
/// # Errors
/// A sentence that names the file.
pub(crate) fn certificate_left(path: &Path, now: SystemTime) -> Result<Duration, String> {
    Ok(identity::certificate_end(path)?.duration_since(now).unwrap_or_default())
}
