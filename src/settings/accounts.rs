//! The host's users and groups, read from `/etc/passwd` and `/etc/group`.
//!
//! Parsed here rather than asked of the C library: `getgrouplist` may wait for a directory server (NSS), and a static
//! answer is wanted in the middle of a request. Users that only NSS knows are therefore given by number.

use std::collections::HashMap;
use std::path::Path;

/// What the two files say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Accounts {
    users: HashMap<String, u32>,
    groups: HashMap<String, u32>,
    /// uid to gids, the primary group first.
    memberships: HashMap<u32, Vec<u32>>,
}

impl Accounts {
    /// Reads this host's files. A file that cannot be read (a scratch container has none) counts as empty.
    pub(crate) fn read() -> Accounts {
        Accounts::read_from(Path::new("/etc/passwd"), Path::new("/etc/group"))
    }

    pub(crate) fn read_from(passwd: &Path, group: &Path) -> Accounts {
        let text = |path| std::fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        Accounts::parse(&text(passwd).unwrap_or_default(), &text(group).unwrap_or_default())
    }

    /// Lines that are not of the format of passwd(5) and group(5) are passed over, as the C library does.
    pub(crate) fn parse(passwd: &str, group: &str) -> Accounts {
        let mut accounts = Accounts::default();
        for line in passwd.lines() {
            let fields: Vec<&str> = line.split(':').collect();
            let [name, _, uid, gid, ..] = fields[..] else { continue };
            let (Ok(uid), Ok(gid)) = (uid.parse(), gid.parse()) else { continue };
            accounts.users.entry(name.to_owned()).or_insert(uid);
            accounts.join(uid, gid);
        }
        for line in group.lines() {
            let fields: Vec<&str> = line.split(':').collect();
            let [name, _, gid, members] = fields[..] else { continue };
            let Ok(gid) = gid.parse() else { continue };
            accounts.groups.entry(name.to_owned()).or_insert(gid);
            for member in members.split(',').map(str::trim) {
                if let Some(&uid) = accounts.users.get(member) {
                    accounts.join(uid, gid);
                }
            }
        }
        accounts
    }

    /// The uid of a name; a number stands for itself.
    pub(crate) fn uid(&self, user: &str) -> Option<u32> {
        self.users.get(user).copied().or_else(|| number(user))
    }

    /// The gid of a name; a number stands for itself.
    pub(crate) fn gid(&self, group: &str) -> Option<u32> {
        self.groups.get(group).copied().or_else(|| number(group))
    }

    /// The groups of a user; none for a user that the files do not list.
    pub(crate) fn groups_of(&self, uid: u32) -> &[u32] {
        self.memberships.get(&uid).map_or(&[], Vec::as_slice)
    }

    fn join(&mut self, uid: u32, gid: u32) {
        let groups = self.memberships.entry(uid).or_default();
        if !groups.contains(&gid) {
            groups.push(gid);
        }
    }
}

/// `u32::MAX` is the kernel's "no user".
fn number(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|id| digits && *id != u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str =
        "root:x:0:0:root:/root:/bin/sh\nbilling:x:1007:1007::/:/bin/false\nbroken:x:y:z\n\n+nis::::::\n";
    const GROUP: &str = "root:x:0:\nbilling:x:1007:\nai:x:2000:billing,nobody-known\nodd:x\nwheel:*:10: billing\n";

    #[test]
    fn names_and_numbers_are_found() {
        let accounts = Accounts::parse(PASSWD, GROUP);
        assert_eq!(accounts.uid("billing"), Some(1007));
        assert_eq!(accounts.uid("4242"), Some(4242));
        assert_eq!(accounts.gid("ai"), Some(2000));
        for wrong in ["broken", "", "-1", "+5", "4294967295", "99999999999"] {
            assert_eq!(accounts.uid(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_user_has_the_primary_and_the_listed_groups() {
        let accounts = Accounts::parse(PASSWD, GROUP);
        assert_eq!(accounts.groups_of(1007), [1007, 2000, 10]);
        assert!(accounts.groups_of(4242).is_empty());
    }
}
