//! A strict stand-in for Amazon Bedrock, of a commercial region or of one in GovCloud: the demo, the tests and the benchmarks talk to it, and it refuses
//! what AWS would refuse, and also what AWS would let pass but a careful daemon must not send.
//!
//! Answers follow from the request alone (see the `prompt` module for words that direct them); only request ids and
//! dates vary. Faults, the gate for event streams, the record of what arrived and the credentials it knows can be
//! changed at run time, by this API or over HTTP under `/_simulator/`.

mod auth;
mod bidirectional;
mod body;
mod catalogue;
mod control;
pub mod eventstream;
mod exchange;
mod faults;
pub mod framing;
mod gate;
mod keys;
mod leaks;
mod mantle;
mod opaque;
mod operations;
mod partition;
mod profiles;
mod prompt;
mod record;
mod reply;
mod roles_anywhere;
mod route;
mod server;
mod sigv4;
mod state;
mod tls;
mod wire;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use route::Host;
use tokio::sync::watch;
use tokio::task::JoinSet;

pub use auth::short_term_key;
pub use faults::{Effect, Fault, ThrottleText};
pub use gate::{Gate, GateState};
pub use keys::{
    AwsKey, DEFAULT_ACCESS_KEY_ID, DEFAULT_BEARER_TOKEN, DEFAULT_SECRET_ACCESS_KEY, DEFAULT_SESSION_TOKEN,
    DEFAULT_TEMPORARY_ACCESS_KEY_ID, DEFAULT_TEMPORARY_SECRET_ACCESS_KEY, GOVCLOUD_ACCESS_KEY_ID,
    GOVCLOUD_BEARER_TOKEN, GOVCLOUD_SECRET_ACCESS_KEY, GOVCLOUD_SESSION_TOKEN, ROTATED_BEARER_TOKEN,
};
pub use record::{Ended, Received};
pub use roles_anywhere::RolesAnywhere;
pub use tls::Certificate;
pub use wire::Ending;

/// How a simulator is set up.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where to serve plain HTTP/1.1 and h2c; `None` not to. Default: 127.0.0.1, any port.
    pub plain_address: Option<SocketAddr>,
    /// Where to serve TLS; `None` not to. Default: 127.0.0.1, any port.
    pub tls_address: Option<SocketAddr>,
    /// The AWS region it stands in for. One of GovCloud (`us-gov-west-1`) has models, profiles, ARNs and keys of its own.
    /// Default: us-east-1.
    pub region: String,
    /// Whether TLS offers h2. Default: true.
    pub http2: bool,
    /// The AWS account its ARNs name. Default: 123456789012.
    pub account: String,
    /// The TLS listener's certificate. Default: a good one.
    pub certificate: Certificate,
    /// Names or addresses that a good certificate is for beside localhost. Default: none.
    pub certificate_names: Vec<String>,
    /// How many requests the record keeps; 0 keeps none, for benchmarks. Default: 10,000.
    pub record_limit: usize,
    /// The longest body that the record keeps, in bytes; of others it knows the length. Default: any.
    pub longest_recorded_body: usize,
    /// The most inference profiles on a page, whatever `maxResults` asks. Default: 5, so that paging is exercised.
    pub page_size: usize,
    /// Headers, in lower case, that the daemon is configured to send beside those that Bedrock defines. Default: none.
    pub added_headers: Vec<String>,
    /// How many application inference profiles the account may have. Default: 50.
    pub profile_quota: usize,
    /// How answers are framed by hand; `None` lets hyper serve. Default: `None`.
    pub framing: Option<framing::Choice>,
    /// Resets by the client after which an HTTP/2 connection that is framed by hand is closed with GOAWAY
    /// ENHANCE_YOUR_CALM, as real servers do. Default: never.
    pub calm_after_resets: Option<u64>,
    /// Whether a bidirectional stream is answered only once its first event has come. Default: at once.
    pub head_after_first_event: bool,
}

impl Default for Options {
    fn default() -> Options {
        let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        Options {
            plain_address: Some(any_port),
            tls_address: Some(any_port),
            region: "us-east-1".to_owned(),
            http2: true,
            account: "123456789012".to_owned(),
            certificate: Certificate::Good,
            certificate_names: Vec::new(),
            record_limit: 10_000,
            longest_recorded_body: usize::MAX,
            page_size: 5,
            added_headers: Vec::new(),
            profile_quota: 50,
            framing: None,
            calm_after_resets: None,
            head_after_first_event: false,
        }
    }
}

/// A running simulator; it stops, with all its connections, when dropped.
#[derive(Debug)]
pub struct Simulator {
    state: Arc<state::State>,
    plain: Option<SocketAddr>,
    tls: Option<SocketAddr>,
    agent_plain: Option<SocketAddr>,
    agent_tls: Option<SocketAddr>,
    /// The mantle host's, plain and TLS.
    mantle: [Option<SocketAddr>; 2],
    identity: Arc<tls::Identity>,
    _tasks: JoinSet<()>,
}

impl Simulator {
    /// Binds all listeners and serves them on the current tokio runtime. Fails when an address cannot be bound.
    pub async fn start(options: Options) -> io::Result<Simulator> {
        let identity = Arc::new(tls::Identity::new(options.certificate, options.http2, options.certificate_names)?);
        let plain = bind(options.plain_address).await?;
        let secure = bind(options.tls_address).await?;
        // The agent runtime and mantle are other hosts, here as at AWS: beside each of the others, at any port.
        let beside = |address: Option<SocketAddr>| address.map(|address| SocketAddr::new(address.ip(), 0));
        let agent_plain = bind(beside(options.plain_address)).await?;
        let agent_secure = bind(beside(options.tls_address)).await?;
        let mantle = [bind(beside(options.plain_address)).await?, bind(beside(options.tls_address)).await?];
        let address = |bound: &Option<(tokio::net::TcpListener, SocketAddr)>| bound.as_ref().map(|(_, at)| *at);
        let (plain_address, tls_address) = (address(&plain), address(&secure));
        let (agent_plain_address, agent_tls_address) = (address(&agent_plain), address(&agent_secure));
        let mantle_addresses = mantle.each_ref().map(address);
        let [mantle_plain_address, mantle_tls_address] = mantle_addresses;
        let of_others = [agent_plain_address, agent_tls_address, mantle_plain_address, mantle_tls_address];
        let addresses = [plain_address, tls_address].into_iter().chain(of_others).flatten();
        let state = Arc::new(state::State {
            known: RwLock::new(keys::Known::of_region(&options.region)),
            profiles: Mutex::new(profiles::Profiles::new(&options.region, &options.account, options.profile_quota)),
            retention: Mutex::new("inherit".to_owned()),
            roles_anywhere: Mutex::default(),
            stored: mantle::Stored::default(),
            async_invokes: Mutex::default(),
            faults: faults::Faults::default(),
            gate: Gate::default(),
            record: record::Record::new(options.record_limit, options.longest_recorded_body),
            refusing: watch::Sender::new(false),
            connections: AtomicU64::new(0),
            framing: framing::Framings::new(options.framing, options.calm_after_resets),
            tally: framing::Tally::default(),
            ports: RwLock::new(addresses.map(|address| address.port()).collect()),
            region: options.region,
            account: options.account,
            page_size: options.page_size.max(1),
            added_headers: options.added_headers,
            head_after_first_event: options.head_after_first_event,
        });
        let mut tasks = JoinSet::new();
        let secured = Some(Arc::clone(&identity));
        let [mantle_plain, mantle_secure] = mantle;
        for (bound, host, identity) in [
            (plain, Host::Bedrock, None),
            (secure, Host::Bedrock, secured.clone()),
            (agent_plain, Host::AgentRuntime, None),
            (agent_secure, Host::AgentRuntime, secured.clone()),
            (mantle_plain, Host::Mantle, None),
            (mantle_secure, Host::Mantle, secured),
        ] {
            if let Some((listener, address)) = bound {
                tasks.spawn(server::serve(Arc::clone(&state), host, listener, address, identity));
            }
        }
        Ok(Simulator {
            state,
            plain: plain_address,
            tls: tls_address,
            agent_plain: agent_plain_address,
            agent_tls: agent_tls_address,
            mantle: mantle_addresses,
            identity,
            _tasks: tasks,
        })
    }

    /// `http://127.0.0.1:PORT`; empty when there is no plain listener.
    pub fn plain_endpoint(&self) -> String {
        self.plain.map(|address| format!("http://{address}")).unwrap_or_default()
    }

    /// `https://127.0.0.1:PORT`; empty when there is no TLS listener.
    pub fn tls_endpoint(&self) -> String {
        self.tls.map(|address| format!("https://{address}")).unwrap_or_default()
    }

    /// The agent runtime's `http://127.0.0.1:PORT`; empty when there is no plain listener.
    pub fn plain_agent_endpoint(&self) -> String {
        self.agent_plain.map(|address| format!("http://{address}")).unwrap_or_default()
    }

    /// The agent runtime's `https://127.0.0.1:PORT`; empty when there is no TLS listener.
    pub fn tls_agent_endpoint(&self) -> String {
        self.agent_tls.map(|address| format!("https://{address}")).unwrap_or_default()
    }

    /// The mantle host over plain HTTP; empty when there is no plain listener.
    pub fn mantle_plain_endpoint(&self) -> String {
        self.mantle[0].map(|address| format!("http://{address}")).unwrap_or_default()
    }

    /// The mantle host over TLS; empty when there is no TLS listener.
    pub fn mantle_tls_endpoint(&self) -> String {
        self.mantle[1].map(|address| format!("https://{address}")).unwrap_or_default()
    }

    /// The CA by which the TLS endpoint is to be verified.
    pub fn ca_pem(&self) -> &str {
        self.identity.ca_pem()
    }

    /// Shows this certificate to TLS connections that come from now on.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn show_certificate(&self, certificate: Certificate) -> io::Result<()> {
        self.identity.show(certificate)
    }

    /// Clients know it under this port too, which is a proxy's.
    pub fn reached_by(&self, port: u16) {
        self.state.ports.write().unwrap_or_else(PoisonError::into_inner).push(port);
    }

    /// Everything received so far, refused requests too, oldest first.
    pub fn requests(&self) -> Vec<Received> {
        self.state.record.all()
    }

    /// Forgets what was received and what was counted of the connections.
    pub fn clear(&self) {
        self.state.clear();
    }

    /// Adds a fault behind those already lying in wait. [`Effect::Framing`] only meets requests on connections that are
    /// framed by hand; where there is no choice yet, it makes [`framing::Framing::PLAIN`] the choice.
    pub fn inject(&self, fault: Fault) {
        self.state.inject(fault);
    }

    /// Frames answers by hand from now on, or no more. Connections that hyper serves end when their exchanges do; those
    /// that are framed by hand go on, in the plain way when the choice is taken back.
    pub fn set_framing(&self, choice: Option<framing::Choice>) {
        self.state.framing.set(choice);
    }

    /// After so many resets by the client an HTTP/2 connection that is framed by hand is closed with GOAWAY
    /// ENHANCE_YOUR_CALM.
    pub fn set_calm_after_resets(&self, resets: Option<u64>) {
        self.state.framing.set_calm_after(resets);
    }

    /// The connections that were framed by hand, oldest first.
    pub fn connections(&self) -> Vec<framing::ConnectionTally> {
        self.state.tally.all()
    }

    /// Takes all faults away.
    pub fn clear_faults(&self) {
        self.state.faults.clear();
    }

    /// The gate that event streams pass.
    pub fn gate(&self) -> Gate {
        self.state.gate.clone()
    }

    /// Knows these bearer tokens, and no others.
    pub fn set_bearer_tokens(&self, tokens: Vec<String>) {
        self.state.change_credentials(keys::Change { bearer_tokens: Some(tokens), ..keys::Change::default() });
    }

    /// Knows these key pairs, and no others.
    pub fn set_aws_keys(&self, keys: Vec<AwsKey>) {
        self.state.change_credentials(keys::Change { aws_keys: Some(keys), ..keys::Change::default() });
    }

    /// Everything known now expires: bearer tokens with `Bearer Token has expired`, keys with ExpiredTokenException.
    pub fn expire_credentials(&self) {
        self.state.change_credentials(keys::Change { expire_all: true, ..keys::Change::default() });
    }

    /// The default credentials are known again, and nothing is expired.
    pub fn reset_credentials(&self) {
        self.state.change_credentials(keys::Change { reset: true, ..keys::Change::default() });
    }

    /// The trust anchor, profile and role of IAM Roles Anywhere, which answers under the same endpoints; none at first.
    pub fn set_roles_anywhere(&self, known: Option<RolesAnywhere>) {
        self.state.set_roles_anywhere(known);
    }

    /// The account's data retention mode, in Bedrock's words; `inherit` at first, as in a new account.
    pub fn set_data_retention(&self, mode: &str) {
        self.state.set_data_retention(mode);
    }

    /// Shuts all listeners and all connections, or opens them again on the same ports.
    pub fn refuse_connections(&self, refuse: bool) {
        self.state.refusing.send_replace(refuse);
    }
}

async fn bind(address: Option<SocketAddr>) -> io::Result<Option<(tokio::net::TcpListener, SocketAddr)>> {
    let Some(address) = address else { return Ok(None) };
    let listener = server::bind(address).await?;
    let bound = listener.local_addr()?;
    Ok(Some((listener, bound)))
}
