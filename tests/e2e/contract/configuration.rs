//! The configuration's errors, word for word.

use test_support::*;
use tokio::net::TcpListener;

use super::{stderr, stdout};

/// Runs `check` on a file with this text; the complaint comes back without the file's path.
async fn complaint(text: &str) -> String {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.toml");
    std::fs::write(&path, text).unwrap();
    let path = path.to_str().unwrap();
    let output = command(&["check", "--config", path], &[]).await;
    let complaint = stderr(&output);
    assert_eq!(output.status.code(), Some(78), "{text}\n{complaint}");
    assert_eq!(stdout(&output), "", "{text}");
    assert_eq!(complaint.trim_end().lines().count(), 1, "one line: {complaint}");
    let place = complaint.strip_prefix(path).unwrap_or_else(|| panic!("no path first: {complaint}"));
    place.strip_prefix(':').unwrap().trim_end().to_owned()
}

#[tokio::test]
async fn configuration_errors_name_their_place_and_what_to_write() {
    for (text, expected) in [
        (
            "[listen]\naddresses = [\"127.0.0.1\"]",
            "2:14: \"127.0.0.1\" is not an IP address and a port; write for example \"127.0.0.1:8790\" or \"[::1]:8790\"",
        ),
        (
            "[listen]\naddresses = [\n  \"127.0.0.1:0\",\n  \"0.0.0.0:8790\",\n]",
            "4:3: 0.0.0.0:8790 can be reached from other hosts; use a loopback address such as 127.0.0.1, or [listen.tls] with client certificates",
        ),
        (
            "[listen]\nadmin_address = \"10.0.0.1:1\"",
            "2:17: 10.0.0.1:1 can be reached from other hosts; use a loopback address such as 127.0.0.1, or [listen.tls] with client certificates",
        ),
        ("[listen]\naddresses = []", "2:13: nothing would listen; name at least one address or a unix_socket."),
        (
            "[listen]\naddresses = [\"127.0.0.1:8791\"]",
            "2:13: 127.0.0.1:8791 is named twice; give every listener, the admin address included, a port of its own.",
        ),
        ("[listen]\nmax_connections = 0", "2:19: invalid value: integer `0`, expected a whole number of 1 or more"),
        (
            "[listen]\nadress = \"127.0.0.1:1\"",
            "2:1: unknown field `adress`, expected one of `addresses`, `unix_socket`, `admin_address`, `max_connections`",
        ),
        (
            "[nonsense]\n",
            "1:2: unknown field `nonsense`, expected one of `listen`, `upstreams`, `upstreams_policy`, `upstream_timeouts`, `credentials`, `models`",
        ),
        (
            "[[upstreams]]\nregion = \"us-gov-west-1\"\npartition = \"aws\"",
            "3:13: us-gov-west-1 is in the partition aws-us-gov; write that, or leave partition out.",
        ),
        (
            "[[upstreams]]\nregion = \"cn-north-1\"",
            "2:10: cn-north-1 is neither in the commercial partition nor in GovCloud; upstreams are regions such as \"us-east-1\" or \"us-gov-west-1\".",
        ),
        (
            "[[upstreams]]\nregion = \"US East\"",
            "2:10: \"US East\" is not an AWS region; write for example \"us-east-1\".",
        ),
        (
            "[[upstreams]]\nregion = \"eu-west-1\"\nfips = true",
            "2:10: Bedrock has no FIPS host in eu-west-1; choose one of us-east-1, us-east-2, us-west-2, ca-central-1 or set fips = false.",
        ),
        ("[[upstreams]]\nfips = true", "1:1: missing field `region`"),
        ("upstreams = []", "1:13: the list of upstreams is empty; name one region or leave it out."),
        (
            "[[upstreams]]\nregion = \"us-east-1\"\n[[upstreams]]\nregion = \"us-east-1\"",
            "3:1: region us-east-1 is named twice with the same endpoint.",
        ),
        (
            "[[upstreams]]\nregion = \"us-east-1\"\nruntime_endpoint = \"http://example.com\"",
            "3:20: \"http://example.com\" is not an endpoint: plain http is allowed to loopback only, because the request carries a key",
        ),
        (
            "[[upstreams]]\nregion = \"us-east-1\"\nruntime_endpoint = \"https://a/b\"",
            "3:20: \"https://a/b\" is not an endpoint: leave out path and query, they come from the request",
        ),
        (
            "[[upstreams]]\nregion = \"us-east-1\"\ncontrol_endpoint = \"https://u:p@a\"",
            "3:20: \"https://u:p@a\" is not an endpoint: credentials do not belong into a URL",
        ),
        (
            "[[upstreams]]\nregion = \"us-east-1\"\nca_file = \"/nowhere/ca.pem\"",
            "3:11: the CA file /nowhere/ca.pem cannot be used: ",
        ),
        (
            "[upstream_timeouts]\nconnect = \"5\"",
            "2:11: \"5\" is not a duration; write a number above 0 and a unit, such as \"30s\", \"5m\", \"12h\" or \"30d\"",
        ),
        (
            "[upstream_timeouts]\nidle = 5",
            "2:8: invalid type: integer `5`, expected a duration such as \"30s\", \"5m\" or \"30d\"",
        ),
        (
            "[drain]\ntimeout = \"0s\"",
            "2:11: \"0s\" is not a duration; write a number above 0 and a unit, such as \"30s\", \"5m\", \"12h\" or \"30d\"",
        ),
        (
            "[credentials]\nsource = \"vault\"",
            "2:10: unknown variant `vault`, expected one of `secrets_manager`, `environment`, `file`, `profile`",
        ),
        ("[credentials]\nrefresh_interval = \"5m\"", "1:1: missing field `source`"),
        (
            "[credentials]\nsource = \"secrets_manager\"",
            "1:1: source = \"secrets_manager\" needs secret_id beside it in [credentials].",
        ),
        ("[credentials]\nsource = \"file\"", "1:1: source = \"file\" needs file beside it in [credentials]."),
        ("[credentials]\nsource = \"profile\"", "1:1: source = \"profile\" needs profile beside it in [credentials]."),
        (
            "[credentials]\nsource = \"environment\"\nprofile = \"x\"",
            "1:1: profile has no meaning with source = \"environment\"; remove it from [credentials].",
        ),
        (
            "[credentials]\nsource = \"secrets_manager\"\nsecret_id = \"x\"\nregion = \"gov\"",
            "4:10: \"gov\" is not an AWS region; write for example \"us-gov-west-1\".",
        ),
        (
            "[credentials]\nsource = \"file\"\nfile = \"$NOT_SET/x\"",
            "3:8: \"$NOT_SET/x\" names the environment variable NOT_SET, which is not set; systemd sets CREDENTIALS_DIRECTORY for a unit with LoadCredential=",
        ),
        (
            "[models]\nallow = [\"\"]",
            "2:10: an empty pattern matches nothing; write \"*\" for every model or leave it out",
        ),
        (
            "[models]\ngeographies = [\"us.\"]",
            "2:16: \"us.\" is not the prefix of inference profiles; write for example \"us\", \"eu\" or \"global\", without a dot.",
        ),
        (
            "[models]\ngeographies = [\"us\", \"us-gov\"]",
            "2:22: us-gov profiles belong to GovCloud; commercial Bedrock has none of them.",
        ),
        ("[models.aliases]\n\"a\" = \"x y\"", "2:7: \"x y\" is not a model or profile identifier."),
        ("[models.aliases]\n\"a\" = \"\"", "2:7: an alias and what it stands for cannot be empty."),
        ("[limits]\nmax_body_bytes = 0", "2:18: invalid value: integer `0`, expected a whole number of 1 or more"),
        (
            "[limits]\nmax_buffered_bytes = 49999999",
            "2:22: max_buffered_bytes must be twice max_body_bytes or more (here 50000000): one user's bodies may take half of what others leave.",
        ),
        ("[log]\nformat = \"xml\"", "2:10: unknown variant `xml`, expected one of `json`, `text`, `journald`"),
        (
            "[admin]\ngroups = [\"wheel\", \"a group\"]",
            "2:20: write the name of a group of this host, as /etc/group has it.",
        ),
        ("[log]\nlevel = 3", "2:9: "),
        ("[audit]\non_failure = \"ignore\"", "2:14: unknown variant `ignore`, expected `deny` or `allow`"),
        (
            "[audit]\ntable = 7",
            "2:9: invalid type: integer `7`, expected a text in quotes; write for example table = \"…\"",
        ),
        ("[listen\naddresses", "1:8: "),
        ("listen = 1", "1:10: invalid type: integer `1`, expected a table; write [listen] above its keys"),
        ("[log]\nlevel = \"info\"\nlevel = \"info\"", "3:1: duplicate key"),
    ] {
        let complaint = complaint(text).await;
        assert!(complaint.starts_with(expected), "{text}\n   is: {complaint}\nnot: {expected}");
    }
}

#[tokio::test]
async fn an_unreadable_file_is_a_configuration_error() {
    for path in ["/nowhere/config.toml", "/tmp"] {
        let output = command(&["run", "--config", path], &[]).await;
        assert_eq!(output.status.code(), Some(78));
        assert!(
            stderr(&output).starts_with(&format!("{path}:1:1: the configuration cannot be read: ")),
            "{}",
            stderr(&output)
        );
    }
}

#[tokio::test]
async fn nothing_is_bound_or_contacted_before_the_whole_file_is_good() {
    let bedrock = bedrock().await;
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    for words in [&["run"][..], &["check", "--online"], &["models"], &["env"]] {
        let setup = Setup::plain(&bedrock)
            .listen(&format!("addresses = [\"{}\"]\nadmin_address = \"127.0.0.1:0\"\n", taken.local_addr().unwrap()))
            .with("[log]\nlevel = \"loud\"");
        let output = setup.command(words).await;
        assert_eq!(output.status.code(), Some(78), "{words:?}: not 1, for a port that is taken: {}", stderr(&output));
        assert!(stderr(&output).contains("unknown variant `loud`"));
    }
    assert_eq!(bedrock.requests().len(), 0);
}

#[tokio::test]
async fn without_a_file_the_built_in_defaults_hold_and_are_announced() {
    let check = command(&["check"], &[]).await;
    assert_eq!(check.status.code(), Some(0), "{}", stderr(&check));
    assert!(stdout(&check).starts_with("ok    configuration: built-in defaults\n"), "{}", stdout(&check));
    assert!(stdout(&check).contains("info  FIPS module: AWS-LC "));
    let env = command(&["env"], &[]).await;
    let begins = "export AWS_ENDPOINT_URL_BEDROCK_RUNTIME=http://127.0.0.1:8790\nexport AWS_ENDPOINT_URL_BEDROCK=http://127.0.0.1:8790\nexport ANTHROPIC_BEDROCK_BASE_URL=http://127.0.0.1:8790\n";
    assert!(stdout(&env).starts_with(begins), "{}", stdout(&env));
}

/// A fresh install must not listen before somebody has said where the commercial credential is.
#[tokio::test]
async fn the_shipped_example_says_what_to_edit_and_is_fine_afterwards() {
    let example = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/config.example.toml")).unwrap();
    let setup = Setup::alone();
    let path = setup.path().join("example.toml");
    let path = path.to_str().unwrap();
    std::fs::write(path, &example).unwrap();
    for words in [["check", "--config"], ["run", "--config"]] {
        let output = command(&[words[0], words[1], path], &[]).await;
        assert_eq!(output.status.code(), Some(78), "{words:?}");
        let line = 1 + example.lines().position(|line| line.starts_with("secret_id =")).unwrap();
        let expected = format!(
            "{path}:{line}:13: secret_id is empty; write the name of the secret that holds the commercial credential \
             here, or choose another source."
        );
        assert_eq!(stderr(&output).trim(), expected, "{words:?}");
    }
    std::fs::write(path, example.replace("secret_id = \"\"", "secret_id = \"mine\"")).unwrap();
    let output = command(&["check", "--config", path], &[]).await;
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
}
