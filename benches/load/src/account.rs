//! What processes have used so far, as the kernel accounts it, and the memory they have.

use std::path::Path;

use serde_json::{Value, json};

use crate::Error;

/// The kernel shows times in hundredths of a second to every program.
const TICKS_PER_SECOND: f64 = 100.0;

/// Processor time, context switches and resident memory of several processes together.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Account {
    /// Microseconds in user space.
    user: f64,
    /// Microseconds in the kernel.
    system: f64,
    switches: f64,
    /// KiB.
    pub(crate) resident: u64,
    /// The most that was resident since each began, in KiB.
    pub(crate) peak: u64,
}

impl Account {
    /// Of these processes now.
    pub(crate) fn of(processes: &[u32]) -> Result<Account, Error> {
        let mut account = Account::default();
        for process in processes {
            let home = Path::new("/proc").join(process.to_string());
            let stat = std::fs::read_to_string(home.join("stat"))?;
            // The name in parentheses may contain spaces; state is the first field after it, user time the twelfth.
            let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
            let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok());
            let (Some(user), Some(system)) = (ticks(11), ticks(12)) else { return Err("no times in stat".into()) };
            account.user += user * 1e6 / TICKS_PER_SECOND;
            account.system += system * 1e6 / TICKS_PER_SECOND;
            account.resident += status(&home.join("status"), &["VmRSS:"])?;
            account.peak += status(&home.join("status"), &["VmHWM:"])?;
            for task in std::fs::read_dir(home.join("task"))? {
                // A thread may end meanwhile.
                let names = ["voluntary_ctxt_switches:", "nonvoluntary_ctxt_switches:"];
                account.switches +=
                    f64::from(u32::try_from(status(&task?.path().join("status"), &names).unwrap_or(0))?);
            }
        }
        Ok(account)
    }

    /// What each of `count` things has cost since `before`.
    pub(crate) fn each_since(&self, before: &Account, count: f64) -> Value {
        json!({
            "cpu_us": (self.user + self.system - before.user - before.system) / count,
            "kernel_us": (self.system - before.system) / count,
            "switches": (self.switches - before.switches) / count,
        })
    }
}

/// The sum of the numbers on the lines that begin with these names.
fn status(file: &Path, names: &[&str]) -> Result<u64, Error> {
    let text = std::fs::read_to_string(file)?;
    let mut sum = 0;
    for name in names {
        let line = text.lines().find_map(|line| line.strip_prefix(name)).ok_or("a line of status is missing")?;
        sum += line.split_whitespace().next().unwrap_or_default().parse::<u64>()?;
    }
    Ok(sum)
}
