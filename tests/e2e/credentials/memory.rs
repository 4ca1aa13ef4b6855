//! The key is in the daemon's memory, where no other process may look.

use std::os::unix::fs::{PermissionsExt, chown};
use std::process::Command;

use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use test_support::users::{as_user, can_be_others, is_installed, this_test_as};
use test_support::*;

/// Of the daemon, and of somebody else.
const DAEMON: u32 = 61_031;
const OTHER: u32 = 61_032;

/// A daemon that runs as [`DAEMON`].
async fn daemon_of_its_own_user(bedrock: &simulator::Simulator, section: &str) -> Daemon {
    let setup = Setup::plain(bedrock).with(section);
    std::fs::set_permissions(setup.secret_path(), std::fs::Permissions::from_mode(0o600)).unwrap();
    let config = setup.write();
    let state = setup.path().join("state");
    std::fs::create_dir(&state).unwrap();
    for path in [setup.path(), &setup.secret_path(), std::path::Path::new(&config), &state] {
        chown(path, Some(DAEMON), Some(DAEMON)).unwrap();
    }
    let mut program = as_user(DAEMON, program().get_program());
    program.args(["run", "--config", &config]);
    let environment = [("CANARY_OF_THE_ENVIRONMENT".to_owned(), "x".to_owned())].into();
    let daemon = Daemon::spawn(program, environment, setup.directory).await;
    daemon.until_ready().await;
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    assert!(status.contains(&format!("Uid:\t{DAEMON}\t{DAEMON}\t{DAEMON}")), "{status}");
    daemon
}

/// What a user could look at: `name yes` or `name no`, a line each.
fn seen_by(uid: u32, pid: u32) -> Vec<String> {
    let mut command = this_test_as(uid, "credentials::memory::another_process");
    let output = command.env("E2E_PID", pid.to_string()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let seen: Vec<String> = text.lines().filter_map(|line| Some(line.split_once("look ")?.1.to_owned())).collect();
    assert_eq!(seen.len(), 6, "{text}");
    seen
}

/// Not a test of its own: who looks, in that below.
#[test]
fn another_process() {
    let Ok(pid) = std::env::var("E2E_PID") else { return };
    let file = |name: &str| std::fs::read(format!("/proc/{pid}/{name}")).is_ok_and(|bytes| !bytes.is_empty());
    let number = Pid::from_raw(pid.parse().unwrap()).unwrap();
    // Asks for what PTRACE_ATTACH asks for.
    let takes_a_descriptor = pidfd_open(number, PidfdFlags::empty())
        .and_then(|process| pidfd_getfd(process, 2, PidfdGetfdFlags::empty()))
        .is_ok();
    for (name, seen) in [
        ("environ", file("environ")),
        ("maps", file("maps")),
        ("mem", std::fs::File::open(format!("/proc/{pid}/mem")).is_ok()),
        ("fd", std::fs::read_dir(format!("/proc/{pid}/fd")).is_ok()),
        ("cwd", std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok()),
        ("descriptor", takes_a_descriptor),
    ] {
        println!("look {name} {}", if seen { "yes" } else { "no" });
    }
}

/// Another user sees nothing, and neither does another process of the daemon's own user.
#[tokio::test]
async fn no_other_user_and_no_process_of_its_own_user_sees_the_daemons_memory() {
    const TEST: &str = "no_other_user_and_no_process_of_its_own_user_sees_the_daemons_memory";
    if !can_be_others(TEST) {
        return;
    }
    let bedrock = bedrock().await;
    let daemon = daemon_of_its_own_user(&bedrock, "").await;
    for uid in [OTHER, DAEMON] {
        for seen in seen_by(uid, daemon.pid()) {
            assert!(seen.ends_with(" no"), "user {uid}: {seen}");
        }
        if is_installed("strace") {
            let pid = daemon.pid().to_string();
            let output = as_user(uid, "strace").args(["-o", "/dev/null", "-p", &pid]).output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(!output.status.success() && said.contains("Operation not permitted"), "user {uid}: {said}");
        } else {
            println!("NOT RUN: {TEST}: ptrace itself (strace is not installed)");
        }
    }
    let owner = Command::new("stat").args(["-c", "%u", &format!("/proc/{}/environ", daemon.pid())]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&owner.stdout).trim(), "0", "it belongs to root");
    let answer = daemon.post(&converse_path(ON_DEMAND), converse("hello")).await;
    assert_eq!(answer.status, 200);
    assert_eq!(daemon.record_of(&answer).await["outcome"], "completed");

    // What the same look finds where the admin has allowed it, so that it is known to find something.
    let debugged = daemon_of_its_own_user(&bedrock, "[process]\ncore_dumps = true").await;
    let seen = seen_by(DAEMON, debugged.pid());
    for name in ["environ", "maps", "fd", "cwd"] {
        assert!(seen.contains(&format!("{name} yes")), "{seen:?}");
    }
    assert!(seen_by(OTHER, debugged.pid()).iter().all(|seen| seen.ends_with(" no")));
}
