//! The daemon: everything is checked, then loaded, then attached; then it follows interfaces, writes the
//! packet log and serves metrics until it is told to stop.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tracing::{error, info, warn};

use crate::bpf::Hook;
use crate::bpf::attach::{AttachError, Hooks, SharedStates};
use crate::bpf::counters::Counters;
use crate::bpf::facts::KernelFacts;
use crate::bpf::load::{self, Settings};
use crate::bpf::tables::{TableError, Tables};
use crate::btf::{self, Btf, BtfError};
use crate::config::{Config, ConfigError, LogPackets};
use crate::drop::{ReasonTable, places};
use crate::instance::{Instance, InstanceError};
use crate::kallsyms::{KALLSYMS, Kallsyms};
use crate::link::{LinkError, LinkEvent, LinkWatcher};
use crate::metrics::{Exporter, KernelInfo, Source};
use crate::preflight::{self, PreflightError};
use crate::{cgroup, http, netns};

mod clsact;
mod events;
mod interfaces;

use events::PacketLog;
use interfaces::Interfaces;

/// How often what was held back or lost is looked at.
const TICK: Duration = Duration::from_secs(10);

/// Why the daemon did not start, or ended.
#[derive(Debug, Error)]
pub enum RunError {
    /// Something that it needs is missing.
    #[error(transparent)]
    Preflight(#[from] PreflightError),
    /// The configuration names what is not there.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Another one runs here.
    #[error(transparent)]
    Instance(#[from] InstanceError),
    /// The address for metrics cannot be had.
    #[error(transparent)]
    Http(#[from] http::HttpError),
    /// The kernel's BTF is not what it should be.
    #[error(transparent)]
    Btf(#[from] BtfError),
    /// The kernel refused maps or programs.
    #[error(transparent)]
    Load(#[from] load::LoadError),
    /// The kernel refused a table.
    #[error(transparent)]
    Table(#[from] TableError),
    /// Without the drop hook there is nothing to say.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// Interfaces cannot be followed.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The kernel refused the program without which there is nothing to say.
    #[error("{0}")]
    Refused(String),
    /// The metrics server ended by itself.
    #[error("the metrics server ended: {0}")]
    Server(String),
    /// The registry refused a metric.
    #[error("the metrics could not be registered: {0}")]
    Metrics(#[from] prometheus::Error),
    /// A system call.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the kernel said.
        source: std::io::Error,
    },
}

fn system(what: &'static str) -> impl Fn(std::io::Error) -> RunError {
    move |source| RunError::System { what, source }
}

/// The signals that the daemon answers to.
#[derive(Debug)]
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    reload: Signal,
}

impl Signals {
    /// Takes over SIGTERM and SIGINT (stop) and SIGHUP (reload). Call it in a tokio runtime.
    ///
    /// # Errors
    ///
    /// Where the kernel refuses a handler.
    pub fn install() -> Result<Self, RunError> {
        let take = |kind| signal(kind).map_err(system("a signal handler could not be installed"));
        Ok(Self {
            terminate: take(SignalKind::terminate())?,
            interrupt: take(SignalKind::interrupt())?,
            reload: take(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> Order {
        tokio::select! {
            _ = self.terminate.recv() => Order::Stop("SIGTERM"),
            _ = self.interrupt.recv() => Order::Stop("SIGINT"),
            _ = self.reload.recv() => Order::Reload,
        }
    }
}

/// What a signal asks for.
enum Order {
    Stop(&'static str),
    Reload,
}

/// Everything that is loaded and not attached yet.
struct Prepared {
    hooks: Hooks,
    tables: Tables,
    source: Arc<Source>,
    packet_log: PacketLog,
    diagnostics: Option<events::Diagnostics>,
}

/// Runs until a signal ends it. Nothing is attached before everything that can be checked is.
///
/// # Errors
///
/// What kept it from starting; once it runs, only that its metrics server ended.
pub async fn run(mut config: Config, mut signals: Signals) -> Result<(), RunError> {
    preflight::check(Path::new(btf::VMLINUX))?;
    let _instance = Instance::claim()?;
    let listener = http::bind(config.listen)?;
    let address = listener
        .local_addr()
        .map_err(system("the address of the metrics socket is not known"))?;
    let mut watcher = LinkWatcher::new()?;
    let mut first_events = Vec::new();
    loop {
        match watcher.next().await {
            LinkEvent::Synced => break,
            event => first_events.push(event),
        }
    }
    let names: Vec<&str> = watcher
        .interfaces()
        .map(|interface| interface.name.as_str())
        .collect();
    config.interfaces.require(&names)?;

    let Prepared {
        mut hooks,
        tables,
        source,
        mut packet_log,
        diagnostics,
    } = prepare(&config)?;
    let states = hooks.states();
    let mut interfaces = Interfaces::new(config.interfaces.clone(), tables, Arc::clone(&source));
    // First what the programs need to know, then the hooks: a packet must not be counted as somebody
    // else's because an address was not in the table yet.
    for event in &first_events {
        interfaces.learn(event);
    }
    let site = Arc::new(Site {
        exporter: Exporter::new(Arc::clone(&source))?,
        states,
    });
    if let Err(error) = attach(&mut hooks, &interfaces) {
        clsact::remove(&hooks.detach_all());
        return Err(error.into());
    }

    let (stop, stopped) = watch::channel(false);
    let mut server = tokio::spawn(http::serve(listener, site, stopping(stopped.clone())));
    let diagnostics =
        diagnostics.map(|diagnostics| tokio::spawn(diagnostics.run(stopping(stopped))));
    info!("{}", http::describe(address));

    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    tick.tick().await;
    let mut demand = false;
    let mut failure = None;
    loop {
        tokio::select! {
            order = signals.next() => match order {
                Order::Stop(name) => {
                    info!("{name}: detaching and stopping");
                    break;
                }
                Order::Reload => reload(&mut config, &mut interfaces, &source),
            },
            event = watcher.next() => interfaces.follow(&mut hooks, event),
            () = packet_log.ready() => packet_log.drain(&source),
            _ = tick.tick() => {
                report(&source, &mut packet_log, &mut demand);
                interfaces.retry(&mut hooks);
            }
            result = &mut server => {
                // It ends only when it cannot take connections at all.
                failure = Some(match result {
                    Ok(Ok(())) => "without a reason".to_owned(),
                    Ok(Err(error)) => error.to_string(),
                    Err(error) => error.to_string(),
                });
                break;
            }
        }
    }

    let own_clsact = hooks.detach_all();
    clsact::remove(&own_clsact);
    packet_log.drain(&source);
    report_losses(&source, &mut packet_log);
    packet_log.finish().await;
    // Fails only where nobody listens any more.
    stop.send_replace(true);
    if failure.is_none()
        && let Ok(Err(error)) = server.await
    {
        warn!("the metrics server ended: {error}");
    }
    if let Some(diagnostics) = diagnostics
        && let Err(error) = diagnostics.await
    {
        warn!("the diagnostics of the kernel programs ended: {error}");
    }
    failure.map_or(Ok(()), |why| Err(RunError::Server(why)))
}

async fn stopping(mut stopped: watch::Receiver<bool>) {
    // An error means that the sender is gone, so it is over as well.
    if stopped.wait_for(|stopped| *stopped).await.is_err() {}
}

/// Loads the programs and fills the tables that do not change.
fn prepare(config: &Config) -> Result<Prepared, RunError> {
    let kernel = Btf::read(btf::VMLINUX)?;
    let facts = KernelFacts::from_btf(&kernel)?;
    let reasons = ReasonTable::from_btf(&kernel)?;
    let release = nix::sys::utsname::uname()
        .map(|names| names.release().to_string_lossy().into_owned())
        .unwrap_or_default();
    let info = KernelInfo {
        release,
        btf: true,
        drop_reasons: facts.has_reason,
    };
    if !facts.has_reason {
        warn!(
            "this kernel gives no reason for a drop: classes come from the place that dropped the \
             packet, and the label reason is \"unavailable\""
        );
    }
    let places = match Kallsyms::read(KALLSYMS) {
        Ok(symbols) => places(&symbols, &reasons),
        Err(error) => {
            warn!(
                "the kernel's functions are not known ({error}): drops without a telling reason are \
                 classed as unspecified"
            );
            Vec::new()
        }
    };

    let kernel_btf = aya::Btf::from_sys_fs().map_err(|error| {
        warn!("the kernel's BTF cannot be used for loading: {error}");
    });
    let mut loaded = load::load(
        &facts,
        kernel_btf.as_ref().ok(),
        &Settings {
            log_dropped: matches!(config.log_packets, LogPackets::Dropped | LogPackets::All),
            log_allowed: matches!(config.log_packets, LogPackets::Allowed | LogPackets::All),
            log_rate: config.log_rate,
            log_burst: config.log_burst,
            netns_inum: netns::inum().map_err(system("the network namespace is not known"))?,
            netns_cookie: netns::cookie(),
            diagnostics: config.bpf_log.aya_level(),
            verifier_log: config.verifier_log,
        },
    )?;
    if let Some(why) = loaded.refused.get(&Hook::Drop) {
        return Err(RunError::Refused(why.clone()));
    }
    let mut tables = Tables::new(&mut loaded.ebpf)?;
    tables.set_ports(&config.traffics.port_table())?;
    tables.set_reasons(reasons.infos())?;
    let left_out = tables.set_places(&places)?;
    if left_out > 0 {
        warn!("{left_out} kernel functions found no room in the table of places");
    }
    let counters = Counters::new(&mut loaded.ebpf)?;
    let packet_log = PacketLog::new(&mut loaded.ebpf, config)
        .map_err(system("the ring buffer of packet events cannot be read"))?;
    let diagnostics = events::Diagnostics::new(&mut loaded.ebpf, config.bpf_log).map_err(
        system("the diagnostics of the kernel programs cannot be read"),
    )?;
    let refused = loaded.refused.keys().copied().collect();
    let hooks = Hooks::new(loaded);
    let source = Arc::new(Source::new(
        counters,
        Arc::new(config.traffics.clone()),
        hooks.states(),
        refused,
        Arc::new(reasons),
        info,
    ));
    Ok(Prepared {
        hooks,
        tables,
        source,
        packet_log,
        diagnostics,
    })
}

/// Attaches everything. Only the drop hook is indispensable: what else fails is said, shows in
/// `hook_attached`, and leaves its series out.
fn attach(hooks: &mut Hooks, interfaces: &Interfaces) -> Result<(), AttachError> {
    interfaces.attach_all(hooks);
    let root = cgroup::open_root();
    let opened = root
        .as_ref()
        .map(|root| &root.dir)
        .map_err(ToString::to_string);
    if let Err(error) = hooks.attach_deliver(opened) {
        warn!("{error}; inbound packets that are allowed are not measured");
    }
    hooks.attach_drop()
}

/// SIGHUP: takes over the traffics of the file as it is now. A bad file keeps the old ones.
fn reload(config: &mut Config, interfaces: &mut Interfaces, source: &Source) {
    let new = match config.reload_from() {
        Ok(new) => new,
        Err(error) => {
            error!("the configuration stays as it was: {error}");
            return source.reloaded(None);
        }
    };
    if let Err(error) = interfaces.set_ports(&new.traffics) {
        error!("the configuration stays as it was: {error}");
        return source.reloaded(None);
    }
    for key in config.changed_keys(&new) {
        warn!("a new value for {key} counts from the next start on");
    }
    source.reloaded(Some(Arc::new(new.traffics.clone())));
    config.traffics = new.traffics;
    info!(
        "configuration reloaded: {} traffics, {} ports",
        config.traffics.len(),
        config.traffics.port_count()
    );
}

/// What is looked at from time to time.
fn report(source: &Source, packet_log: &mut PacketLog, demand: &mut bool) {
    report_losses(source, packet_log);
    if let Err(error) = source.retire_interfaces() {
        warn!("{error}");
    }
    if !*demand {
        match source.packets_seen() {
            Ok(0) => {
                info!(
                    "no demand yet: no packet on the watched ports since the start \
                     (`cargo xtask demo` shows what blocked traffic looks like)"
                );
                *demand = true;
            }
            Ok(_) => *demand = true,
            Err(error) => warn!("{error}"),
        }
    }
}

fn report_losses(source: &Source, packet_log: &mut PacketLog) {
    match source.losses() {
        Ok(losses) => packet_log.report(&losses, TICK),
        Err(error) => warn!("{error}"),
    }
}

/// What the HTTP server shows.
#[derive(Debug)]
struct Site {
    exporter: Exporter,
    states: SharedStates,
}

impl http::Site for Site {
    fn metrics(&self) -> Result<String, String> {
        self.exporter.render()
    }

    fn ready(&self) -> Result<(), String> {
        let missing: Vec<String> = self
            .states
            .get()
            .iter()
            .filter_map(|((hook, interface), state)| {
                let why = state.as_ref().err()?;
                let place = if interface.is_empty() { "" } else { " of " };
                Some(format!("hook {}{place}{interface}: {why}", hook.as_str()))
            })
            .collect();
        if missing.is_empty() {
            Ok(())
        } else {
            Err(missing.join("; "))
        }
    }
}
