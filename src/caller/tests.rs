use std::task::{Context, Waker};
use std::time::{Duration, UNIX_EPOCH};

use aws_credential_types::Credentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use http::{HeaderName, HeaderValue};

use super::*;

const SECRET: &str = "localSecretThatOnlyTestsKnow0123456789ABC";
const PATH: &str = "/model/anthropic.claude-v2%3A1/invoke";
const HOST: &str = "127.0.0.1:8790";
const BODY: &[u8] = b"{\"max_tokens\":1}";

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_795_000_000)
}

/// Callers of a configuration; `{dir}` in it is a folder with the files `secret`, `token`, `cert.pem` and `key.pem`.
fn callers(text: &str) -> Callers {
    callers_of(text, Arc::new(HostRole::unknown()))
}

fn callers_of(text: &str, host: Arc<HostRole>) -> Callers {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("secret"), format!("{SECRET}\n")).unwrap();
    std::fs::write(dir.path().join("token"), "a-token-that-only-tests-know").unwrap();
    let rcgen::CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(dir.path().join("cert.pem"), cert.pem()).unwrap();
    std::fs::write(dir.path().join("key.pem"), signing_key.serialize_pem()).unwrap();
    let path = dir.path().join("config.toml");
    std::fs::write(&path, text.replace("{dir}", dir.path().to_str().unwrap())).unwrap();
    Callers::new(&Settings::load(&path).unwrap(), host)
}

fn signed(access_key_id: &str, secret: &str, at: SystemTime) -> HeaderMap {
    let identity = Credentials::new(access_key_id, secret, None, None, "test").into();
    let params = aws_sigv4::sign::v4::SigningParams::builder()
        .identity(&identity)
        .region("us-gov-west-1")
        .name("bedrock")
        .time(at)
        .settings(SigningSettings::default())
        .build()
        .unwrap();
    let uri = format!("http://{HOST}{PATH}");
    let request = SignableRequest::new("POST", uri, std::iter::empty(), SignableBody::Bytes(BODY)).unwrap();
    let (instructions, _) = sign(request, &params.into()).unwrap().into_parts();
    let mut headers = HeaderMap::new();
    for (name, value) in instructions.headers() {
        headers.insert(HeaderName::try_from(name).unwrap(), HeaderValue::from_str(value).unwrap());
    }
    headers
}

fn identify(callers: &Callers, peer: &Peer, headers: &HeaderMap) -> Result<Caller, Refusal> {
    callers.identify(peer, &Method::POST, PATH, HOST, headers, BODY, now())
}

fn uid(uid: u32) -> Peer {
    Peer { uid: Some(uid), source: "127.0.0.1".to_owned(), ..Peer::default() }
}

fn bearer(token: &str) -> HeaderMap {
    HeaderMap::from_iter([(http::header::AUTHORIZATION, format!("Bearer {token}").parse().unwrap())])
}

const KEYED: &str = r#"
[listen.tls]
address = "127.0.0.1:8793"
certificate_file = "{dir}/cert.pem"
private_key_file = "{dir}/key.pem"
client_ca_file = "{dir}/cert.pem"
[[callers]]
name = "root"
users = ["root"]
[[callers]]
name = "billing"
users = ["1007"]
access_key_id = "LOCALBILLING"
secret_access_key_file = "{dir}/secret"
data_classification = "internal"
[[callers]]
name = "reports"
bearer_token_file = "{dir}/token"
certificate_names = ["DNS:*.reports.internal"]
[[callers]]
name = "role"
host_role = true
"#;

/// Whoever was taken for unsigned before the body is not checked against a body that nobody has read.
#[test]
fn by_its_head_alone_a_signature_proves_nothing_and_is_no_fault() {
    let callers = callers(KEYED);
    for secret in [SECRET, "another"] {
        let headers = signed("LOCALBILLING", secret, now());
        let caller = callers.identify_by_head(&uid(4242), &headers, None, claim(&headers, None), now()).unwrap();
        assert_eq!((caller.name(), caller.identity_verified), (None, false));
        assert_eq!(caller.access_key_id.as_deref(), Some("LOCALBILLING"));
    }
    let mut bearer = HeaderMap::new();
    bearer.insert(AUTHORIZATION, "Bearer a-token-that-only-tests-know".parse().unwrap());
    let caller = callers.identify_by_head(&uid(4242), &bearer, None, claim(&bearer, None), now()).unwrap();
    assert_eq!((caller.name(), caller.identity_verified), (Some("reports"), true));
    let mut unreadable = HeaderMap::new();
    unreadable.insert(AUTHORIZATION, "AWS4-HMAC-SHA256 Credential=LOCALBILLING".parse().unwrap());
    assert!(callers.identify_by_head(&uid(4242), &unreadable, None, claim(&unreadable, None), now()).is_err());
}

#[test]
fn without_entries_everybody_is_nobody_in_particular() {
    let callers = callers("");
    let caller = identify(&callers, &uid(1000), &signed("AKIDUMMY", "whatever", now())).unwrap();
    assert!(caller.entry.is_none() && !caller.identity_verified);
    assert_eq!((caller.uid, caller.access_key_id.as_deref()), (Some(1000), Some("AKIDUMMY")));
    assert!(caller.user_arn.starts_with("arn:aws-us-gov:iam::unknown:host/"), "{}", caller.user_arn);
}

#[test]
fn a_uid_leads_to_its_entry_and_proves_no_arn() {
    let callers = callers(KEYED);
    let caller = identify(&callers, &uid(1007), &HeaderMap::new()).unwrap();
    assert_eq!((caller.name(), caller.data_classification()), (Some("billing"), Some("internal")));
    assert!(!caller.identity_verified);
    assert_eq!(identify(&callers, &uid(0), &HeaderMap::new()).unwrap().name(), Some("root"));
}

#[test]
fn an_unknown_uid_is_nobody_never_root() {
    let caller = identify(&callers(KEYED), &Peer::default(), &HeaderMap::new()).unwrap();
    assert!(caller.entry.is_none() && caller.uid.is_none());
}

#[test]
fn a_local_key_is_verified() {
    let callers = callers(KEYED);
    let caller = identify(&callers, &uid(4242), &signed("LOCALBILLING", SECRET, now())).unwrap();
    assert_eq!(caller.name(), Some("billing"));
    assert!(caller.identity_verified);

    let refusal = identify(&callers, &uid(1007), &signed("LOCALBILLING", "another", now())).unwrap_err();
    assert_eq!(refusal.kind, RefusalKind::SignatureDoesNotMatch);
    assert_eq!(refusal.kind.error_type(), "InvalidSignatureException");

    let old = signed("LOCALBILLING", SECRET, now() - Duration::from_secs(301));
    let refusal = identify(&callers, &uid(1007), &old).unwrap_err();
    assert!(refusal.message.starts_with("Signature expired: "), "{refusal}");
}

#[test]
fn a_refused_request_has_a_caller_for_its_record() {
    let callers = callers(KEYED);
    let forged = signed("LOCALBILLING", "forged", now());
    assert!(identify(&callers, &uid(0), &forged).is_err());
    let caller = callers.unproven(&uid(0), &forged, None, now());
    assert_eq!((caller.name(), caller.uid, caller.identity_verified), (Some("root"), Some(0), false));
    assert_eq!(caller.access_key_id.as_deref(), Some("LOCALBILLING"));
    // The key that it names is not its own.
    assert_eq!(callers.unproven(&uid(4242), &forged, None, now()).name(), None);
}

#[test]
fn the_first_entry_that_fits_wins() {
    let caller = identify(&callers(KEYED), &uid(0), &signed("LOCALBILLING", SECRET, now())).unwrap();
    assert_eq!(caller.name(), Some("root"));
    assert!(caller.identity_verified);
}

#[test]
fn a_bearer_token_is_a_proof_and_another_token_is_none() {
    let callers = callers(KEYED);
    let caller = identify(&callers, &uid(4242), &bearer("a-token-that-only-tests-know")).unwrap();
    assert_eq!((caller.name(), caller.identity_verified), (Some("reports"), true));
    assert_eq!(caller.access_key_id, None);
    for other in ["a-token-that-only-tests-knoW", "a-token-that-only-tests-know2", ""] {
        let caller = identify(&callers, &uid(4242), &bearer(other)).unwrap();
        assert!(caller.entry.is_none() && !caller.identity_verified, "{other}");
    }
}

#[test]
fn a_client_certificate_leads_to_its_entry() {
    let callers = callers(KEYED);
    let peer = |name: &str| Peer::default().with_certificate(vec!["CN=x".to_owned(), name.to_owned()]);
    let caller = identify(&callers, &peer("DNS:a.reports.internal"), &HeaderMap::new()).unwrap();
    assert_eq!((caller.name(), caller.identity_verified), (Some("reports"), true));
    let caller = identify(&callers, &peer("CN=a.reports.internal"), &HeaderMap::new()).unwrap();
    assert_eq!(caller.name(), None);
}

#[test]
fn the_hosts_own_keys_give_the_true_arn() {
    const ARN: &str = "arn:aws-us-gov:sts::123456789012:assumed-role/app/i-0123456789abcdef0";
    let host = Arc::new(HostRole::unknown());
    let callers = callers_of(KEYED, host.clone());
    let keys = |id: &str, expires: u64| {
        Credentials::new(id, SECRET, Some("t".to_owned()), Some(now() + Duration::from_secs(expires)), "test")
    };
    let old = signed("ASIAOLD", SECRET, now());
    let new = signed("ASIANEW", SECRET, now());
    assert!(!identify(&callers, &uid(4242), &old).unwrap().identity_verified);

    assert!(host.learn(&keys("ASIAOLD", 100)) && !host.learn(&keys("ASIAOLD", 100)));
    let unnamed = identify(&callers, &uid(4242), &old).unwrap();
    assert!(unnamed.identity_verified && unnamed.user_arn.contains("unknown"));
    host.name("ASIAOLD", ARN);
    assert!(host.learn(&keys("ASIANEW", 3600)));
    host.name("ASIANEW", ARN);
    for headers in [&old, &new] {
        let caller = identify(&callers, &uid(4242), headers).unwrap();
        assert_eq!((caller.name(), caller.identity_verified, &*caller.user_arn), (Some("role"), true, ARN));
    }
    // Everybody else has the host's ARN, unverified.
    let other = identify(&callers, &uid(4242), &HeaderMap::new()).unwrap();
    assert_eq!((other.name(), other.identity_verified, &*other.user_arn), (None, false, ARN));
    // A forged signature under a key of the role is refused; an expired key and the one before the last are forgotten.
    assert!(identify(&callers, &uid(4242), &signed("ASIANEW", "forged", now())).is_err());
    assert!(host.key("ASIAOLD", now() + Duration::from_secs(100)).is_none());
    host.learn(&keys("ASIATHIRD", 3600));
    assert!(host.key("ASIAOLD", now()).is_none() && host.key("ASIANEW", now()).is_some());
}

#[test]
fn groups_count_by_membership_and_by_the_unix_peer() {
    // Root is in the group root on every host; the unix peer brings its own group.
    let callers = callers("[[callers]]\nname = \"admins\"\ngroups = [\"root\", \"54321\"]\n");
    assert_eq!(identify(&callers, &uid(0), &HeaderMap::new()).unwrap().name(), Some("admins"));
    assert_eq!(identify(&callers, &uid(4242), &HeaderMap::new()).unwrap().name(), None);
    let peer = Peer { gid: Some(54321), ..uid(4242) };
    assert_eq!(identify(&callers, &peer, &HeaderMap::new()).unwrap().name(), Some("admins"));
}

#[test]
fn what_cannot_be_read_proves_nothing_and_is_refused_only_under_a_key_of_ours() {
    let directory = tempfile::tempdir().unwrap();
    let secret = directory.path().join("secret");
    std::fs::write(&secret, "a-secret-of-some-length").unwrap();
    let with_key = callers(&format!(
        "[[callers]]\nname = \"billing\"\naccess_key_id = \"LOCALBILLING\"\nsecret_access_key_file = \"{}\"\n",
        secret.display()
    ));
    let mut headers = HeaderMap::new();
    for (text, foreign_is_fine) in [
        ("AWS4-HMAC-SHA256 Credential=x", true),
        (
            "AWS4-HMAC-SHA256 Credential=AKIAX/20260101/us-gov-west-1/bedrock/aws4_request, SignedHeaders=host, Signature=00",
            true,
        ),
        ("AWS4-HMAC-SHA256 Credential=LOCALBILLING/20260101, Signature=00", false),
        ("Basic dXNlcjpwYXNz", true),
    ] {
        headers.insert("authorization", HeaderValue::from_static(text));
        let found = identify(&callers(""), &uid(1000), &headers).unwrap();
        assert!(!found.identity_verified, "{text}");
        match identify(&with_key, &uid(1000), &headers) {
            Ok(found) => assert!(foreign_is_fine && !found.identity_verified && found.name().is_none(), "{text}"),
            Err(refusal) => assert!(!foreign_is_fine && refusal.kind == RefusalKind::Validation, "{text}"),
        }
    }
}

#[test]
fn without_a_role_nothing_is_waited_for() {
    let (callers, headers) = (callers(KEYED), signed("ASIAUNKNOWN", SECRET, now()));
    let waited = std::pin::pin!(callers.await_new_key(&headers, None, now()));
    assert!(waited.poll(&mut Context::from_waker(Waker::noop())).is_ready());
}

#[test]
fn secrets_are_masked() {
    let text = format!("{:?}", callers(KEYED));
    assert!(text.contains("LOCALBILLING") && !text.contains(SECRET) && !text.contains("a-token"), "{text}");
}

/// Not a bound, a reading: `cargo test --release --lib identification_costs -- --nocapture`.
#[test]
fn identification_costs() {
    let callers = callers(KEYED);
    let time = |what: &str, peer: &Peer, headers: &HeaderMap, body: &[u8]| {
        let rounds = if cfg!(debug_assertions) { 100 } else { 20_000 };
        let start = std::time::Instant::now();
        for _ in 0..rounds {
            let caller = callers.identify(peer, &Method::POST, PATH, HOST, headers, body, now());
            std::hint::black_box(caller.is_ok());
        }
        std::println!("identify, {what}: {} ns", start.elapsed().as_nanos() / rounds);
    };
    let kib = vec![b'x'; 1024];
    time("no credential, by uid", &uid(1007), &HeaderMap::new(), &kib);
    time("unknown key, no entry", &uid(4242), &signed("AKIADUMMY", SECRET, now()), &kib);
    time("bearer token", &uid(4242), &bearer("a-token-that-only-tests-know"), &kib);
    time("local key, verified", &uid(4242), &signed("LOCALBILLING", SECRET, now()), BODY);
    time("local key, 1 KiB body", &uid(4242), &signed("LOCALBILLING", SECRET, now()), &kib);
}

/// Entries of every kind, some of which fit what earlier ones fit as well; each has a user of its own.
fn many_entries(count: usize, dir: &std::path::Path) -> String {
    let mut text = "[listen.tls]\naddress = \"127.0.0.1:8793\"\ncertificate_file = \"{dir}/cert.pem\"\nprivate_key_file = \"{dir}/key.pem\"\nclient_ca_file = \"{dir}/cert.pem\"\n".to_owned();
    for number in 0..count {
        let token = dir.join(format!("token-{number}"));
        std::fs::write(&token, token_of(number)).unwrap();
        let more = match number % 6 {
            0 => format!("groups = [\"{}\", \"54321\"]\n", 70_000 + number),
            1 => format!("bearer_token_file = \"{}\"\n", token.display()),
            2 => format!("access_key_id = \"LOCAL{number}\"\nsecret_access_key_file = \"{{dir}}/secret\"\n"),
            3 => format!("certificate_names = [\"DNS:host-{number}.internal\", \"DNS:shared.internal\"]\n"),
            4 => format!("certificate_names = [\"DNS:*-{number}.internal\", \"DNS:sh?red.internal\"]\n"),
            _ => "host_role = true\ngroups = [\"root\"]\n".to_owned(),
        };
        text +=
            &format!("[[callers]]\nname = \"caller-{number}\"\nusers = [\"{}\", \"4242\"]\n{more}", 60_000 + number);
    }
    text
}

fn token_of(number: usize) -> String {
    format!("a-token-that-only-tests-know-{number:06}")
}

/// The index says what a look at every entry would.
#[test]
fn the_first_entry_that_fits_is_found_among_many() {
    let dir = tempfile::tempdir().unwrap();
    let callers = callers(&many_entries(60, dir.path()));
    let first = |fits: &dyn Fn(&CallerEntry) -> bool| callers.entries.iter().find(|entry| fits(entry)).cloned();
    let expect = |peer: &Peer, headers: &HeaderMap, fits: &dyn Fn(&CallerEntry) -> bool| {
        let (expected, found) = (first(fits), identify(&callers, peer, headers).unwrap());
        let name = expected.as_ref().map(|entry| entry.name.as_str());
        assert_eq!(found.name(), name, "{peer:?}");
        name.is_some()
    };
    let mut found = 0;
    for number in 0..62_u32 {
        found += usize::from(expect(&uid(60_000 + number), &HeaderMap::new(), &|entry| {
            entry.users.contains(&(60_000 + number))
        }));
        let peer = Peer { gid: Some(70_000 + number), ..uid(1) };
        found += usize::from(expect(&peer, &HeaderMap::new(), &|entry| entry.groups.contains(&(70_000 + number))));
        let token = token_of(usize::try_from(number).unwrap());
        found += usize::from(expect(&uid(1), &bearer(&token), &|entry| {
            entry.bearer.as_ref().is_some_and(|known| known.expose() == token)
        }));
        let id = format!("LOCAL{number}");
        found += usize::from(expect(&uid(1), &signed(&id, SECRET, now()), &|entry| {
            entry.key.as_ref().is_some_and(|key| key.access_key_id == id)
        }));
        for name in [format!("DNS:host-{number}.internal"), format!("DNS:other-{number}.internal")] {
            let peer = uid(1).with_certificate(vec!["CN=x".to_owned(), name.clone()]);
            found += usize::from(expect(&peer, &HeaderMap::new(), &|entry| {
                entry.certificate_names.iter().any(|pattern| pattern.matches(&name))
            }));
        }
    }
    // Of the sixty: users; groups; tokens; keys; whole names, and patterns that fit both names.
    assert_eq!(found, 60 + 10 + 10 + 10 + 10 + 20);
    // What several entries name is the first one's, whatever else fits.
    let root = uid(0);
    assert!(expect(&root, &HeaderMap::new(), &|entry| entry.groups.contains(&0)));
    assert!(expect(&Peer { gid: Some(54321), ..uid(1) }, &HeaderMap::new(), &|entry| entry.groups.contains(&54321)));
    for name in ["DNS:shared.internal", "DNS:shXred.internal"] {
        let peer = uid(1).with_certificate(vec![name.to_owned()]);
        let fits = |entry: &CallerEntry| entry.certificate_names.iter().any(|pattern| pattern.matches(name));
        assert!(expect(&peer, &HeaderMap::new(), &fits));
        // Nobody proves by a later entry's user or token what an earlier one grants to this certificate.
        let late = Peer { uid: Some(60_059), ..peer.clone() };
        assert!(expect(&late, &bearer(&token_of(55)), &fits));
    }
    assert!(expect(&uid(4242), &bearer(&token_of(1)), &|entry| entry.users.contains(&4242)));
    for wrong in ["", "a-token-that-only-tests-know-00000", "a-token-that-only-tests-know-0000010"] {
        assert!(!expect(&uid(1), &bearer(wrong), &|_| false), "{wrong}");
    }
}

/// The least of several readings of the time that this thread has had a CPU for, so what runs beside it does not count.
fn cpu_of(mut work: impl FnMut()) -> Duration {
    let used = || {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap())
    };
    let reading = |_| {
        let before = used();
        (0..20).for_each(|_| work());
        used() - before
    };
    (0..10).map(reading).min().unwrap()
}

/// A look at each of three thousand entries takes over a hundred times as long as the rest.
#[test]
fn who_calls_is_found_among_thousands_as_fast_as_among_few() {
    let dir = tempfile::tempdir().unwrap();
    let (few, many) = (6, 3_000);
    let times = [few, many].map(|count| {
        let callers = callers(&many_entries(count, dir.path()));
        let last = |kind: usize| count - 6 + kind;
        let asked = [
            (uid(u32::try_from(60_000 + last(5)).unwrap()), HeaderMap::new()),
            (Peer { gid: Some(u32::try_from(70_000 + last(0)).unwrap()), ..uid(1) }, HeaderMap::new()),
            (uid(1), bearer(&token_of(last(1)))),
            (uid(1), signed(&format!("LOCAL{}", last(2)), SECRET, now())),
            (uid(1).with_certificate(vec![format!("DNS:host-{}.internal", last(3))]), HeaderMap::new()),
            (uid(1), HeaderMap::new()),
        ];
        asked.map(|(peer, headers)| cpu_of(|| assert!(identify(&callers, &peer, &headers).is_ok())))
    });
    for (kind, (few, many)) in times[0].iter().zip(times[1]).enumerate() {
        // Patterns of certificates are tried one after the other.
        let may = if kind == 4 { 300 } else { 20 };
        assert!(many < *few * may, "kind {kind}: {few:?} with few entries, {many:?} with many");
    }
}
