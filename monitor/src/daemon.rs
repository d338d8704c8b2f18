//! The daemon: everything is checked, then loaded, then attached; then it follows interfaces, writes the
//! packet log and serves metrics until it is told to stop.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use thiserror::Error;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Interval, MissedTickBehavior};
use tracing::{error, info, warn};

use crate::bpf::attach::{Hooks, SharedStates, remove_clsact};
use crate::bpf::kernel::BtfFileError;
use crate::bpf::load;
use crate::bpf::tables::TableError;
use crate::config::{Config, ConfigError};
use crate::heap;
use crate::http;
use crate::instance::InstanceError;
use crate::link::{LinkError, LinkEvent, LinkWatcher};
use crate::metrics::{Exporter, Source};
use crate::preflight::PreflightError;
use crate::service::ServiceManager;
use crate::traffic::TrafficError;

mod answer;
mod attempts;
mod calls;
mod coverage;
pub(crate) mod early;
mod events;
pub(crate) mod interfaces;
mod keep;
mod lookout;
pub(crate) mod places;
mod start;
mod states;
mod status;
mod teredo;

use answer::Answer;
pub use early::Early;
use events::{Diagnostics, PacketLog};
use interfaces::Interfaces;
use start::Prepared;

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
    /// The file of `--web-config`, or one that it names, is not good.
    #[error(transparent)]
    Web(#[from] http::WebError),
    /// The file of `--btf` is not what it should be.
    #[error(transparent)]
    Btf(#[from] BtfFileError),
    /// The kernel refused maps or programs.
    #[error(transparent)]
    Load(#[from] load::LoadError),
    /// The kernel refused a table.
    #[error(transparent)]
    Table(#[from] TableError),
    /// Interfaces cannot be followed.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The kernel refused every program: there is nothing to say.
    #[error("no hook of peerwatch works on this kernel: {0}")]
    Refused(String),
    /// The metrics server ended by itself.
    #[error("the metrics server ended: {0}")]
    Server(String),
    /// There are counters of too many traffics.
    #[error("{0}")]
    Traffics(TrafficError),
    /// A system call.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

fn system(what: &'static str) -> impl Fn(io::Error) -> RunError {
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

/// Runs until a signal ends it. Nothing is attached before everything that can be checked is.
///
/// # Errors
///
/// What kept it from starting; once it runs, only that its metrics server ended.
pub async fn run(mut config: Config, early: Early, mut signals: Signals) -> Result<(), RunError> {
    // With the power that is left: what cannot be read now could not be read when it changes.
    let web = Arc::new(http::Web::open(config.web_config.as_deref())?);
    let address = early
        .listener
        .local_addr()
        .map_err(system("the address of the metrics socket is not known"))?;
    let mut watcher = LinkWatcher::new()?;
    let first_events = until_synced(&mut watcher).await;
    let names: Vec<&str> = watcher
        .interfaces()
        .map(|interface| interface.name.as_str())
        .collect();
    config.interfaces.require(&names)?;

    let Prepared {
        mut hooks,
        tables,
        mut places,
        source,
        mut packet_log,
        mut attempts,
        diagnostics,
        store,
        saved,
    } = start::prepare(&mut config, &early)?;
    source.loaded(hooks.loaded());
    if let Some(statistics) = early.statistics {
        source.keep_statistics(statistics);
    }
    let shared_states = hooks.states();
    let mut interfaces = Interfaces::new(config.interfaces.clone(), tables, Arc::clone(&source));
    // First what the programs need to know, then the hooks: a packet must not be counted as somebody
    // else's because an address was not in the table yet.
    for event in &first_events {
        interfaces.learn(event);
    }
    let site = Arc::new(Site {
        exporter: Exporter::new(Arc::clone(&source)),
        source: Arc::clone(&source),
        file: config.config_path.clone(),
        started: Instant::now(),
        states: shared_states.clone(),
    });
    interfaces.forget_others();
    coverage::attach(&mut hooks, &interfaces, &early.cgroup);
    attempts.take_rest();
    keep::commit(&mut hooks, &config.traffics, &source);
    let mut answer = Answer::begin(
        attempts,
        shared_states,
        (store, saved),
        &source,
        &mut packet_log,
    );

    let mut beside = Beside::begin(early.listener, site, Arc::clone(&web), diagnostics);
    let mut manager = ServiceManager::from_environment();
    announce(address, &web, &mut manager);

    let mut tick = every(TICK);
    let mut watch = coverage::Watch::begin().map_err(system("a thread could not be started"))?;
    tick.tick().await;
    let mut demand = false;
    let mut failure = None;
    loop {
        tokio::select! {
            order = signals.next() => match order {
                Order::Stop(name) => {
                    info!("{name}: stopping");
                    break;
                }
                Order::Reload => reload(&mut config, &mut interfaces, &mut hooks, &source),
            },
            event = watcher.next() => interfaces.follow(&mut hooks, event),
            () = packet_log.ready() => packet_log.drain(&source),
            due = answer.due() => {
                if answer.work(due, &source, &mut packet_log) {
                    manager.works();
                }
            }
            turn = watch.turn() => watch.take(turn, &mut hooks, &early.cgroup),
            _ = tick.tick() => {
                report(&source, &mut packet_log, &mut demand);
                coverage::retry(&mut hooks, &interfaces, &source, &early.cgroup);
                places.refresh(&mut interfaces);
            }
            result = &mut beside.server => {
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

    manager.stopping();
    end(hooks);
    answer.keep(&source, true);
    packet_log.drain(&source);
    report_losses(&source, &mut packet_log);
    packet_log.finish().await;
    beside.end(failure.is_some()).await;
    failure.map_or(Ok(()), |why| Err(RunError::Server(why)))
}

/// An interval that does not catch up on what it missed.
fn every(period: Duration) -> Interval {
    let mut interval = tokio::time::interval(period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

/// Leaves what is pinned, and detaches everything else.
fn end(hooks: Hooks) {
    let pinned = hooks.kept().map(|kept| kept.pins.folder().to_owned());
    remove_clsact(&hooks.end());
    if let Some(folder) = pinned {
        info!(
            "counting goes on in the kernel ({}); `peerwatch uninstall` ends it",
            folder.display()
        );
    }
}

/// The tasks beside the daemon's own.
struct Beside {
    server: JoinHandle<Result<(), http::HttpError>>,
    diagnostics: Option<JoinHandle<()>>,
    stop: watch::Sender<bool>,
}

impl Beside {
    fn begin(
        listener: TcpListener,
        site: Arc<Site>,
        web: Arc<http::Web>,
        diagnostics: Option<Diagnostics>,
    ) -> Self {
        // Before anybody is served: whoever needs memory meanwhile has to wait.
        heap::give_back();
        let (stop, stopped) = watch::channel(false);
        let server = tokio::spawn(http::serve(listener, site, web, stopping(stopped.clone())));
        let diagnostics =
            diagnostics.map(|diagnostics| tokio::spawn(diagnostics.run(stopping(stopped))));
        Self {
            server,
            diagnostics,
            stop,
        }
    }

    /// Ends them; the server may have ended by itself.
    async fn end(self, server_has: bool) {
        // Fails only where nobody listens any more.
        self.stop.send_replace(true);
        if !server_has && let Ok(Err(error)) = self.server.await {
            warn!("the metrics server ended: {error}");
        }
        if let Some(diagnostics) = self.diagnostics
            && let Err(error) = diagnostics.await
        {
            warn!("the diagnostics of the kernel programs ended: {error}");
        }
    }
}

/// Says where the metrics are and who can reach them.
fn announce(address: SocketAddr, web: &http::Web, manager: &mut ServiceManager) {
    let protection = web.protection();
    let line = http::describe(address, protection);
    info!("{line}");
    if let Some(warning) = http::exposure(address, protection) {
        warn!("{warning}");
    }
    manager.ready(&line);
}

/// What there is at first.
async fn until_synced(watcher: &mut LinkWatcher) -> Vec<LinkEvent> {
    let mut events = Vec::new();
    loop {
        match watcher.next().await {
            LinkEvent::Synced => return events,
            event => events.push(event),
        }
    }
}

async fn stopping(mut stopped: watch::Receiver<bool>) {
    // An error means that the sender is gone, so it is over as well.
    if stopped.wait_for(|stopped| *stopped).await.is_err() {}
}

/// SIGHUP: takes over the traffics of the file as it is now. A bad file keeps the old ones.
fn reload(config: &mut Config, interfaces: &mut Interfaces, hooks: &mut Hooks, source: &Source) {
    let new = match config.reload_from() {
        Ok(new) => new,
        Err(error) => {
            error!("the configuration stays as it was: {error}");
            return source.reloaded(None);
        }
    };
    // Whose the counters are is noted first: a daemon that is killed in between must not leave counts that
    // are nobody's.
    keep::commit(hooks, &new.traffics, source);
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
    source: Arc<Source>,
    states: SharedStates,
    /// The configuration file.
    file: Option<PathBuf>,
    started: Instant,
}

impl http::Site for Site {
    fn metrics(&self) -> Result<String, String> {
        self.exporter.render()
    }

    fn status(&self, peers: bool) -> Result<String, String> {
        let file = self.file.as_deref();
        let document = status::document(&self.source, &self.states, file, self.started);
        if peers {
            document.to_json()
        } else {
            document.without_peers().to_json()
        }
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
