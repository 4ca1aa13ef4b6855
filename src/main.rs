//! The daemon's process: everything is in the library.

fn main() -> std::process::ExitCode {
    bedrock_sidecar::cli::main()
}
