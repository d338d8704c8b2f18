//! The servers that page somebody: Prometheus with the rules that are shipped, Alertmanager, and who is
//! told. All on the gateway's loopback device, where the daemon is.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::daemon::lay_over;
use crate::http::{encode, request};
use crate::netns::NetNs;
use crate::process::{Process, find};
use crate::wait::until;

/// Where Prometheus listens by default.
const PROMETHEUS: u16 = 9090;
/// Where Alertmanager listens by default.
const ALERTMANAGER: u16 = 9093;
/// How long a server may take to start, on a machine with other things to do.
const START: Duration = Duration::from_secs(30);
/// How long somebody who sends a message may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// A Prometheus.
#[derive(Debug)]
pub(super) struct Prometheus<'a> {
    host: &'a NetNs,
    process: Process,
}

impl<'a> Prometheus<'a> {
    /// Starts it with this configuration file, in the folder where that lies.
    pub(super) fn start(host: &'a NetNs, folder: &Path, configuration: &str) -> Result<Self> {
        let file = folder.join("prometheus.yml");
        std::fs::write(&file, configuration)?;
        let mut command = host.command(find("prometheus")?)?;
        command
            .arg(format!("--config.file={}", file.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                folder.join("tsdb").display()
            ))
            .arg(format!("--web.listen-address=127.0.0.1:{PROMETHEUS}"));
        let process = Process::start("prometheus", command, folder)?;
        let mut this = Self { host, process };
        let ready = until("Prometheus is ready", START, || {
            ensure!(this.process.runs()?, "it ended");
            Ok(is_ready(host, PROMETHEUS).then_some(()))
        });
        ready.with_context(|| this.process.said())?;
        Ok(this)
    }

    /// What a path of its interface answers.
    pub(super) fn get(&self, path: &str) -> Result<Value> {
        let answer = request(self.host, PROMETHEUS, &format!("GET {path}"), "")?;
        let document: Value = serde_json::from_slice(&answer.body)
            .with_context(|| format!("{path}: {}", answer.status))?;
        ensure!(
            document["status"] == "success",
            "{path}: {}: {}",
            answer.status,
            document["error"]
        );
        Ok(document["data"].clone())
    }

    /// The result of an expression, now.
    pub(super) fn query(&self, expression: &str) -> Result<Vec<Value>> {
        let data = self
            .get(&format!("/api/v1/query?query={}", encode(expression)))
            .with_context(|| format!("{expression:?}"))?;
        match &data["result"] {
            // A scalar or string: time and value.
            Value::Array(pair)
                if data["resultType"] != "vector" && data["resultType"] != "matrix" =>
            {
                Ok(vec![Value::Array(pair.clone())])
            }
            Value::Array(series) => Ok(series.clone()),
            other => anyhow::bail!("{expression:?}: {other}"),
        }
    }

    /// The state of an alert with these labels: `pending`, `firing`, or `None`.
    pub(super) fn alert(&self, name: &str, labels: &[(&str, &str)]) -> Result<Option<String>> {
        let alerts = self.get("/api/v1/alerts")?;
        let alerts = alerts["alerts"].as_array().context("no list of alerts")?;
        let found = alerts.iter().find(|alert| {
            let is = |name: &str, value: &str| alert["labels"][name] == value;
            is("alertname", name) && labels.iter().all(|(name, value)| is(name, value))
        });
        Ok(found
            .and_then(|alert| alert["state"].as_str())
            .map(str::to_owned))
    }

    /// Ends it.
    pub(super) fn stop(self) -> Result<()> {
        self.process.stop()
    }
}

fn is_ready(host: &NetNs, port: u16) -> bool {
    request(host, port, "GET /-/ready", "").is_ok_and(|answer| answer.status == 200)
}

/// Starts an Alertmanager with this configuration file.
pub(super) fn alertmanager(host: &NetNs, folder: &Path, configuration: &str) -> Result<Process> {
    let file = folder.join("alertmanager.yml");
    std::fs::write(&file, configuration)?;
    let program = find("prometheus-alertmanager")?;
    let mut command = host.command(&program)?;
    see_templates(&mut command, &program)?;
    command
        .arg(format!("--config.file={}", file.display()))
        .arg(format!(
            "--storage.path={}",
            folder.join("alerts").display()
        ))
        .arg(format!("--web.listen-address=127.0.0.1:{ALERTMANAGER}"))
        // It talks to no other.
        .arg("--cluster.listen-address=");
    let mut process = Process::start("alertmanager", command, folder)?;
    let ready = until("Alertmanager is ready", START, || {
        ensure!(process.runs()?, "it ended");
        Ok(is_ready(host, ALERTMANAGER).then_some(()))
    });
    ready.with_context(|| process.said())?;
    Ok(process)
}

/// It reads its templates from where they would be installed. Where set-up unpacked them, they are shown
/// there, to it alone.
fn see_templates(command: &mut Command, program: &Path) -> Result<()> {
    let files = program.with_file_name("prometheus-alertmanager-files/usr/share");
    if !files.is_dir() {
        return Ok(());
    }
    let files = files.to_str().context("a path that is no UTF-8")?;
    lay_over(command, &[(files, "/usr/share")])
}

/// A message that somebody got.
#[derive(Clone, Debug)]
pub(super) struct Message {
    pub(super) at: SystemTime,
    /// `firing` or `resolved`.
    pub(super) status: String,
    /// The alert, as Alertmanager's webhook has it.
    pub(super) alert: Value,
}

/// Who is paged: takes messages of Alertmanager's webhook. Its thread ends with the test program.
#[derive(Clone, Debug)]
pub(super) struct Pager {
    messages: Arc<Mutex<Vec<Message>>>,
    pub(super) port: u16,
}

impl Pager {
    /// Listens on the host's loopback device.
    pub(super) fn start(host: &NetNs) -> Result<Self> {
        let listener = host.run(|| Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?))?;
        let this = Self {
            messages: Arc::default(),
            port: listener.local_addr()?.port(),
        };
        let messages = Arc::clone(&this.messages);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                match stream.map_err(Into::into).and_then(take) {
                    Ok(new) => messages
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .extend(new),
                    Err(error) => eprintln!("a message that is none: {error:#}"),
                }
            }
        });
        Ok(this)
    }

    /// The messages so far of one alert.
    pub(super) fn messages(&self, alert: &str, status: &str) -> Vec<Message> {
        let messages = self.messages.lock().unwrap_or_else(PoisonError::into_inner);
        let of_it = messages.iter().filter(|message| {
            message.status == status && message.alert["labels"]["alertname"] == alert
        });
        of_it.cloned().collect()
    }
}

/// One POST: its alerts. It is answered, and the connection closed.
fn take(mut stream: TcpStream) -> Result<Vec<Message>> {
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let line = line.trim_end().to_ascii_lowercase();
        if line.is_empty() {
            break;
        }
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse()?;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")?;
    let document: Value = serde_json::from_slice(&body)?;
    let alerts = document["alerts"].as_array().context("no alerts")?;
    let at = SystemTime::now();
    Ok(alerts
        .iter()
        .map(|alert| Message {
            at,
            status: alert["status"].as_str().unwrap_or_default().to_owned(),
            alert: alert.clone(),
        })
        .collect())
}
