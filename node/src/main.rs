//! `lanline`: the node and its command line in one program. See docs/cli.md.

use clap::Parser;
use node::{
    cli::{Cli, Command, UpArgs},
    io,
};
use std::{path::PathBuf, process::ExitCode};
use wire::{Fault, FaultKind};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let json = cli.json;
    let code = match cli.command {
        Command::Up(args) => match up(cli.state, &args) {
            Ok(()) => 0,
            Err(fault) => io::verbs::failed(&fault, json),
        },
        _ => match runtime(&mut tokio::runtime::Builder::new_current_thread()) {
            // The runtime is not waited for: a read of standard input cannot be cancelled.
            Ok(runtime) => {
                let code = runtime.block_on(io::verbs::run(cli));
                runtime.shutdown_background();
                code
            }
            Err(fault) => io::verbs::failed(&fault, json),
        },
    };
    ExitCode::from(code)
}

fn up(state: Option<PathBuf>, args: &UpArgs) -> Result<(), Fault> {
    let options = io::settings::up_options(state, args.config.as_deref(), args.flags())?;
    io::logging::start(&options.config)?;
    let runtime = runtime(&mut tokio::runtime::Builder::new_multi_thread())?;
    let end = runtime.block_on(io::daemon::run(options));
    runtime.shutdown_timeout(node::defaults::END_GRACE);
    end
}

fn runtime(builder: &mut tokio::runtime::Builder) -> Result<tokio::runtime::Runtime, Fault> {
    builder
        .enable_all()
        .build()
        .map_err(|e| Fault::new(FaultKind::Failed, format!("the asynchronous runtime cannot begin: {e}")))
}
