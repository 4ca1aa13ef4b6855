//! Other users of this host. Becoming one needs root and `setpriv`.

use std::process::{Command, Stdio};

/// Of this process.
pub fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Whether this process may become other users; where it may not, the test says that it was not run.
pub fn can_be_others(test: &str) -> bool {
    let able = own_uid() == 0 && is_installed("setpriv");
    if !able {
        println!("NOT RUN: {test} (needs root and setpriv)");
    }
    able
}

/// Whether a program is there.
pub fn is_installed(program: &str) -> bool {
    let version = Command::new(program).arg("--version").stdout(Stdio::null()).status();
    version.is_ok_and(|status| status.success())
}

/// A program as another user.
pub fn as_user(uid: u32, program: impl AsRef<std::ffi::OsStr>) -> Command {
    let uid = uid.to_string();
    let mut command = Command::new("setpriv");
    command.args(["--reuid", &uid, "--regid", &uid, "--clear-groups"]).arg(program);
    command
}

/// One test of this executable again, as another user. `test` is its full name, with its modules.
pub fn this_test_as(uid: u32, test: &str) -> Command {
    let mut command = as_user(uid, std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture"]).stdout(Stdio::piped());
    command
}
