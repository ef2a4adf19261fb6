//! `backhaul completions`: completion scripts for shells.

use anyhow::Result;
use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::Cli;

/// Print a completion script for a shell.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  backhaul completions bash > /etc/bash_completion.d/backhaul
  backhaul completions zsh > \"${fpath[1]}/_backhaul\"")]
pub(crate) struct Completions {
    /// Shell to write for
    shell: Shell,
}

/// Prints the script.
pub(crate) fn run(command: &Completions) -> Result<()> {
    clap_complete::generate(command.shell, &mut Cli::command(), "backhaul", &mut std::io::stdout());
    Ok(())
}
