//! The `peerwatch` binary: parse, run, exit code.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use clap::Parser as _;

use monitor::cli::{self, Cli, Command};
use monitor::cmd::status::{self, Report};
use monitor::config::{Config, DEFAULT_FILE, Environment, Sources};
use monitor::{cmd, daemon, diagnostics};

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) if cli::is_status(std::env::args_os()) => {
            return show(&status::bad_arguments(&error));
        }
        Err(error) => error.exit(),
    };
    let code = match dispatch(cli) {
        Ok(code) => code,
        Err(error) => {
            diagnostics::last_words(&format!("peerwatch: {error:#}"));
            cli::exit_code(error.as_ref())
        }
    };
    diagnostics::finish();
    code
}

fn dispatch(cli: Cli) -> anyhow::Result<ExitCode> {
    match cli.command {
        Command::Run(flags) => {
            let config = Config::new(Sources::new(flags))?;
            diagnostics::init(config.log_format, config.log_level, config.bpf_log)?;
            // While there is one thread: see there.
            let early = daemon::Early::begin(&config)?;
            diagnostics::begin_queue();
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()?;
            let result = runtime.block_on(async {
                let signals = daemon::Signals::install()?;
                daemon::run(config, early, signals).await
            });
            // A reader of the packet log that does not read must not hold the process.
            runtime.shutdown_timeout(std::time::Duration::from_secs(1));
            result?;
        }
        Command::CheckConfig(flags) => {
            let environment = Environment::from_process();
            let line =
                cmd::check_config::check_config(&flags, &environment, Path::new(DEFAULT_FILE))?;
            println!("{line}");
        }
        Command::Uninstall(flags) => {
            for line in cmd::uninstall::uninstall(&flags)? {
                println!("{line}");
            }
        }
        Command::Doctor(flags) => {
            let (text, code) = cmd::doctor::doctor(&flags)?;
            return Ok(match write(io::stdout(), &text) {
                Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                    ExitCode::from(cmd::doctor::NO_REPORT)
                }
                _ => ExitCode::from(code),
            });
        }
        Command::Status(flags) => {
            let environment = Environment::from_process();
            return Ok(show(&status::status(&flags, &environment)));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Writes a report. The exit code is its own also where the reader has gone (`peerwatch status | head
/// -1`), but no check shall be green whose text nobody got.
fn show(report: &Report) -> ExitCode {
    let written = write(io::stdout(), &report.stdout).and(write(io::stderr(), &report.stderr));
    match written {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => ExitCode::from(status::UNKNOWN),
        _ => ExitCode::from(report.code),
    }
}

fn write(mut to: impl Write, text: &str) -> io::Result<()> {
    to.write_all(text.as_bytes())?;
    to.flush()
}
