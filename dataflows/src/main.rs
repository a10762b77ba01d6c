//! The `highwater` command.

use std::process::ExitCode;

use highwater_dataflows::registry::PIPELINES;

fn main() -> ExitCode {
    highwater::cli::main(PIPELINES)
}
