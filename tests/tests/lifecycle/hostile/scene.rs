//! A daemon, scrapers who behave, and strangers who do not.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use monitor_tests::wait::until;
use monitor_tests::web::{Scraper, Web, connect};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use rustls::ClientConfig;

use crate::site::{HERE, Process, START, Site, THERE, command};

/// Where strangers and scrapers ask.
pub(super) const TO: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(HERE), 9680);

/// Another address of the peer, from which nobody else asks.
pub(super) const APART: Ipv4Addr = Ipv4Addr::new(10, 77, 1, 3);

/// What the issue asks for.
pub(super) const SERVED: Duration = Duration::from_secs(1);

/// How often each scraper asks while the strangers are at it.
pub(super) const ROUNDS: u32 = 5;

/// A pause between rounds.
pub(super) const PAUSE: Duration = Duration::from_millis(200);

/// A daemon that others can reach, and scrapers.
pub(super) struct Scene {
    pub(super) process: Process,
    pub(super) tls: Option<Arc<ClientConfig>>,
    /// Keeps its connection.
    pub(super) kept: Scraper,
    /// Whether strangers are on the daemon's own host.
    pub(super) inside: bool,
    pub(super) site: Site,
}

impl Scene {
    /// With TLS and a password, or open; one scraper has been there.
    pub(super) fn create(protected: bool) -> Result<Self> {
        let mut scene = Self::fresh(protected)?;
        let (peer, kept) = (&scene.site.peer, &mut scene.kept);
        let process = &mut scene.process;
        process.wait_for("a scrape", || peer.run(|| Ok(kept.scrape().is_ok())))?;
        Ok(scene)
    }

    /// With TLS and a password, or open; nobody has been there since the daemon started.
    pub(super) fn fresh(protected: bool) -> Result<Self> {
        // The hard one stays as it is for children, who get the soft one of their parent.
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
        let wanted = 16_384;
        if soft < wanted {
            setrlimit(Resource::RLIMIT_NOFILE, wanted, hard.max(wanted))?;
        }
        let site = Site::create()?;
        site.peer.ip(&format!("address add {APART}/24 dev eth0"))?;
        let mac = site.peer.mac("eth0")?.map(|byte| format!("{byte:02x}"));
        let mac = mac.join(":");
        site.host.ip(&format!(
            "neigh replace {APART} lladdr {mac} nud permanent dev lan0"
        ))?;
        let mut words = vec!["run", "--config", "/dev/null", "--listen", "[::]:9680"];
        let mut tls = None;
        let file;
        if protected {
            let web = Web::create(site.temp.path())?;
            tls = Some(web.client()?);
            file = web.file().display().to_string();
            words.extend(["--web-config", &file]);
        }
        // Its own limit is that of a service: what it has to do with is no more than that.
        let mut start = command(&site.host, &words)?;
        limit_files(&mut start);
        let process = Process::start(start, &site, "daemon")?;
        until("it listens", START, || {
            Ok(process.stderr()?.contains("metrics on ").then_some(()))
        })?;
        Ok(Self {
            process,
            kept: Scraper::new(APART, TO, tls.clone()),
            inside: false,
            tls,
            site,
        })
    }

    /// Lets strangers, of [`THERE`] as a rule, be at it in several threads until the function that they are given says that
    /// it is over, and scrapers ask meanwhile. `ready` says when it has begun.
    pub(super) fn under(
        mut self,
        what: &str,
        threads: usize,
        stranger: impl Fn(&Attack) -> Result<()> + Sync,
        ready: impl Fn(&Attack) -> bool,
    ) -> Result<()> {
        let attack = Attack::default();
        let (peer, from_there) = (&self.site.peer, &self.tls);
        let kept = &mut self.kept;
        let place = if self.inside { &self.site.host } else { peer };
        let result = std::thread::scope(|scope| {
            let strangers: Vec<_> = (0..threads)
                .map(|_| scope.spawn(|| place.run(|| stranger(&attack))))
                .collect();
            let measured = (|| -> Result<[Duration; 3]> {
                until("the strangers are at it", START, || {
                    ensure!(
                        !strangers
                            .iter()
                            .any(std::thread::ScopedJoinHandle::is_finished),
                        "a stranger gave up"
                    );
                    Ok(ready(&attack).then_some(()))
                })?;
                let mut worst = [Duration::ZERO; 3];
                if !kept.is_connected() {
                    let first = peer.run(|| kept.scrape());
                    worst[0] = first.context("the first scrape of all")?;
                }
                for _ in 0..ROUNDS {
                    peer.run(|| {
                        ensure!(kept.is_connected());
                        let mut one = |index: usize, time: Duration| {
                            worst[index] = worst[index].max(time);
                        };
                        one(0, kept.scrape().context("the connection that is kept")?);
                        for (index, from) in [(1, APART), (2, THERE)] {
                            let mut new = Scraper::new(from, TO, from_there.clone());
                            let time = new.scrape().with_context(|| format!("a new one of {from}"));
                            one(index, time?);
                        }
                        Ok(())
                    })?;
                    std::thread::sleep(PAUSE);
                }
                Ok(worst)
            })();
            attack.over.store(true, Ordering::SeqCst);
            for stranger in strangers {
                match stranger.join() {
                    Ok(result) => result.context("a stranger")?,
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
            measured
        });
        let times = result.with_context(|| self.process_said())?;
        let [kept, apart, same] = times;
        println!(
            "{what}: {} done by strangers; worst of {ROUNDS} scrapes: kept connection {kept:.0?}, new one {apart:.0?}, new \
             one of the strangers' address {same:.0?}; limit {SERVED:?}",
            attack.done.load(Ordering::SeqCst)
        );
        for time in times {
            ensure!(time < SERVED, "{what}: {times:?}");
        }
        let said = self.process.stderr()?;
        ensure!(!said.contains("panicked"), "{said}");
        Ok(())
    }

    fn process_said(&self) -> String {
        self.process.stderr().unwrap_or_default()
    }
}

/// Gives a process the usual limit of files.
fn limit_files(command: &mut std::process::Command) {
    use std::os::unix::process::CommandExt as _;
    // SAFETY: between fork and exec only setrlimit(2) is called, which is async-signal-safe.
    unsafe {
        command.pre_exec(|| Ok(setrlimit(Resource::RLIMIT_NOFILE, 1024, 1024)?));
    }
}

/// What strangers share.
#[derive(Default)]
pub(super) struct Attack {
    over: AtomicBool,
    /// How much they have done.
    pub(super) done: AtomicU64,
}

impl Attack {
    pub(super) fn goes_on(&self) -> bool {
        !self.over.load(Ordering::SeqCst)
    }

    pub(super) fn did(&self) {
        self.done.fetch_add(1, Ordering::SeqCst);
    }

    pub(super) fn has_done(&self, count: u64) -> bool {
        self.done.load(Ordering::SeqCst) >= count
    }
}

pub(super) fn open() -> Result<TcpStream> {
    connect(THERE, TO)
}

/// Waits, but not longer than the attack.
pub(super) fn pause(attack: &Attack, time: Duration) {
    let begin = Instant::now();
    while attack.goes_on() && begin.elapsed() < time {
        std::thread::sleep(Duration::from_millis(10));
    }
}
