//! Everything around the daemon, and the daemon itself, which may be another process from one moment to the next.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use simulator::{AwsKey, DEFAULT_BEARER_TOKEN, Options, ROTATED_BEARER_TOKEN, Simulator};
use tempfile::TempDir;
use test_support::dynamodb;
use test_support::*;

use crate::growth::Sample;
use crate::load::{CALLERS, Load};
use crate::plan::Trouble;
use crate::proxy::Proxy;
use crate::secrets::Secrets;

/// The upstreams, in their order.
pub(crate) const REGIONS: [&str; 2] = ["us-east-1", "us-west-2"];
/// Of models that policy denies.
pub(crate) const DENIED: &str = "cohere.command-r-v1:0";
/// How soon requests have to be served again when nothing fails any more. Breakers pause for 10 s, readers of a secret for
/// longer, and the machine is busy.
const RECOVERY: Duration = Duration::from_secs(60);
/// How long an upstream may be silent amid an answer, as configured.
pub(crate) const IDLE: Duration = Duration::from_secs(8);
/// How long a client may take no byte of its answer, as configured.
pub(crate) const WRITE_TIMEOUT: Duration = Duration::from_secs(5);
/// The configured time for a drain, which slow readers and silent upstreams use up.
pub(crate) const DRAIN: Duration = Duration::from_secs(10);

/// How often it is looked whether the machine leaves this test time to run, and how much is too little.
const LOOK: Duration = Duration::from_millis(100);
const STALL: Duration = Duration::from_secs(2);

/// How a process of the daemon ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Death {
    Killed,
    Stopped,
}

/// The time between a process's end being asked for and the next one's listening.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Change {
    pub(crate) death: Death,
    pub(crate) began: Instant,
    /// The old process was gone.
    pub(crate) gone: Instant,
    pub(crate) ended: Instant,
}

/// A trouble that has come.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spell {
    pub(crate) trouble: Trouble,
    pub(crate) began: Instant,
    /// Requests were served again, and nothing failed any more; none until then.
    pub(crate) over: Option<Instant>,
}

/// All of it.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) bedrocks: [Simulator; 2],
    pub(crate) networks: [Proxy; 2],
    pub(crate) table: dynamodb::Proxy,
    pub(crate) table_name: &'static str,
    pub(crate) secrets: Secrets,
    /// Of the commercial key: which of [`keys`] is in force. Held while it changes.
    pub(crate) key: tokio::sync::Mutex<usize>,
    main: TcpListener,
    unix: UnixListener,
    directory: TempDir,
    daemon: tokio::sync::Mutex<Option<Daemon>>,
    admin: Mutex<SocketAddr>,
    pub(crate) changes: Mutex<Vec<Change>>,
    pub(crate) spells: Mutex<Vec<Spell>>,
    /// When this test stood still, and with it the upstreams, the networks and the clients.
    pub(crate) stalls: Mutex<Vec<(Instant, Instant)>>,
    pub(crate) samples: Mutex<Vec<Sample>>,
}

/// The text of a secret and what the upstreams know while it is in force.
fn keys() -> [(String, Option<&'static str>); 3] {
    let AwsKey { access_key_id, secret_access_key, .. } = AwsKey::default_long_lived();
    let pair = serde_json::json!({ "aws_access_key_id": access_key_id, "aws_secret_access_key": secret_access_key });
    [
        (DEFAULT_BEARER_TOKEN.to_owned(), Some(DEFAULT_BEARER_TOKEN)),
        (pair.to_string(), None),
        (ROTATED_BEARER_TOKEN.to_owned(), Some(ROTATED_BEARER_TOKEN)),
    ]
}

impl Stage {
    /// Sets everything up, and starts the daemon.
    pub(crate) async fn set(table_name: &'static str) -> Stage {
        let bedrock = async |region: &str| {
            let options = Options { region: region.into(), record_limit: 10_000_000, ..Options::default() };
            bedrock_with(Options { longest_recorded_body: 0, ..options }).await
        };
        let bedrocks = [bedrock(REGIONS[0]).await, bedrock(REGIONS[1]).await];
        let target = |bedrock: &Simulator| bedrock.tls_endpoint().trim_start_matches("https://").parse().unwrap();
        let networks = [Proxy::before(target(&bedrocks[0])).await, Proxy::before(target(&bedrocks[1])).await];
        for (bedrock, network) in bedrocks.iter().zip(&networks) {
            bedrock.reached_by(network.address.port());
        }
        dynamodb::create_table(table_name, &["requestId", "timestamp"]).await;
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("ledger")).unwrap();
        for (at, bedrock) in bedrocks.iter().enumerate() {
            std::fs::write(directory.path().join(format!("ca-{at}.pem")), bedrock.ca_pem()).unwrap();
        }
        for (name, _) in CALLERS {
            let file = directory.path().join(name);
            std::fs::write(&file, token(name)).unwrap();
            std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o600)).unwrap();
        }
        let stage = Stage {
            bedrocks,
            networks,
            table: dynamodb::Proxy::start().await,
            table_name,
            secrets: Secrets::start(&keys()[0].0).await,
            key: tokio::sync::Mutex::new(0),
            main: TcpListener::bind("127.0.0.1:0").unwrap(),
            unix: UnixListener::bind(directory.path().join("bedrock.sock")).unwrap(),
            directory,
            daemon: tokio::sync::Mutex::new(None),
            admin: Mutex::new(SocketAddr::from(([127, 0, 0, 1], 0))),
            changes: Mutex::default(),
            spells: Mutex::default(),
            stalls: Mutex::default(),
            samples: Mutex::default(),
        };
        stage.accept(0, false);
        stage.begin(&mut *stage.daemon.lock().await).await;
        stage
    }

    /// Notes when the machine leaves this test no time. Runs until it is dropped.
    pub(crate) async fn watch_the_machine(&self) {
        loop {
            let before = Instant::now();
            tokio::time::sleep(LOOK).await;
            let late = before.elapsed();
            if late > STALL {
                println!("       this test stood still for {:.1} s", late.as_secs_f32());
                self.stalls.lock().unwrap().push((before, Instant::now()));
            }
        }
    }

    /// Where clients connect by TCP, whichever process serves.
    pub(crate) fn address(&self) -> SocketAddr {
        self.main.local_addr().unwrap()
    }

    /// Where clients connect on this host alone.
    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.path().join("bedrock.sock")
    }

    fn setup(&self) -> Setup {
        let path = |name: &str| self.directory.path().join(name).display().to_string();
        let upstream = |at: usize| {
            let ca = self.directory.path().join(format!("ca-{at}.pem"));
            upstream(REGIONS[at], &format!("https://{}", self.networks[at].address), Some(&ca))
        };
        let callers: String = CALLERS
            .iter()
            .map(|(name, more)| {
                format!("[[callers]]\nname = \"{name}\"\nbearer_token_file = \"{}\"\n{more}\n", path(name))
            })
            .collect();
        Setup::alone()
            .listen(&format!(
                "addresses = [\"{}\"]\nadmin_address = \"127.0.0.1:0\"\nunix_socket = \"{}\"\nwrite_timeout = \"{}s\"\n",
                self.address(),
                path("bedrock.sock"),
                WRITE_TIMEOUT.as_secs()
            ))
            .upstreams(&format!("{}{}", upstream(0), upstream(1)))
            .credentials(
                "[credentials]\nsource = \"secrets_manager\"\nsecret_id = \"chaos\"\nregion = \"us-gov-west-1\"\n\
                 refresh_interval = \"2s\"\n",
            )
            .with(&format!(
                "[upstream_timeouts]\nconnect = \"2s\"\nfirst_byte = \"10s\"\nidle = \"{}s\"\n[models]\ndeny = [\"cohere.*\"]\n\
                 [models.aliases]\n\"reloaded-0\" = \"{ON_DEMAND}\"\n[drain]\ntimeout = \"{}s\"\n[log]\nlevel = \"info\"\n\
                 [audit]\nstate_dir = \"{}\"\ntable = \"{}\"\n\
                 {callers}[[callers]]\nname = \"local\"\nusers = [\"{}\"]\n",
                IDLE.as_secs(),
                DRAIN.as_secs(),
                path("ledger"),
                self.table_name,
                users::own_uid()
            ))
            .environment(dynamodb::environment(&self.table.endpoint()))
            .env("AWS_ENDPOINT_URL_SECRETS_MANAGER", self.secrets.endpoint())
            // As the unit sets it. Without it, each thread's heap may keep a body of 20 MB, which looks like a leak.
            .env("MALLOC_MMAP_THRESHOLD_", "1048576")
    }

    async fn begin(&self, daemon: &mut Option<Daemon>) {
        let sockets: [OwnedFd; 2] = [self.main.try_clone().unwrap().into(), self.unix.try_clone().unwrap().into()];
        let new = self.setup().start_with_sockets(sockets, "tcp:local").await;
        *self.admin.lock().unwrap() = new.admin;
        *daemon = Some(new);
    }

    /// Ends the process, and starts another one on the same sockets and the same ledger.
    pub(crate) async fn replace(&self, death: Death) {
        let mut daemon = self.daemon.lock().await;
        let began = Instant::now();
        {
            let old = daemon.as_mut().unwrap();
            old.signal(if death == Death::Killed { "KILL" } else { "TERM" });
            let status = old.ended().await;
            let expected = if death == Death::Killed { None } else { Some(0) };
            assert_eq!(status.code(), expected, "{}", old.log_text());
        }
        let gone = Instant::now();
        *daemon = None;
        self.begin(&mut daemon).await;
        self.changes.lock().unwrap().push(Change { death, began, gone, ended: Instant::now() });
    }

    /// Changes the configuration file in this way and sends SIGHUP.
    pub(crate) async fn reload(&self, change: impl FnOnce(String) -> String) {
        let daemon = self.daemon.lock().await;
        let daemon = daemon.as_ref().unwrap();
        let text = std::fs::read_to_string(daemon.config_path()).unwrap();
        std::fs::write(daemon.config_path(), change(text)).unwrap();
        daemon.signal("HUP");
    }

    /// Asks the process that runs now; none while it changes.
    pub(crate) async fn with_daemon<T>(&self, look: impl AsyncFnOnce(&Daemon) -> T) -> T {
        let mut daemon = self.daemon.lock().await;
        let daemon = daemon.as_mut().unwrap();
        assert!(daemon.is_running(), "the daemon has ended by itself:\n{}", daemon.log_text());
        look(daemon).await
    }

    /// The upstreams know this key, and maybe the one before it too; no other.
    pub(crate) fn accept(&self, key: usize, and_former: bool) {
        let all = keys();
        let mut known = vec![all[key].1];
        if and_former {
            known.push(all[(key + all.len() - 1) % all.len()].1);
        }
        for bedrock in &self.bedrocks {
            bedrock.set_bearer_tokens(known.iter().flatten().map(|token| (*token).to_owned()).collect());
            let pair = known.contains(&None).then(AwsKey::default_long_lived);
            bedrock.set_aws_keys(pair.into_iter().collect());
        }
    }

    /// Puts a key into the secret.
    pub(crate) fn put_key(&self, key: usize) {
        self.secrets.put(&keys()[key].0);
    }

    /// How many keys there are.
    pub(crate) fn keys(&self) -> usize {
        keys().len()
    }

    /// Waits until all sorts of requests are served, and returns how long that took.
    pub(crate) async fn recovered(&self, load: &Load, after: &str) -> Duration {
        let start = Instant::now();
        let (mut in_a_row, mut last) = (0, String::new());
        while in_a_row < 6 {
            match load.probe().await {
                Ok(_) => in_a_row += 1,
                Err(why) => (in_a_row, last) = (0, why),
            }
            if start.elapsed() > RECOVERY {
                let log = self.with_daemon(async |daemon| tail(daemon)).await;
                panic!("not served again within {RECOVERY:?} after {after}: {last}\n{log}");
            }
        }
        let now = Instant::now();
        self.spells.lock().unwrap().iter_mut().for_each(|spell| _ = spell.over.get_or_insert(now));
        start.elapsed()
    }

    /// Waits until the first upstream answers again: all breakers are closed.
    pub(crate) async fn first_upstream_serves(&self, load: &Load) {
        let start = Instant::now();
        while load.probe().await.as_deref() != Ok(REGIONS[0]) {
            assert!(start.elapsed() < RECOVERY, "the first upstream is not asked again");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// The same configuration for commands, and a stop in order.
    pub(crate) async fn stop(&self) -> Setup {
        let mut daemon = self.daemon.lock().await.take().unwrap();
        daemon.signal("TERM");
        assert_eq!(daemon.ended().await.code(), Some(0), "{}", daemon.log_text());
        self.setup()
    }
}

/// The end of its log, without the lines of requests.
pub(crate) fn tail(daemon: &Daemon) -> String {
    let log = daemon.log_text();
    let lines: Vec<&str> = log.lines().filter(|line| !line.contains("\"message\":\"request\"")).collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}

/// The bearer token of a caller.
pub(crate) fn token(caller: &str) -> String {
    format!("token-of-{caller}-0123456789abcdef0123456789abcdef")
}
