//! The command line, its exit codes, the configuration's errors word for word, and the life of the process.

mod check_online;
mod configuration;
mod readiness;
mod signals;
mod usage;

use std::process::Output;

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
