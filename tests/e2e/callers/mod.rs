//! Who may call, from outside: the real Rust SDK, processes of other users, client certificates.

pub(crate) mod certificates;
mod identity;
mod policy;
pub(crate) mod proofs;
mod reload;
mod remote;
pub(crate) mod users;

use test_support::*;

pub(crate) const SECRET: &str = "localSecretThatOnlyTestsKnow0123456789ABC";
pub(crate) const TOKEN: &str = "a-token-that-only-these-tests-know";

pub(crate) const KEYED: &str = r#"
[[callers]]
name = "billing"
access_key_id = "LOCALBILLING"
secret_access_key_file = "{dir}/key"
[[callers]]
name = "reports"
bearer_token_file = "{dir}/token"
"#;

/// `{dir}` in `text` is a folder with the files `key` and `token`.
pub(crate) fn with_callers(setup: Setup, text: &str) -> Setup {
    let dir = setup.path().display().to_string();
    for (name, content) in [("key", SECRET), ("token", TOKEN)] {
        let path = setup.path().join(name);
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    }
    setup.with(&text.replace("{dir}", &dir))
}
