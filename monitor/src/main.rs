//! The `peerwatch` binary: parse, run, exit code.

use std::path::Path;
use std::process::ExitCode;

use clap::Parser as _;

use monitor::cli::{self, Cli, Command};
use monitor::config::{Config, DEFAULT_FILE, Environment, Sources};
use monitor::{cmd, daemon, diagnostics};

fn main() -> ExitCode {
    match dispatch(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("peerwatch: {error:#}");
            cli::exit_code(error.as_ref())
        }
    }
}

fn dispatch(cli: Cli) -> anyhow::Result<()> {
    match cli.command {
        Command::Run(flags) => {
            let config = Config::new(Sources::new(flags))?;
            diagnostics::init(config.log_format, config.log_level, config.bpf_log)?;
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()?;
            let result = runtime.block_on(async {
                let signals = daemon::Signals::install()?;
                daemon::run(config, signals).await
            });
            // A reader of the packet log that does not read must not hold the process.
            runtime.shutdown_timeout(std::time::Duration::from_secs(1));
            result.map_err(Into::into)
        }
        Command::CheckConfig(flags) => {
            let environment = Environment::from_process();
            let line =
                cmd::check_config::check_config(&flags, &environment, Path::new(DEFAULT_FILE))?;
            println!("{line}");
            Ok(())
        }
    }
}
