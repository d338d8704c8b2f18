//! A Prometheus in the gateway that scrapes the daemon once a second, with the rules that are shipped.

use std::{net::SocketAddr, path::Path, process::Command};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use super::{
    daemon,
    folder::Folder,
    http::{self, encoded},
    namespace::{Entrance, Namespace},
    process::Process,
};
use crate::{
    build,
    packages::prometheus::pages,
    rules::{RUNBOOKS, Scale, render_all},
};

/// The port of its default address, on the gateway's loopback device.
pub(super) const PORT: u16 = 9090;
/// A minute of the shipped rules is three seconds here.
pub(super) const FASTER: u32 = 20;
/// The rules for a host; the others are for many hosts, and for those who want more.
const RULES: &str = "host.yml";
/// True some scrapes after its start. Until then there seems to be no daemon, or one that does nothing,
/// of which there are alerts.
const SETTLED: &str = "changes(peerwatch_evaluation_timestamp_seconds[10s]) >= 3";

/// A running Prometheus.
#[derive(Debug)]
pub(super) struct Prometheus {
    process: Process,
    gateway: Entrance,
}

impl Prometheus {
    /// Starts it, with its files in `folder`. `outside` is where people reach it.
    ///
    /// # Errors
    ///
    /// When there are no rules, or it does not start. Whether it gets ready is for
    /// [`Prometheus::is_ready`].
    pub(super) fn start(
        gateway: &Namespace,
        program: &Path,
        folder: &Folder,
        outside: SocketAddr,
    ) -> Result<Self> {
        let scale: Scale = format!("1/{FASTER}").parse()?;
        let source = build::root()?.join("deploy/prometheus/source");
        let all = render_all(&source, scale, RUNBOOKS)?;
        let rules = all.iter().find(|rules| rules.name == RULES);
        let rules = rules.with_context(|| format!("no {RULES} in {}", source.display()))?;
        folder.write(RULES, &rules.text)?;
        let configuration = folder.write("prometheus.yml", &configuration())?;
        let mut command = Command::new(program);
        command
            .current_dir(folder.path())
            .arg(format!("--config.file={}", configuration.display()))
            .arg("--storage.tsdb.path=data")
            .arg(format!("--web.listen-address=127.0.0.1:{PORT}"))
            .arg(format!("--web.external-url=http://{outside}/"))
            .arg("--log.level=warn");
        if let Some(pages) = pages(program) {
            command.arg(format!("--web.local-assets={}", pages.display()));
        }
        Ok(Self {
            process: Process::start("Prometheus", gateway, command)?,
            gateway: gateway.entrance()?,
        })
    }

    /// Whether it answers questions, and knows the daemon for some seconds.
    ///
    /// # Errors
    ///
    /// When it has ended, with what it said.
    pub(super) fn is_ready(&mut self) -> Result<bool> {
        self.process.check()?;
        if !matches!(self.get("/-/ready"), Ok((200, _))) {
            return Ok(false);
        }
        let asked = format!("/api/v1/query?query={}", encoded(SETTLED));
        let Ok((200, answer)) = self.get(&asked) else {
            return Ok(false);
        };
        let answer: Value = serde_json::from_str(&answer)?;
        let found = answer["data"]["result"].as_array();
        Ok(found.is_some_and(|found| !found.is_empty()))
    }

    /// Where its pages begin: Debian's has only the older ones, in a place of their own.
    pub(super) fn pages(&self) -> &'static str {
        match self.get("/alerts") {
            Ok((200, _)) => "",
            _ => "/classic",
        }
    }

    /// The alerts that it has now, as its interface lists them.
    ///
    /// # Errors
    ///
    /// When it has ended or does not answer, with what it said.
    pub(super) fn alerts(&mut self) -> Result<Vec<Value>> {
        let answer = self.get("/api/v1/alerts");
        let Ok((status, body)) = answer else {
            self.process.check()?;
            bail!("Prometheus does not answer\n{}", self.process.errors());
        };
        ensure!(status == 200, "Prometheus answers by {status}: {body}");
        let mut document: Value = serde_json::from_str(&body)?;
        match document["data"]["alerts"].take() {
            Value::Array(alerts) => Ok(alerts),
            _ => bail!("Prometheus lists no alerts: {body}"),
        }
    }

    fn get(&self, path: &str) -> Result<(u16, String)> {
        http::get(&self.gateway, PORT, path)
    }
}

/// The daemon is the only target.
fn configuration() -> String {
    format!(
        "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\n\
         rule_files: [{RULES}]\n\
         scrape_configs:\n  - job_name: peerwatch\n    static_configs:\n      \
         - targets: ['127.0.0.1:{}']\n",
        daemon::PORT
    )
}
