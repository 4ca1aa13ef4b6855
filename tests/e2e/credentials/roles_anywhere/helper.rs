//! The way that needs nothing of the daemon: a profile whose `credential_process` is AWS's aws_signing_helper.

use std::process::Command;

use rcgen::{KeyPair, PKCS_RSA_SHA256, RsaKeySize};
use simulator::Simulator;
use test_support::users::is_installed;
use test_support::*;

use super::{ANCHOR, Host, PROFILE, ROLE, served, sessions};

/// As docs/credentials.md shows it, to the simulator.
fn setup(host: &Host, bedrock: &Simulator, helper: &str) -> Setup {
    let config = host.directory.path().join("aws.conf");
    let process = format!(
        "{helper} credential-process --region us-east-1 --endpoint {} --certificate {} --private-key {} \
         --trust-anchor-arn {ANCHOR} --profile-arn {PROFILE} --role-arn {ROLE}",
        bedrock.plain_endpoint(),
        host.certificate().display(),
        host.key().display()
    );
    std::fs::write(&config, format!("[profile commercial]\ncredential_process = {process}\n")).unwrap();
    Setup::plain(bedrock)
        .credentials("[credentials]\nsource = \"profile\"\nprofile = \"commercial\"\n")
        .env("AWS_CONFIG_FILE", config.to_str().unwrap())
        .env("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
        .env("PATH", std::env::var("PATH").unwrap())
        .env("HOME", host.directory.path().to_str().unwrap())
}

/// With a key on P-256, and with an RSA key.
async fn gives_keys(helper: &str) {
    let bedrock = bedrock().await;
    let host = Host::new();
    let rsa = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap();
    host.let_in(&bedrock, 3600);
    for algorithm in ["ECDSA", "RSA"] {
        if algorithm == "RSA" {
            host.put(&host.authority.issue(&rsa, 2049), &rsa.serialize_pem());
        }
        bedrock.clear();
        let daemon = setup(&host, &bedrock, helper).ready().await;
        served(&daemon, &bedrock).await;
        let began = sessions(&bedrock);
        assert!(began.iter().all(|one| one.status == Some(201)), "{began:?}");
        let authorization = began[0].header("authorization").unwrap();
        assert!(authorization.starts_with(&format!("AWS4-X509-{algorithm}-SHA256 ")), "{authorization}");
        let left = metric(&daemon.metrics().await, "bedrock_sidecar_credential_expires_seconds").unwrap();
        assert!((3000.0..=3600.0).contains(&left), "{left}");
    }
}

#[tokio::test]
async fn a_signing_helper_gives_a_profile_its_keys() {
    const TEST: &str = "a_signing_helper_gives_a_profile_its_keys";
    for program in ["python3", "openssl"] {
        let version = Command::new(program).arg("version").output();
        if !is_installed(program) && !version.is_ok_and(|output| output.status.success()) {
            println!("NOT RUN: {TEST} ({program} is not installed)");
            return;
        }
    }
    gives_keys(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/e2e/credentials/roles_anywhere/signing_helper.py")).await;
}

#[ignore = "slow: builds AWS's helper"]
#[tokio::test]
async fn awss_own_signing_helper_gives_a_profile_its_keys() {
    const TEST: &str = "awss_own_signing_helper_gives_a_profile_its_keys";
    let install = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/signing_helper/install");
    let installed = tokio::task::spawn_blocking(move || Command::new(install).output().unwrap()).await.unwrap();
    if installed.status.code() == Some(3) {
        println!("NOT RUN: {TEST} ({})", String::from_utf8_lossy(&installed.stderr).trim());
        return;
    }
    assert!(installed.status.success(), "{}", String::from_utf8_lossy(&installed.stderr));
    gives_keys(String::from_utf8(installed.stdout).unwrap().trim()).await;
}
