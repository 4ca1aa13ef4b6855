//! A daemon without its process, for what cannot be brought about from outside.

use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

use super::front::Standing;
use super::*;

/// What a daemon is made of, and the folder in which its files are.
pub(super) struct Parts {
    pub folder: TempDir,
    pub settings: Settings,
    pub lasting: Arc<Lasting>,
    pub built: Built,
}

impl Parts {
    /// Nobody answers for Bedrock.
    pub(super) async fn new() -> Parts {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        let nobody = "http://127.0.0.1:1";
        let text = format!(
            "[listen]\naddresses = [\"127.0.0.1:0\"]\nadmin_address = \"127.0.0.1:0\"\nunix_socket = {:?}\n\
             [[upstreams]]\nregion = \"us-east-1\"\nruntime_endpoint = {nobody:?}\ncontrol_endpoint = {nobody:?}\n\
             [credentials]\nsource = \"file\"\nfile = {:?}\n[audit]\nstate_dir = {:?}\n",
            path("socket"),
            path("secret"),
            path("state")
        );
        std::fs::write(path("secret"), "ABSKb25l").unwrap();
        std::fs::write(path("config.toml"), text).unwrap();
        let settings = Settings::load(&PathBuf::from(path("config.toml"))).unwrap();
        let audit = Ledger::start(&settings.audit).await.unwrap();
        let limits = Limits::new(&settings.limits, SystemClock);
        let requests = Requests::new(requests::Bounds::of(64, 64));
        let lasting = Lasting::new(audit, limits, Arc::new(HostRole::unknown()), Arc::default(), requests);
        let lasting = Arc::new(lasting);
        let built = build(&settings, &lasting, None, Duration::from_secs(5)).await.unwrap();
        Parts { folder, settings, lasting, built }
    }
}

/// The file that is to be read again is a pipe that nobody writes into.
#[tokio::test]
async fn a_reload_that_is_not_ready_in_time_is_refused() {
    let Parts { folder, lasting, built, .. } = Parts::new().await;
    let config = folder.path().join("config.toml");
    let good = std::fs::read(&config).unwrap();
    std::fs::remove_file(&config).unwrap();
    assert!(Command::new("mkfifo").arg(&config).status().unwrap().success());
    let built = Arc::new(built);
    let prepare = |longest| reload::prepare(Arc::clone(&built), Arc::clone(&lasting), Standing::default(), longest);
    let refused = prepare(Duration::from_secs(1)).await.unwrap_err();
    assert_eq!(
        refused,
        "it was not ready to use after 1 s: check that the files it names, and what they are stored on, can be read"
    );
    // Whoever reads it still must come to an end, and the next reload is not held up by it.
    let writing = tokio::task::spawn_blocking(move || {
        std::fs::write(&config, &good).unwrap();
        std::fs::remove_file(&config).unwrap();
        std::fs::write(&config, &good).unwrap();
    });
    writing.await.unwrap();
    assert!(prepare(reload::LONGEST).await.is_ok());
}
