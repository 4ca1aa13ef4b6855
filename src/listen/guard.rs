//! Requests that a local app would not make: from a browser, through a proxy, or for another host's name. They are the
//! ways of DNS rebinding and of server-side request forgery.

use std::net::IpAddr;

use http::header::{HOST, HOST as HOST_HEADER, HeaderName, ORIGIN, VIA};
use http::request::Parts;

use super::head::Fault;
use super::{Client, Transport};
use crate::error::{Refusal, RefusalKind};

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Refuses what cannot come from an app on this host.
pub(crate) fn check(client: &Client, head: &Parts) -> Result<(), Refusal> {
    checked(client, head, Own::default())
}

/// The same for a file of the daemon's own page. Browsers name an origin with every module of a script, also where it is the
/// page's own.
pub(crate) fn check_page_file(client: &Client, head: &Parts) -> Result<(), Refusal> {
    checked(client, head, Own { origin: is_own_origin(&head.headers), visit: false })
}

/// The same for the daemon's own page, which somebody may also reach by a link: it shows nothing by itself, no other page can
/// frame it, and what it asks for is asked by it.
pub(crate) fn check_page(client: &Client, head: &Parts) -> Result<(), Refusal> {
    checked(client, head, Own { origin: false, visit: is_visit(&head.headers) })
}

/// What is known of a browser's request for the daemon's own page.
#[derive(Default)]
struct Own {
    /// The page made it.
    origin: bool,
    /// The browser goes there.
    visit: bool,
}

fn checked(client: &Client, head: &Parts, own: Own) -> Result<(), Refusal> {
    if let Some(fault) = Fault::of(head.version, &head.uri, &head.headers) {
        return Err(fault.refusal());
    }
    let refuse = |message: &'static str| Err(Refusal::new(RefusalKind::AccessDenied, message));
    if head.headers.contains_key(ORIGIN) && !own.origin {
        return refuse("the request has an Origin header, so a web page made it; only local apps are served.");
    }
    if !own.visit && is_from_another_site(&head.headers) {
        return refuse("a web page of another site made the request (Sec-Fetch-Site); only local apps are served.");
    }
    let forwarded = |name: &HeaderName| name.as_str().starts_with("x-forwarded-") || name.as_str() == "forwarded";
    if head.headers.contains_key(VIA) || head.headers.keys().any(forwarded) {
        return refuse(
            "the request came through a proxy (X-Forwarded-*, Forwarded or Via); apps must call this endpoint directly.",
        );
    }
    if client.transport == Transport::Unix {
        return Ok(());
    }
    // A name that is not ASCII is no name of ours.
    let hosts = head.headers.get_all(HOST_HEADER).iter().map(|value| value.to_str().ok());
    let authority = head.uri.authority().map(|authority| Some(authority.as_str()));
    let mut names = authority.into_iter().chain(hosts).peekable();
    if names.peek().is_none() && !head.headers.contains_key(HOST) {
        return Err(Fault::Host.refusal());
    }
    if names.all(|name| name.is_some_and(|name| client.transport.answers_to(name))) {
        return Ok(());
    }
    refuse("the Host header names another host; use the address of this endpoint, such as 127.0.0.1 or localhost.")
}

/// Whether the one origin is the one host that was asked, by the scheme that the admin address speaks. That the host is this
/// one is for others to say.
fn is_own_origin(headers: &http::HeaderMap) -> bool {
    let only = |name| {
        let mut values = headers.get_all(name).iter().map(http::HeaderValue::as_bytes);
        values.next().filter(|_| values.next().is_none())
    };
    match (only(ORIGIN), only(HOST)) {
        (Some(origin), Some(host)) => origin.strip_prefix(b"http://") == Some(host),
        _ => false,
    }
}

/// Whether a browser says that it opens the page in a window of its own, as by a link.
fn is_visit(headers: &http::HeaderMap) -> bool {
    let says = |name, word: &[u8]| {
        let mut values = headers.get_all(name).iter();
        values.next().is_some_and(|value| value.as_bytes() == word) && values.next().is_none()
    };
    says("sec-fetch-mode", b"navigate") && says("sec-fetch-dest", b"document")
}

/// Whether a browser says that a page of another origin has caused the request. Not every such request has an Origin
/// header: a plain GET for an image or a script has none. Pages of this daemon's own are `same-origin`, an address that
/// somebody types is `none`.
pub(crate) fn is_from_another_site(headers: &http::HeaderMap) -> bool {
    let foreign = |value: &http::HeaderValue| {
        let value = value.as_bytes();
        !(value.eq_ignore_ascii_case(b"same-origin") || value.eq_ignore_ascii_case(b"none"))
    };
    headers.get_all(SEC_FETCH_SITE).iter().any(foreign)
}

/// `localhost` and loopback addresses, with or without a port: none of them can be a name that an attacker's DNS answers.
pub(crate) fn is_loopback_name(authority: &str) -> bool {
    let host = match authority.bytes().rposition(|byte| byte == b':').map(|at| (&authority[..at], &authority[at + 1..]))
    {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) && !host.is_empty() => host,
        _ => authority,
    };
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost") || bare.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_own_origin_is_that_of_the_host_that_was_asked() {
        let own = |origins: &[&'static str], hosts: &[&'static str]| {
            let mut headers = http::HeaderMap::new();
            for (name, values) in [(ORIGIN, origins), (HOST, hosts)] {
                for value in values {
                    headers.append(&name, http::HeaderValue::from_static(value));
                }
            }
            is_own_origin(&headers)
        };
        let host = &["127.0.0.1:8791"];
        assert!(own(&["http://127.0.0.1:8791"], host));
        for foreign in
            ["null", "http://127.0.0.1", "http://127.0.0.1:8790", "https://127.0.0.1:8791", "http://evil.com"]
        {
            assert!(!own(&[foreign], host), "{foreign}");
        }
        assert!(!own(&[], host) && !own(&["http://127.0.0.1:8791"], &[]));
        assert!(!own(&["http://127.0.0.1:8791", "http://evil.com"], host));
        assert!(!own(&["http://127.0.0.1:8791"], &["127.0.0.1:8791", "evil.com"]));
    }

    #[test]
    fn only_loopback_names_are_ours() {
        for ours in [
            "localhost",
            "localhost:8790",
            "LOCALHOST:1",
            "127.0.0.1",
            "127.0.0.1:8790",
            "127.1.2.3:1",
            "[::1]",
            "[::1]:8790",
        ] {
            assert!(is_loopback_name(ours), "{ours}");
        }
        for foreign in [
            "",
            "evil.com",
            "evil.com:8790",
            "localhost.evil.com",
            "127.0.0.1.evil.com",
            "10.0.0.1",
            "[::2]:1",
            "localhost:x",
            ":8790",
            "0.0.0.0",
        ] {
            assert!(!is_loopback_name(foreign), "{foreign}");
        }
    }
}
