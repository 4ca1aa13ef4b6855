//! A file system of its own that is soon full.

use std::path::PathBuf;
use std::process::Command;

/// It goes when dropped.
#[derive(Debug)]
pub struct SmallDisk(pub PathBuf);

impl SmallDisk {
    /// None without the right to mount one.
    pub fn mount(path: PathBuf, size: &str) -> Option<SmallDisk> {
        std::fs::create_dir_all(&path).unwrap();
        let mut mount = Command::new("mount");
        let mounted = mount.args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]).arg(&path).status();
        mounted.is_ok_and(|status| status.success()).then_some(SmallDisk(path))
    }

    /// A file that takes all the room that is left.
    pub fn fill(&self) -> PathBuf {
        let ballast = self.0.join("ballast");
        let mut file = std::fs::File::create(&ballast).unwrap();
        let _ = std::io::copy(&mut std::io::Read::take(std::io::repeat(0), 100 << 20), &mut file);
        ballast
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}
