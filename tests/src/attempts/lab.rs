//! The lab of attempts: a gateway with a running daemon between a client and a router, a server behind it.
//!
//! ```text
//! client eth0 ─── lan0 gw wan0 ─── rt0 router rt1 ─── eth0 server
//!   10.77.1.0/24      10.77.2.0/24       10.77.9.0/24       10.77.33.0/24
//! ```
//!
//! Every scene has a traffic with a port of its own, and a target of its own: sixteen of them run side by
//! side, and each sees all series that it may change.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::daemon::{Daemon, Start};
use crate::expect::Family;
use crate::lab::{Net, address, connect, give_addresses, quiet};
use crate::netns::{NetNs, TempDir, keep, unique_prefix};
use crate::scrape::Counts;

/// How many traffics a daemon can watch, and so how many scenes a lab has room for.
pub const SLOTS: usize = 16;

/// Programs are loaded one lab after the other: it takes a processor.
static LOADING: Mutex<()> = Mutex::new(());

/// Its configuration file.
const CONFIG: &str = "peerwatch.toml";

/// What scenes look at.
const COUNTERS: [&str; 2] = ["attempts_total", "attempts_lost_total"];

/// Between the gateway and the router.
pub const WAN: Net = Net::Wan;
/// Between the router and the server.
pub const FAR: Net = Net::Other;
/// The server has every address of it.
pub const TARGETS: Net = Net::ExtraWan;
/// The gateway has no route to it.
pub const NOWHERE: Net = Net::Tun;
/// The gateway has a route that forbids it.
pub const FORBIDDEN: Net = Net::Passing;
/// The client answers for it, and is deaf to what comes.
pub const SPOOFED: Net = Net::ExtraLan;

/// Host numbers of targets.
const FIRST_TARGET: u8 = 10;
const LAST_TARGET: u8 = 249;

/// Host number of the router's far side, and of the gateway in its networks.
const FIRST: u8 = 1;
/// Host number of the other end.
const SECOND: u8 = 2;

/// A traffic that a scene has for itself.
#[derive(Clone, Debug)]
pub struct Slot {
    /// Its number.
    pub index: usize,
    /// Label `traffic`.
    pub traffic: String,
    /// Its port.
    pub port: u16,
}

impl Slot {
    /// The slot with this number, below [`SLOTS`].
    #[must_use]
    pub fn new(index: usize) -> Self {
        let number = u16::try_from(index).unwrap_or(u16::MAX);
        if index == 0 {
            Self {
                index,
                traffic: "do_peer".to_owned(),
                port: 7680,
            }
        } else {
            Self {
                index,
                traffic: format!("scene{index}"),
                port: 7700 + number,
            }
        }
    }
}

/// The namespaces and the daemon.
#[derive(Debug)]
pub struct Lab {
    // Dropped in this order: the daemon first.
    /// The daemon under test, in [`Lab::gw`].
    pub daemon: Daemon,
    /// Who tries.
    pub client: NetNs,
    /// The gateway.
    pub gw: NetNs,
    /// A box in between.
    pub router: NetNs,
    /// Whom it tries to reach.
    pub server: NetNs,
    next: AtomicU16,
    scraped: Mutex<Option<(Instant, Counts)>>,
    /// Files of this lab: the daemon's output, its configuration.
    pub temp: TempDir,
}

impl Lab {
    /// Builds the namespaces and starts the daemon.
    ///
    /// # Errors
    ///
    /// When a command fails, or the daemon does not become ready.
    pub fn create() -> Result<Self> {
        Self::create_with(&traffics()?)
    }

    /// The same with another configuration file.
    ///
    /// # Errors
    ///
    /// As [`Lab::create`].
    pub fn create_with(configuration: &str) -> Result<Self> {
        Self::create_as(configuration, &Start::default())
    }

    /// The same with a daemon that is started in another way.
    ///
    /// # Errors
    ///
    /// As [`Lab::create`].
    pub fn create_as(configuration: &str, start: &Start<'_>) -> Result<Self> {
        let prefix = unique_prefix();
        let temp = TempDir::create(&prefix)?;
        let client = namespace(&prefix, "cl")?;
        let gw = namespace(&prefix, "gw")?;
        let router = namespace(&prefix, "rt")?;
        let server = namespace(&prefix, "srv")?;
        connect(&gw, "lan0", (Net::Lan, FIRST), &client, "eth0", SECOND)?;
        connect(&gw, "wan0", (WAN, FIRST), &router, "rt0", SECOND)?;
        connect(&router, "rt1", (FAR, FIRST), &server, "eth0", SECOND)?;
        give_addresses(&client, "eth0", Net::Lan, SECOND, &[FIRST])?;
        give_addresses(&gw, "lan0", Net::Lan, FIRST, &[SECOND])?;
        give_addresses(&gw, "wan0", WAN, FIRST, &[SECOND])?;
        give_addresses(&router, "rt0", WAN, SECOND, &[FIRST])?;
        give_addresses(&router, "rt1", FAR, FIRST, &[SECOND])?;
        give_addresses(&server, "eth0", FAR, SECOND, &[FIRST])?;
        let at = |family, net, host| address(family, net, host).to_string();
        for (family, bits) in [(Family::V4, 24), (Family::V6, 64)] {
            let whole = |net| format!("{}/{bits}", at(family, net, 0));
            client.ip(&format!(
                "route add default via {}",
                at(family, Net::Lan, FIRST)
            ))?;
            for net in [FAR, TARGETS] {
                let via = at(family, WAN, SECOND);
                gw.ip(&format!("route add {} via {via}", whole(net)))?;
            }
            let via = at(family, Net::Lan, SECOND);
            gw.ip(&format!("route add {} via {via}", whole(SPOOFED)))?;
            gw.ip(&format!("route add prohibit {}", whole(FORBIDDEN)))?;
            let via = at(family, FAR, SECOND);
            router.ip(&format!("route add {} via {via}", whole(TARGETS)))?;
            let via = at(family, WAN, FIRST);
            router.ip(&format!("route add default via {via}"))?;
            let via = at(family, FAR, FIRST);
            server.ip(&format!("route add default via {via}"))?;
        }
        server.ip_batch(&targets())?;
        for host in [&gw, &router] {
            host.sysctl("net.ipv4.ip_forward", "1")?;
            host.sysctl("net.ipv6.conf.all.forwarding", "1")?;
        }
        gw.sysctl("net.ipv4.conf.lan0.rp_filter", "1")?;
        let config = temp.path().join(CONFIG);
        std::fs::write(&config, configuration)?;
        let daemon = daemon(&gw, &temp, start)?;
        if keep() {
            eprintln!("lab {prefix}: nsenter --net=/run/netns/{} bash", gw.name());
        }
        Ok(Self {
            daemon,
            client,
            gw,
            router,
            server,
            next: AtomicU16::new(0),
            scraped: Mutex::new(None),
            temp,
        })
    }

    /// Starts another daemon when this one has ended.
    ///
    /// # Errors
    ///
    /// As [`Lab::create`].
    pub fn start(&mut self, start: &Start<'_>) -> Result<()> {
        self.daemon = daemon(&self.gw, &self.temp, start)?;
        Ok(())
    }

    /// Changes the daemon's configuration file.
    ///
    /// # Errors
    ///
    /// When it can't be written.
    pub fn configure(&self, configuration: &str) -> Result<()> {
        Ok(std::fs::write(
            self.temp.path().join(CONFIG),
            configuration,
        )?)
    }

    /// A number that no scene had for long: the host part of its target.
    #[must_use]
    pub fn number(&self) -> u8 {
        let span = u16::from(LAST_TARGET - FIRST_TARGET + 1);
        let number = self.next.fetch_add(1, Ordering::Relaxed) % span;
        FIRST_TARGET + u8::try_from(number).unwrap_or_default()
    }

    /// The gateway's address towards the client.
    #[must_use]
    pub const fn gateway(family: Family) -> IpAddr {
        address(family, Net::Lan, FIRST)
    }

    /// The counters of attempts, now.
    ///
    /// # Errors
    ///
    /// When they can't be had.
    pub fn counts(&self) -> Result<Counts> {
        self.counts_no_older_than(Duration::ZERO)
    }

    /// The same, up to half a second old: many scenes wait for them, and the daemon reads its attempts
    /// twice a second.
    ///
    /// # Errors
    ///
    /// As [`Lab::counts`].
    pub fn recent_counts(&self) -> Result<Counts> {
        self.counts_no_older_than(Duration::from_millis(500))
    }

    /// One scrape at a time, shared by all who wait for it.
    fn counts_no_older_than(&self, age: Duration) -> Result<Counts> {
        let asked = Instant::now();
        let mut scraped = self.scraped();
        if let Some((at, counts)) = &*scraped
            && *at + age >= asked
        {
            return Ok(counts.clone());
        }
        let at = Instant::now();
        let counts = self.daemon.scrape_of(&COUNTERS)?;
        *scraped = Some((at, counts.clone()));
        Ok(counts)
    }

    fn scraped(&self) -> MutexGuard<'_, Option<(Instant, Counts)>> {
        self.scraped.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Starts the daemon of a lab.
fn daemon(gw: &NetNs, temp: &TempDir, start: &Start<'_>) -> Result<Daemon> {
    let config = temp.path().join(CONFIG).display().to_string();
    let flags = [&["--config", &config], start.flags].concat();
    let _alone = LOADING.lock().unwrap_or_else(PoisonError::into_inner);
    Daemon::start_as(
        gw,
        temp.path(),
        &Start {
            flags: &flags,
            ..*start
        },
    )
}

/// Commands that give a host every address that scenes may reach.
fn targets() -> String {
    let line = |family, bits: u8, number| {
        let target = address(family, TARGETS, number);
        format!("address add {target}/{bits} dev lo\n")
    };
    (FIRST_TARGET..=LAST_TARGET)
        .flat_map(|number| [line(Family::V4, 32, number), line(Family::V6, 128, number)])
        .collect()
}

fn namespace(prefix: &str, role: &str) -> Result<NetNs> {
    let netns = NetNs::create(&format!("{prefix}{role}"))?;
    quiet(&netns)?;
    for (key, value) in [
        // As on real hosts: a SYN-ACK is repeated.
        ("net.ipv4.tcp_synack_retries", "5"),
        // Errors are for all scenes together.
        ("net.ipv4.icmp_ratelimit", "0"),
        ("net.ipv6.icmp.ratelimit", "0"),
        ("net.ipv4.icmp_msgs_per_sec", "100000"),
        ("net.ipv4.icmp_msgs_burst", "10000"),
        // TCP Fast Open of clients and servers without cookies, for every listener (ip-sysctl.rst).
        ("net.ipv4.tcp_fastopen", "1543"),
        ("net.ipv4.tcp_fastopen_blackhole_timeout_sec", "0"),
    ] {
        match netns.sysctl(key, value) {
            // One for the whole machine on older kernels, and large enough.
            Err(_) if key.contains("icmp_msgs") => {}
            result => result?,
        }
    }
    Ok(netns)
}

/// A configuration file with one traffic for each slot.
fn traffics() -> Result<String> {
    let mut text = "builtin_traffics = false\n".to_owned();
    for slot in (0..SLOTS).map(Slot::new) {
        writeln!(
            text,
            "[[traffic]]\nname = \"{}\"\nports = [\"tcp/{}\"]",
            slot.traffic, slot.port
        )?;
    }
    Ok(text)
}
