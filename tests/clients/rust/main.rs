//! The Rust program of docs/apps.md, word for word in `snippet.rs`.
#![allow(missing_docs, reason = "the snippet is an app, and has none")]

/// An app's build of the SDK brings an HTTP client. The daemon's does not, so that none can be used by mistake.
mod aws_config {
    pub(crate) use ::aws_config::BehaviorVersion;

    pub(crate) async fn load_defaults(version: BehaviorVersion) -> ::aws_config::SdkConfig {
        let client = aws_smithy_http_client::Builder::new().build_http();
        ::aws_config::defaults(version).http_client(client).load().await
    }
}

include!("snippet.rs");
