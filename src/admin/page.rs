//! The dashboard's page. Its files are in the program, and a browser loads nothing from anywhere else.

use bytes::Bytes;
use http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, HeaderMap, HeaderName, HeaderValue, IF_NONE_MATCH,
    REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use http::{Response, StatusCode};

use crate::exchange::Body;

/// Below it are the files that the page names.
pub(super) const ASSETS: &str = "/assets/";

/// Scripts and styles are files of ours, and nothing stands in the page itself: what a record holds can run nowhere.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
);
const RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");
const OPENER_POLICY: HeaderName = HeaderName::from_static("cross-origin-opener-policy");

const HTML: &str = "text/html; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

struct File {
    name: &'static str,
    content_type: &'static str,
    content: &'static [u8],
}

static PAGE: File = File { name: "", content_type: HTML, content: include_bytes!("page/page.html") };
/// For whom the kernel does not name.
static NO_ACCESS: File = File { name: "", content_type: HTML, content: include_bytes!("page/no-access.html") };

/// `page.js` is the script that the page names; it imports the others, but for `uplot.js`, which is vendored with its styles
/// (`page/VENDORED.md`).
static FILES: [File; 16] = [
    style("page.css", include_bytes!("page/page.css")),
    style("uplot.css", include_bytes!("page/uplot.css")),
    script("page.js", include_bytes!("page/page.js")),
    script("ask.js", include_bytes!("page/ask.js")),
    script("attributes.js", include_bytes!("page/attributes.js")),
    script("charts.js", include_bytes!("page/charts.js")),
    script("dom.js", include_bytes!("page/dom.js")),
    script("format.js", include_bytes!("page/format.js")),
    script("health.js", include_bytes!("page/health.js")),
    script("live.js", include_bytes!("page/live.js")),
    script("models.js", include_bytes!("page/models.js")),
    script("record.js", include_bytes!("page/record.js")),
    script("requests.js", include_bytes!("page/requests.js")),
    script("state.js", include_bytes!("page/state.js")),
    script("usage.js", include_bytes!("page/usage.js")),
    script("uplot.js", include_bytes!("page/uplot.js")),
];

const fn script(name: &'static str, content: &'static [u8]) -> File {
    File { name, content_type: SCRIPT, content }
}

const fn style(name: &'static str, content: &'static [u8]) -> File {
    File { name, content_type: STYLE, content }
}

/// `GET /`: the page, or how to get access to it.
pub(super) fn page(may_look: bool, asked: &HeaderMap) -> Response<Body> {
    if may_look {
        return PAGE.answer(asked);
    }
    let mut answer = NO_ACCESS.answer(&HeaderMap::new());
    *answer.status_mut() = StatusCode::FORBIDDEN;
    answer
}

/// A file of the page; none if it has none of that name.
pub(super) fn file(name: &str, asked: &HeaderMap) -> Option<Response<Body>> {
    FILES.iter().find(|file| file.name == name).map(|file| file.answer(asked))
}

/// What every answer of the dashboard says to a browser.
pub(super) fn guard(headers: &mut HeaderMap) {
    let set = |value: &'static str| HeaderValue::from_static(value);
    headers.insert(CONTENT_SECURITY_POLICY, POLICY);
    headers.insert(X_CONTENT_TYPE_OPTIONS, set("nosniff"));
    headers.insert(X_FRAME_OPTIONS, set("DENY"));
    headers.insert(REFERRER_POLICY, set("no-referrer"));
    headers.insert(RESOURCE_POLICY, set("same-origin"));
    headers.insert(OPENER_POLICY, set("same-origin"));
    headers.entry(CACHE_CONTROL).or_insert(set("no-store"));
}

impl File {
    fn answer(&self, asked: &HeaderMap) -> Response<Body> {
        let tag = self.tag();
        let is_known = asked.get_all(IF_NONE_MATCH).iter().any(|known| {
            let known = known.to_str().unwrap_or_default();
            known.split(',').any(|one| one.trim().trim_start_matches("W/") == tag || one.trim() == "*")
        });
        let content = if is_known { Bytes::new() } else { Bytes::from_static(self.content) };
        let mut answer = Response::new(Body::whole(content));
        if is_known {
            *answer.status_mut() = StatusCode::NOT_MODIFIED;
        }
        let headers = answer.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(self.content_type));
        // An upgrade shows at once, and what has not changed is not sent again.
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        if let Ok(tag) = HeaderValue::from_str(&tag) {
            headers.insert(ETAG, tag);
        }
        answer
    }

    /// It tells versions of a file apart, and is no proof of anything.
    fn tag(&self) -> String {
        format!("\"{:x}-{:08x}\"", self.content.len(), crc32fast::hash(self.content))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// The files of ours, by name.
    fn own() -> Vec<(String, String)> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/admin/page");
        let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
        files.map(|path| (name(&path), std::fs::read_to_string(&path).unwrap())).collect()
    }

    #[test]
    fn every_script_and_style_is_served_and_nothing_that_is_not_there_is_asked_for() {
        let files = own();
        let (mut served, mut there): (Vec<&str>, Vec<&str>) = (
            FILES.iter().map(|file| file.name).collect(),
            files
                .iter()
                .map(|(name, _)| name.as_str())
                .filter(|name| name.ends_with(".js") || name.ends_with(".css"))
                .collect(),
        );
        served.sort_unstable();
        there.sort_unstable();
        assert_eq!(served, there);
        for (name, text) in files.iter().filter(|(name, _)| name.ends_with(".html") || name.ends_with(".js")) {
            let asked =
                text.split('"').filter_map(|span| span.strip_prefix("/assets/").or_else(|| span.strip_prefix("./")));
            for file in asked {
                assert!(served.contains(&file), "{name} asks for {file}");
            }
        }
    }

    #[test]
    fn nothing_of_the_page_is_inline_or_put_in_as_markup() {
        let never = [
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "DOMParser",
            "eval(",
            "new Function",
            "setAttribute(\"style\"",
            "<style",
            " style=",
            " onload=",
            " onerror=",
            " onclick=",
            "javascript:",
            "https://",
        ];
        for (name, text) in own().iter().filter(|(name, _)| !name.starts_with("uplot.") && !name.ends_with(".md")) {
            for word in never {
                assert!(!text.contains(word), "{name} has {word}");
            }
            for script in text.split("<script").skip(1) {
                assert!(script.starts_with(" src=\"/assets/"), "{name} has a script of its own");
            }
        }
    }
}
