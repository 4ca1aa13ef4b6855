//! A configuration, and the directory that a daemon is started in.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use simulator::Simulator;
use tempfile::TempDir;

use crate::{Daemon, command, program};

/// A configuration that is being written, and the directory in which it will stand.
#[derive(Debug)]
pub struct Setup {
    /// Removed when dropped, unless a daemon has taken it.
    pub directory: TempDir,
    listen: String,
    upstreams: String,
    credentials: String,
    more: String,
    environment: BTreeMap<String, String>,
}

impl Setup {
    /// Any port, no upstream: for what never gets that far.
    pub fn alone() -> Setup {
        Setup::of("[[upstreams]]\nregion = \"us-east-1\"\nruntime_endpoint = \"http://127.0.0.1:1\"\ncontrol_endpoint = \"http://127.0.0.1:1\"\n".to_owned(), None)
    }

    /// The stand-in over TLS, with h2 if it offers it.
    pub fn tls(bedrock: &Simulator) -> Setup {
        Setup::several(&[(bedrock, "us-east-1")])
    }

    /// The stand-in over plain HTTP/1.1.
    pub fn plain(bedrock: &Simulator) -> Setup {
        Setup::of(upstream("us-east-1", &bedrock.plain_endpoint(), None), None)
    }

    /// The stand-in over TLS, and its mantle host, which is enabled.
    pub fn mantle(bedrock: &Simulator) -> Setup {
        let mut setup = Setup::tls(bedrock);
        setup.upstreams.push_str(&format!("mantle_endpoint = \"{}\"\n", bedrock.mantle_tls_endpoint()));
        setup.with("[mantle]\nenabled = true")
    }

    /// Several upstreams over TLS, in order.
    pub fn several(upstreams: &[(&Simulator, &str)]) -> Setup {
        let directory = tempfile::tempdir().unwrap();
        let mut text = String::new();
        for (at, (bedrock, region)) in upstreams.iter().enumerate() {
            let ca = directory.path().join(format!("ca-{at}.pem"));
            std::fs::write(&ca, bedrock.ca_pem()).unwrap();
            text.push_str(&upstream(region, &bedrock.tls_endpoint(), Some(&ca)));
        }
        Setup::of(text, Some(directory))
    }

    fn of(upstreams: String, directory: Option<TempDir>) -> Setup {
        let directory = directory.unwrap_or_else(|| tempfile::tempdir().unwrap());
        std::fs::write(directory.path().join("secret"), simulator::DEFAULT_BEARER_TOKEN).unwrap();
        let credentials =
            format!("[credentials]\nsource = \"file\"\nfile = \"{}\"\n", directory.path().join("secret").display());
        Setup {
            listen: "addresses = [\"127.0.0.1:0\"]\nadmin_address = \"127.0.0.1:0\"\n".to_owned(),
            upstreams,
            credentials,
            more: String::new(),
            environment: BTreeMap::new(),
            directory,
        }
    }

    /// Replaces what stands under `[listen]`.
    pub fn listen(mut self, keys: &str) -> Setup {
        keys.clone_into(&mut self.listen);
        self
    }

    /// Replaces the upstreams.
    pub fn upstreams(mut self, text: &str) -> Setup {
        text.clone_into(&mut self.upstreams);
        self
    }

    /// Replaces the section on credentials.
    pub fn credentials(mut self, section: &str) -> Setup {
        section.clone_into(&mut self.credentials);
        self
    }

    /// What the credentials file holds.
    pub fn secret(self, text: &str) -> Setup {
        std::fs::write(self.secret_path(), text).unwrap();
        self
    }

    /// One thread serves all clients, so that their requests share connections to the upstreams.
    pub fn one_thread(self) -> Setup {
        self.with("[runtime]\nthreads = 1\n")
    }

    /// Further sections.
    pub fn with(mut self, sections: &str) -> Setup {
        self.more.push_str(sections);
        self.more.push('\n');
        self
    }

    /// Lets this user create and delete inference profiles; `keys` stand under `[models]` too.
    pub fn managing_profiles(self, keys: &str) -> Setup {
        let user = crate::users::own_uid();
        self.with(&format!(
            "[models]\nallow_profile_management = true\n{keys}\n[[callers]]\nname = \"manager\"\nusers = [\"{user}\"]\n\
             operations = [\"*\", \"*InferenceProfile\"]"
        ))
    }

    /// A variable of the environment.
    pub fn env(mut self, name: &str, value: impl AsRef<str>) -> Setup {
        self.environment.insert(name.to_owned(), value.as_ref().to_owned());
        self
    }

    /// Several variables.
    pub fn environment(mut self, variables: impl IntoIterator<Item = (&'static str, String)>) -> Setup {
        self.environment.extend(variables.into_iter().map(|(name, value)| (name.to_owned(), value)));
        self
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// The file that holds the commercial credential.
    pub fn secret_path(&self) -> PathBuf {
        self.path().join("secret")
    }

    /// The configuration as it stands now.
    pub fn text(&self) -> String {
        format!("[listen]\n{}\n{}\n{}\n{}", self.listen, self.upstreams, self.credentials, self.more)
    }

    /// Writes the file, for commands that end by themselves.
    pub fn write(&self) -> String {
        let path = self.path().join("config.toml");
        std::fs::write(&path, self.text()).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// `bedrock-sidecar WORDS --config …` with this configuration and environment.
    pub async fn command(&self, words: &[&str]) -> Output {
        let path = self.write();
        let arguments: Vec<&str> = words.iter().copied().chain(["--config", &path]).collect();
        let environment: Vec<(&str, &str)> =
            self.environment.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        command(&arguments, &environment).await
    }

    /// Starts the daemon; it listens when this returns.
    pub async fn start(self) -> Daemon {
        let config = self.write();
        let mut program = program();
        program.args(["run", "--config", &config]);
        Daemon::spawn(program, self.environment, self.directory).await
    }

    /// Starts the daemon with these two sockets, as a service manager passes them: `names` as in LISTEN_FDNAMES. It
    /// listens when this returns.
    pub async fn start_with_sockets(self, sockets: [OwnedFd; 2], names: &str) -> Daemon {
        let program = self.command_with_sockets(sockets, names);
        Daemon::spawn_with_files(program, self.environment, self.directory).await
    }

    /// What `start_with_sockets` starts.
    pub fn command_with_sockets(&self, sockets: [OwnedFd; 2], names: &str) -> Command {
        let mut shell = Command::new("bash");
        let [first, second] = sockets;
        // The process keeps its id when it becomes the daemon.
        let exec = "exec 3<&0 4<&1 0</dev/null 1>/dev/null; export LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES=$2; \
                    exec \"$0\" run --config \"$1\"";
        shell.args(["-c", exec]).arg(program().get_program()).arg(self.write()).arg(names);
        shell.stdin(Stdio::from(first)).stdout(Stdio::from(second));
        shell
    }

    /// Starts the daemon; it can serve when this returns.
    pub async fn ready(self) -> Daemon {
        let daemon = self.start().await;
        daemon.until_ready().await;
        daemon
    }
}

/// `[[upstreams]]` with both planes on one endpoint.
pub fn upstream(region: &str, endpoint: &str, ca: Option<&Path>) -> String {
    let ca = ca.map(|ca| format!("ca_file = \"{}\"\n", ca.display())).unwrap_or_default();
    format!(
        "[[upstreams]]\nregion = \"{region}\"\nruntime_endpoint = \"{endpoint}\"\ncontrol_endpoint = \"{endpoint}\"\n{ca}"
    )
}
