//! `bedrock-simulator`: the stand-in as a process of its own, for SDK clients in other languages.

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use simulator::framing::{self, Choice};
use simulator::{Certificate, Options, Simulator};

/// A strict stand-in for commercial Amazon Bedrock.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Serve plain HTTP/1.1 and h2c here.
    #[arg(long, default_value = "127.0.0.1:0")]
    plain: SocketAddr,
    /// Serve TLS here.
    #[arg(long, default_value = "127.0.0.1:0")]
    tls: SocketAddr,
    /// The region to stand in for.
    #[arg(long, default_value = "us-east-1")]
    region: String,
    /// The account its ARNs name.
    #[arg(long, default_value = "123456789012")]
    account: String,
    /// Write the CA certificate (PEM) here.
    #[arg(long)]
    ca_out: Option<PathBuf>,
    /// Do not offer h2 over TLS.
    #[arg(long)]
    no_http2: bool,
    /// What is wrong with the TLS certificate.
    #[arg(long, value_enum, default_value = "good")]
    certificate: CertificateArgument,
    /// How many requests to remember; 0 for benchmarks.
    #[arg(long, default_value_t = 10_000)]
    record_limit: usize,
    /// The most inference profiles on a page.
    #[arg(long, default_value_t = 5)]
    page_size: usize,
    /// A header, in lower case, that the daemon is configured to send beside those that Bedrock defines.
    #[arg(long = "added-header")]
    added_headers: Vec<String>,
    /// How many application inference profiles the account may have.
    #[arg(long, default_value_t = 50)]
    profile_quota: usize,
    /// Frame answers by hand, in this way; `random:SEED` picks a benign way for each.
    #[arg(long)]
    framing: Option<Choice>,
    /// Close an HTTP/2 connection that is framed by hand after so many resets by its client.
    #[arg(long)]
    calm_after_resets: Option<u64>,
    /// List the names for --framing, and end.
    #[arg(long)]
    list_framings: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum CertificateArgument {
    Good,
    OtherCa,
    Expired,
    WrongName,
}

impl From<CertificateArgument> for Certificate {
    fn from(argument: CertificateArgument) -> Certificate {
        match argument {
            CertificateArgument::Good => Certificate::Good,
            CertificateArgument::OtherCa => Certificate::OtherCa,
            CertificateArgument::Expired => Certificate::Expired,
            CertificateArgument::WrongName => Certificate::WrongName,
        }
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "bedrock-simulator: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> std::io::Result<()> {
    if arguments.list_framings {
        return list_framings();
    }
    let simulator = Simulator::start(Options {
        plain_address: Some(arguments.plain),
        tls_address: Some(arguments.tls),
        region: arguments.region,
        http2: !arguments.no_http2,
        account: arguments.account,
        certificate: arguments.certificate.into(),
        record_limit: arguments.record_limit,
        page_size: arguments.page_size,
        added_headers: arguments.added_headers,
        profile_quota: arguments.profile_quota,
        framing: arguments.framing,
        calm_after_resets: arguments.calm_after_resets,
        ..Options::default()
    })
    .await?;
    if let Some(file) = &arguments.ca_out {
        std::fs::write(file, simulator.ca_pem())?;
    }
    let line = serde_json::json!({
        "plain": simulator.plain_endpoint(),
        "tls": simulator.tls_endpoint(),
        "agent_plain": simulator.plain_agent_endpoint(),
        "agent_tls": simulator.tls_agent_endpoint(),
        "mantle_plain": simulator.mantle_plain_endpoint(),
        "mantle_tls": simulator.mantle_tls_endpoint(),
        "ca_file": arguments.ca_out,
    });
    writeln!(std::io::stdout(), "{line}")?;
    std::io::stdout().flush()?;
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        _ = terminate.recv() => Ok(()),
        interrupted = tokio::signal::ctrl_c() => interrupted,
    }
}

fn list_framings() -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    for framing in framing::ALL.iter() {
        writeln!(out, "{:<36} {:<17} {}", framing.to_string(), format!("{:?}", framing.verdict()), framing.about())?;
    }
    for (family, about) in framing::FAMILIES {
        writeln!(out, "{:<54} {about}", format!("{family}N"))?;
    }
    Ok(())
}
