//! From a firewall's rule to whoever is paged: real Prometheus with the rules that are shipped, in a time of
//! their own, and real Alertmanager.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};

use crate::attempts::lab::{Lab, TARGETS};
use crate::expect::Family;
use crate::lab::address;
use crate::netns::{TempDir, keep, unique_prefix};
use crate::scrape::{Series, parse_values};
use crate::wait::until;

mod answers;
mod expressions;
#[cfg_attr(
    not(test),
    expect(dead_code, reason = "the task and the check use more of it")
)]
#[path = "../../xtask/src/rules.rs"]
mod rules;
mod servers;

use answers::Answers;
use rules::{RUNBOOKS, Scale};
use servers::{Message, Pager, Prometheus, alertmanager};

/// A minute of the rules is three seconds here.
const SCALE: &str = "1/20";

/// States are decided as ever, only of a shorter window.
const CONFIGURATION: &str = "bpf_stats = true\n[[traffic]]\nname = \"do_peer\"\nwindow = \"1m\"\nrecovery = \"2s\"\n\
    blocked_spread = \"2s\"\n";

/// How long each step may take, on a machine with other things to do.
const STEP: Duration = Duration::from_mins(1);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(100);

/// The alert that this is about.
const ALERT: &str = "PeerwatchTrafficBlocked";
const LABELS: [(&str, &str); 4] = [
    ("traffic", "do_peer"),
    ("direction", "forwarded"),
    ("blocked_by", "local_firewall"),
    ("severity", "critical"),
];

/// How many hosts somebody tries to reach, and how long a try waits.
const PEERS: u8 = 4;
const PATIENCE: Duration = Duration::from_millis(150);
const PORT: u16 = 7680;

/// What happened when.
#[derive(Debug, Default)]
struct Timeline {
    events: Vec<(SystemTime, String)>,
}

impl Timeline {
    fn note(&mut self, what: impl Into<String>) {
        self.note_at(SystemTime::now(), what);
    }

    fn note_at(&mut self, at: SystemTime, what: impl Into<String>) {
        self.events.push((at, what.into()));
    }

    fn show(&mut self) -> String {
        self.events.sort_by_key(|(at, _)| *at);
        let first = self.events.first().map_or(UNIX_EPOCH, |(at, _)| *at);
        let lines = self.events.iter().map(|(at, what)| {
            let after = at.duration_since(first).unwrap_or_default();
            format!("  {:>7.2} s  {what}\n", after.as_secs_f64())
        });
        lines.collect()
    }
}

/// A rule is added, somebody is paged, the rule goes, and the alert resolves; and every expression that is
/// shipped has an answer meanwhile.
///
/// # Errors
///
/// What did not happen, with what the servers said.
pub fn blocked_and_resolved() -> Result<()> {
    let mut lab = Lab::create_with(CONFIGURATION)?;
    let temp = TempDir::create(&unique_prefix())?;
    let mut timeline = Timeline::default();
    let stop = AtomicBool::new(false);
    let peers = Peers::start(&lab)?;
    let result = std::thread::scope(|scope| {
        let traffic = scope.spawn(|| peers.talk(&lab, &stop));
        let result = {
            let _until = Until(&stop);
            story(&lab, temp.path(), &mut timeline)
        };
        traffic
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        result
    });
    eprintln!("pager:\n{}", timeline.show());
    result.with_context(|| format!("the daemon said:\n{}", lab.daemon.errors()))?;
    if keep() {
        std::mem::forget(lab);
        return Ok(());
    }
    lab.daemon.stop()
}

/// Stops the traffic when it goes, also in a panic.
struct Until<'a>(&'a AtomicBool);

impl Drop for Until<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn story(lab: &Lab, folder: &Path, timeline: &mut Timeline) -> Result<()> {
    let gw = &lab.gw;
    let pager = Pager::start(gw)?;
    let manager = alertmanager(gw, folder, &alertmanager_configuration(pager.port))?;
    let prometheus = Prometheus::start(gw, folder, &prometheus_configuration(folder)?)?;
    let mut answers = Answers::default();

    wait("the peers talk", || {
        let established = "sum(peerwatch_attempts_total{outcome=\"established\"}) >= 8";
        Ok((!prometheus.query(established)?.is_empty()).then_some(()))
    })?;
    answers.ask(&prometheus)?;
    ensure!(
        prometheus.alert(ALERT, &[])?.is_none(),
        "an alert without a cause"
    );

    timeline.note("a rule drops 7680");
    gw.nft(
        "table inet wall { chain it { type filter hook forward priority 0; tcp dport 7680 drop; }; }",
    )?;
    let blocked = wait("the state is blocked", || since(lab, "blocked"))?;
    let first = gauge(lab, "blocked_since_timestamp_seconds", &[])?;
    timeline.note_at(at(first), "the first attempt fails (blocked since)");
    timeline.note_at(at(blocked), "the state is blocked");
    for state in ["pending", "firing"] {
        wait(&format!("the alert is {state}"), || {
            let now = prometheus.alert(ALERT, &LABELS)?;
            Ok((now.as_deref() == Some(state)).then_some(()))
        })
        .with_context(|| format!("{:?}", prometheus.get("/api/v1/alerts")))?;
        timeline.note(format!("the alert is {state}"));
    }
    let message = told(&pager, "firing")?;
    timeline.note_at(message.at, "somebody is paged");
    is_complete(&message)?;
    answers.ask(&prometheus)?;

    timeline.note("the rule goes");
    gw.nft("delete table inet wall")?;
    let ok = wait("the state is ok", || since(lab, "ok"))?;
    timeline.note_at(at(ok), "the state is ok");
    wait("the alert resolves", || {
        Ok(prometheus.alert(ALERT, &LABELS)?.is_none().then_some(()))
    })?;
    timeline.note("the alert resolves");
    let message = told(&pager, "resolved")?;
    timeline.note_at(message.at, "they are told");
    answers.ask(&prometheus)?;
    answers.finish(&prometheus)?;
    prometheus.stop()?;
    manager.stop()
}

/// Clients that try to reach servers all the time.
struct Peers {
    /// Held open: the kernel accepts for them.
    listeners: Vec<TcpListener>,
    targets: Vec<SocketAddr>,
}

impl Peers {
    fn start(lab: &Lab) -> Result<Self> {
        let mut this = Self {
            listeners: Vec::new(),
            targets: Vec::new(),
        };
        for number in 0..PEERS {
            let family = if number % 2 == 0 {
                Family::V4
            } else {
                Family::V6
            };
            let target = SocketAddr::new(address(family, TARGETS, 20 + number), PORT);
            this.listeners
                .push(lab.server.run(|| Ok(TcpListener::bind(target)?))?);
            this.targets.push(target);
        }
        Ok(this)
    }

    /// One try after the other; what is blocked is given up soon.
    fn talk(&self, lab: &Lab, stop: &AtomicBool) -> Result<()> {
        for target in self.targets.iter().cycle() {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            let tried = lab
                .client
                .run(|| Ok(TcpStream::connect_timeout(target, PATIENCE).map(drop)))?;
            // Both are what it is there for; the pause is in the try where it fails.
            if tried.is_ok() {
                std::thread::sleep(PATIENCE);
            }
        }
        Ok(())
    }
}

fn wait<T>(what: &str, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    until(what, STEP, || {
        let found = look()?;
        if found.is_none() {
            std::thread::sleep(PAUSE);
        }
        Ok(found)
    })
}

/// A gauge of the traffic, from the daemon itself.
fn gauge(lab: &Lab, name: &str, more: &[(&str, &str)]) -> Result<f64> {
    let (status, body) = lab.daemon.get("/metrics")?;
    ensure!(status == 200, "/metrics: {status}");
    let labels = [&[("traffic", "do_peer"), ("direction", "forwarded")], more].concat();
    let series = Series::new(&format!("peerwatch_{name}"), &labels);
    let values: BTreeMap<Series, f64> = parse_values(&body, &[name])?;
    values
        .get(&series)
        .copied()
        .with_context(|| format!("no {series}"))
}

/// Since when the traffic is in this state, if it is.
fn since(lab: &Lab, state: &str) -> Result<Option<f64>> {
    if gauge(lab, "state", &[("state", state)])? < 1.0 {
        return Ok(None);
    }
    gauge(lab, "state_since_timestamp_seconds", &[]).map(Some)
}

fn at(unix: f64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs_f64(unix)
}

/// The first message of the alert with this status.
fn told(pager: &Pager, status: &str) -> Result<Message> {
    wait(&format!("a message: {status}"), || {
        Ok(pager.messages(ALERT, status).into_iter().next())
    })
}

/// A message says all that whoever was woken needs.
fn is_complete(message: &Message) -> Result<()> {
    let text = |key: &str| {
        message.alert["annotations"][key]
            .as_str()
            .unwrap_or_default()
    };
    let (summary, description) = (text("summary"), text("description"));
    for word in ["do_peer", "forwarded", "local_firewall"] {
        ensure!(summary.contains(word), "no {word} in {summary:?}");
    }
    for word in [
        "do_peer",
        "attempts failed",
        "Blocked since",
        "Last success",
    ] {
        ensure!(description.contains(word), "no {word} in {description:?}");
    }
    let url = text("runbook_url");
    let page = url.rsplit('/').next().unwrap_or_default();
    let file = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../docs/runbooks")
        .join(page);
    ensure!(
        url.starts_with(RUNBOOKS) && file.is_file(),
        "{url:?} is no page of docs/runbooks"
    );
    Ok(())
}

/// The rules in this test's time, and the daemon as the only target.
fn prometheus_configuration(folder: &Path) -> Result<String> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/prometheus/source");
    for file in rules::render_all(&source, SCALE.parse::<Scale>()?, RUNBOOKS)? {
        std::fs::write(folder.join(format!("rules-{}", file.name)), file.text)?;
    }
    Ok(
        "global:\n  scrape_interval: 1s\n  evaluation_interval: 1s\n\
        rule_files: [rules-*.yml]\n\
        alerting:\n  alertmanagers:\n    - static_configs: [{targets: ['127.0.0.1:9093']}]\n\
        scrape_configs:\n  - job_name: peerwatch\n    static_configs:\n      \
        - {targets: ['127.0.0.1:9680'], labels: {site: lab}}\n"
            .to_owned(),
    )
}

/// Everything to the pager at once, the more so when it is over.
fn alertmanager_configuration(port: u16) -> String {
    format!(
        "route: {{receiver: pager, group_by: ['...'], group_wait: 0s, group_interval: 1s}}\n\
         receivers:\n  - name: pager\n    webhook_configs:\n      \
         - {{url: 'http://127.0.0.1:{port}/', send_resolved: true}}\n"
    )
}

/// One row.
pub type Row = fn() -> Result<()>;

/// Every row, with its name.
#[must_use]
pub fn rows() -> Vec<(&'static str, Row)> {
    vec![("blocked_and_resolved", blocked_and_resolved)]
}
