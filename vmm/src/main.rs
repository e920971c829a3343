//! The `kami` command.

use std::process::ExitCode;

use kami_vmm::cli::Cli;
use kami_vmm::terminal;
use tracing::level_filters::LevelFilter;

fn main() -> ExitCode {
    log();
    let exit = Cli::of_process().run().unwrap_or_else(|error| {
        error.print();
        error.exit()
    });
    exit.into()
}

/// Warnings go to standard error; `KAMI_LOG=info|debug|trace` wants more, `off` none.
fn log() {
    let level = std::env::var("KAMI_LOG").ok();
    let level = level.and_then(|level| level.parse().ok());
    tracing_subscriber::fmt()
        .with_max_level(level.unwrap_or(LevelFilter::WARN))
        .with_writer(|| terminal::Messages)
        .without_time()
        .with_target(false)
        .init();
}
