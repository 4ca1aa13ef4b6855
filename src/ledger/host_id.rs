//! The name under which this host's records stand in the fleet's table.

use std::path::Path;

use aws_lc_rs::digest;

use crate::hexadecimal::hexadecimal;

/// The EC2 instance id where the machine tells it without a question to the network; else the host's name and eight
/// digits drawn from its machine-id, so that clones with one name stay apart.
pub(crate) fn host_id() -> String {
    from(Path::new("/"))
}

fn from(root: &Path) -> String {
    let read = |path: &str| std::fs::read_to_string(root.join(path)).ok().map(|text| text.trim().to_owned());
    // Nitro shows the instance id as the board's asset tag; cloud-init keeps it on every kind of instance.
    let instance =
        ["sys/class/dmi/id/board_asset_tag", "var/lib/cloud/data/instance-id", "run/cloud-init/.instance-id"]
            .iter()
            .filter_map(|path| read(path))
            .find(|id| is_instance_id(id));
    if let Some(instance) = instance {
        return instance;
    }
    let name = read("proc/sys/kernel/hostname").filter(|name| !name.is_empty()).unwrap_or_else(|| "localhost".into());
    match read("etc/machine-id").filter(|id| !id.is_empty()) {
        // machine-id(5) asks not to show the number itself.
        Some(machine) => {
            let hash = digest::digest(&digest::SHA256, format!("bedrock-sidecar {machine}").as_bytes());
            format!("{name}-{}", hexadecimal(&hash.as_ref()[..4]))
        }
        None => name,
    }
}

fn is_instance_id(text: &str) -> bool {
    text.strip_prefix("i-")
        .is_some_and(|digits| matches!(digits.len(), 8 | 17) && digits.bytes().all(|b| b.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instances_say_their_id_and_others_a_name_that_clones_do_not_share() {
        let root = tempfile::tempdir().unwrap();
        let put = |path: &str, text: &str| {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        assert_eq!(from(root.path()), "localhost");
        put("proc/sys/kernel/hostname", "web-1\n");
        put("etc/machine-id", "0123456789abcdef0123456789abcdef\n");
        let first = from(root.path());
        assert!(first.starts_with("web-1-") && first.len() == "web-1-".len() + 8, "{first}");
        put("etc/machine-id", "fedcba9876543210fedcba9876543210\n");
        assert_ne!(from(root.path()), first);
        put("var/lib/cloud/data/instance-id", "iid-datasource-none\n");
        assert!(from(root.path()).starts_with("web-1-"));
        put("sys/class/dmi/id/board_asset_tag", "i-0123456789abcdef0\n");
        assert_eq!(from(root.path()), "i-0123456789abcdef0");
    }
}
