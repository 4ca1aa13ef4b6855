use std::os::unix::fs::PermissionsExt;

use crate::settings::Settings;

/// Loads a configuration beside the files `secret` (mode 0600), `open` (0644), `short`, `empty` and `lines`.
fn load(text: &str) -> Result<Settings, String> {
    let dir = tempfile::tempdir().unwrap();
    let secret = "localSecretThatOnlyTestsKnow";
    for (name, content, mode) in [
        ("secret", format!("{secret}\r\n"), 0o600),
        ("other", format!("{secret}Too"), 0o600),
        ("open", secret.to_owned(), 0o644),
        ("short", "short".to_owned(), 0o600),
        ("empty", "\n".to_owned(), 0o600),
        ("lines", format!("{secret}\n{secret}"), 0o600),
    ] {
        std::fs::write(dir.path().join(name), content).unwrap();
        std::fs::set_permissions(dir.path().join(name), std::fs::Permissions::from_mode(mode)).unwrap();
    }
    let path = dir.path().join("config.toml");
    std::fs::write(&path, text.replace("{dir}", dir.path().to_str().unwrap())).unwrap();
    Settings::load(&path).map_err(|error| error.to_string().replace(dir.path().to_str().unwrap(), "{dir}"))
}

#[test]
fn access_key_ids_are_of_visible_characters_that_separate_nothing() {
    for byte in 0..128_u8 {
        let is_one = byte.is_ascii_graphic() && !b"/,=\"".contains(&byte);
        assert_eq!(super::is_access_key_id(&format!("AKIA{}", char::from(byte))), is_one, "{byte}");
    }
    assert!(!super::is_access_key_id("") && !super::is_access_key_id("AKI\u{c4}"));
    assert!(super::is_access_key_id(&"a".repeat(128)) && !super::is_access_key_id(&"a".repeat(129)));
}

const KEY: &str = "access_key_id = \"LOCAL\"\nsecret_access_key_file = \"{dir}/secret\"\n";

#[test]
fn errors_name_their_place_and_what_to_do() {
    let entry = "[[callers]]\nname = \"a\"\n";
    for (text, expected) in [
        (
            format!("{entry}users = [\"nobody-of-that-name\"]"),
            "3:10: this host has no user \"nobody-of-that-name\" in /etc/passwd; create it, or give the number if a directory service knows it.",
        ),
        (
            format!("{entry}groups = [\"0\", \"no-such\"]"),
            "3:16: this host has no group \"no-such\" in /etc/group; create it, or give the number if a directory service knows it.",
        ),
        (
            entry.to_owned(),
            "1:1: nobody can be the caller \"a\"; give users, groups, access_key_id, bearer_token_file, certificate_names or host_role.",
        ),
        (format!("{entry}access_key_id = \"LOCAL\""), "3:17: access_key_id needs secret_access_key_file beside it."),
        (
            format!("{entry}access_key_id = \"LO/CAL\"\nsecret_access_key_file = \"{{dir}}/secret\""),
            "3:17: an access_key_id has 1 to 128 visible characters, without \"/\", \",\" or \"=\"; for example \"LOCALBILLING\".",
        ),
        (
            format!("{entry}bearer_token_file = \"{{dir}}/empty\""),
            "3:21: the secret {dir}/empty cannot be used: it must be one line of 1 to 4096 visible ASCII characters, without spaces.",
        ),
        (
            format!("{entry}bearer_token_file = \"{{dir}}/lines\""),
            "3:21: the secret {dir}/lines cannot be used: it must be one line of 1 to 4096 visible ASCII characters, without spaces.",
        ),
        (
            format!("{entry}bearer_token_file = \"{{dir}}/none\""),
            "3:21: the secret {dir}/none cannot be used: No such file or directory (os error 2).",
        ),
        (
            format!("{entry}{KEY}[[callers]]\nname = \"b\"\n{KEY}"),
            "7:17: two callers have the access_key_id \"LOCAL\".",
        ),
        (
            format!(
                "{entry}bearer_token_file = \"{{dir}}/secret\"\n[[callers]]\nname = \"b\"\nbearer_token_file = \"{{dir}}/open\""
            ),
            "6:21: the callers \"a\" and \"b\" have the same bearer token.",
        ),
        (format!("{entry}users = [\"0\"]\n{entry}users = [\"1\"]"), "5:8: two callers are named \"a\"."),
        (
            format!("{entry}users = [\"0\"]\nusd_per_day = -1.0"),
            "4:15: -1 is not an amount of US dollars; write a number from 0 to 1000000000",
        ),
        (
            format!(
                "[policy]\ndata_classifications = [\"low\", \"high\"]\n{entry}users = [\"0\"]\ndata_classification = \"top\""
            ),
            "6:23: data classification \"top\" is not one of policy.data_classifications (\"low\", \"high\"); add it there or choose one of them.",
        ),
        (
            "[policy]\ndata_classifications = [\"low\", \"low\"]".to_owned(),
            "2:32: data classification \"low\" is named twice.",
        ),
    ] {
        assert_eq!(load(&text).map(|_| ()), Err(format!("{{dir}}/config.toml:{expected}")), "{text}");
    }
}

#[test]
fn unknown_keys_are_refused_with_their_line() {
    let error = load("[[callers]]\nname = \"a\"\nuser = [\"root\"]\n").unwrap_err();
    assert!(error.starts_with("{dir}/config.toml:3:1: unknown field `user`"), "{error}");
    let error = load("[[callers]]\nname = \"a\"\nusers = [\"root\"]\nrequests_per_minute = 0\n").unwrap_err();
    assert!(error.starts_with("{dir}/config.toml:4:23: "), "{error}");
}

#[test]
fn an_entry_means_what_it_says() {
    let settings = load(&format!(
        "[[callers]]\nname = \"a\"\nusers = [\"root\", \"1007\"]\ngroups = [\"root\"]\n{KEY}bearer_token_file = \"{{dir}}/other\"\nrequests_per_minute = 60\nmax_wait = \"2s\"\nmodels = [\"anthropic.*\"]\n"
    ))
    .unwrap();
    let entry = &settings.callers.entries[0];
    assert_eq!((entry.users.as_slice(), entry.groups.as_slice()), ([0, 1007].as_slice(), [0].as_slice()));
    let key = entry.key.as_ref().unwrap();
    assert_eq!((key.access_key_id.as_str(), key.secret.expose()), ("LOCAL", "localSecretThatOnlyTestsKnow"));
    assert_eq!(entry.limits.requests_per_minute, Some(60));
    assert_eq!(entry.models.as_ref().map(|rule| rule.place.to_string()).as_deref(), Some("config.toml:10"));
    assert!(settings.callers.warnings.is_empty());
    assert!(!format!("{settings:?}").contains("localSecret"));
}

#[test]
fn a_short_secret_is_worth_a_warning() {
    let settings = load("[[callers]]\nname = \"a\"\nbearer_token_file = \"{dir}/short\"\n").unwrap();
    assert!(settings.callers.warnings[0].contains("has only 5 characters"), "{:?}", settings.callers.warnings);
}

#[test]
fn a_secret_that_everybody_can_read_is_worth_a_warning() {
    let settings = load("[[callers]]\nname = \"a\"\nbearer_token_file = \"{dir}/open\"\n").unwrap();
    assert_eq!(settings.callers.warnings.len(), 1);
    assert!(settings.callers.warnings[0].contains("mode 644"), "{:?}", settings.callers.warnings);
}

#[test]
fn without_policy_anybody_may_call() {
    let settings = load("[policy]\nrequire_known_caller = false\n").unwrap();
    assert!(settings.policy.require_known_caller.is_none());
    assert_eq!(settings.models.allow.place.to_string(), "config.toml");
}
