//! A real Prometheus with the shipped job and rules, and what it says of itself.

use std::{
    fmt::Write as _,
    fs::{self, File},
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

/// How long it may take to start.
const START: Duration = Duration::from_mins(1);

/// It runs until this is dropped, which removes its files too.
#[derive(Debug)]
pub(crate) struct Prometheus {
    child: Child,
    port: u16,
    folder: PathBuf,
}

impl Prometheus {
    /// Starts it in a folder of its own, with the files of `deploy/prometheus` and these targets.
    ///
    /// # Errors
    ///
    /// When a file cannot be written, or it does not start.
    pub(crate) fn start(program: &Path, targets: &str) -> Result<Self> {
        let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/prometheus");
        let folder = std::env::temp_dir().join(format!("peerwatch-fleet-{}", std::process::id()));
        for name in ["scrape/targets", "rules", "data"] {
            fs::create_dir_all(folder.join(name))?;
        }
        for name in ["scrape/fleet.yml", "rules/fleet.yml"] {
            fs::copy(deploy.join(name), folder.join(name)).context(name)?;
        }
        fs::write(folder.join("scrape/targets/hosts.yml"), targets)?;
        // Free a moment ago.
        let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
        let child = Command::new(program)
            .arg("--config.file=scrape/fleet.yml")
            .arg("--storage.tsdb.path=data")
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .current_dir(&folder)
            .stderr(File::create(folder.join("log"))?)
            .stdout(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let mut server = Self {
            child,
            port,
            folder,
        };
        let start = Instant::now();
        while server.get("/-/ready").is_err() {
            if server.child.try_wait()?.is_some() || start.elapsed() > START {
                let log = fs::read_to_string(server.folder.join("log"))?;
                bail!("Prometheus did not start:\n{log}");
            }
            thread::sleep(Duration::from_millis(100));
        }
        Ok(server)
    }

    /// The body of an answer. HTTP 1.0, so that it comes in one piece.
    fn get(&self, path: &str) -> Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_read_timeout(Some(START))?;
        write!(stream, "GET {path} HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (head, body) = answer
            .split_once("\r\n\r\n")
            .context("no end of the head")?;
        ensure!(head.split(' ').nth(1) == Some("200"), "{path}: {head}");
        Ok(body.to_owned())
    }

    /// Its own metrics.
    ///
    /// # Errors
    ///
    /// When it does not answer.
    pub(crate) fn metrics(&self) -> Result<String> {
        self.get("/metrics")
    }

    /// The one number that an expression yields.
    ///
    /// # Errors
    ///
    /// When it yields none.
    pub(crate) fn query(&self, expression: &str) -> Result<f64> {
        let mut path = "/api/v1/query?query=".to_owned();
        for byte in expression.bytes() {
            write!(path, "%{byte:02x}")?;
        }
        let body: Value = serde_json::from_str(&self.get(&path)?)?;
        let value = body["data"]["result"][0]["value"][1].as_str();
        Ok(value
            .with_context(|| format!("{expression} yields nothing"))?
            .parse()?)
    }

    /// Every rule with the seconds of its last evaluation, the slowest first.
    ///
    /// # Errors
    ///
    /// When it does not answer, or a rule failed.
    pub(crate) fn rules(&self) -> Result<Vec<(String, f64)>> {
        let body: Value = serde_json::from_str(&self.get("/api/v1/rules")?)?;
        let mut rules = Vec::new();
        for rule in body["data"]["groups"][0]["rules"]
            .as_array()
            .context("no rules")?
        {
            let name = rule["name"].as_str().context("a rule without a name")?;
            ensure!(rule["health"] == "ok", "{name}: {}", rule["lastError"]);
            rules.push((
                name.to_owned(),
                rule["evaluationTime"].as_f64().context("no time")?,
            ));
        }
        rules.sort_by(|a, b| b.1.total_cmp(&a.1));
        Ok(rules)
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        // It may have ended by itself, and a folder that stays does no harm.
        self.child.kill().unwrap_or_default();
        self.child.wait().map(|_| ()).unwrap_or_default();
        fs::remove_dir_all(&self.folder).unwrap_or_default();
    }
}

/// The sum of a metric over its series, from the text of [`Prometheus::metrics`].
///
/// # Errors
///
/// When there is none.
pub(crate) fn sum(metrics: &str, name: &str) -> Result<f64> {
    let mut sum = None;
    for line in metrics.lines() {
        let Some(rest) = line
            .strip_prefix(name)
            .filter(|rest| rest.starts_with(['{', ' ']))
        else {
            continue;
        };
        let value: f64 = rest.rsplit(' ').next().unwrap_or_default().parse()?;
        *sum.get_or_insert(0.0) += value;
    }
    sum.with_context(|| format!("Prometheus has no {name}"))
}

#[cfg(test)]
mod tests {
    use super::sum;

    #[test]
    fn a_metric_is_summed_over_its_series_only() {
        let text = "# HELP a x\na{b=\"c d\"} 1\na{b=\"e\"} 2.5\na_total 7\n";
        assert!((sum(text, "a").unwrap() - 3.5).abs() < 1e-9);
        assert!(sum(text, "b").is_err());
    }
}
