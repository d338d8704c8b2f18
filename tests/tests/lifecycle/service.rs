//! As a service: what the manager is told, and that the unit gives no more than is needed, and enough.

use std::io::ErrorKind;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use monitor_tests::daemon::{Daemon, Start, binary};
use monitor_tests::http::is_ready;
use monitor_tests::netns::run;
use monitor_tests::restarts::Mount;
use monitor_tests::wait::until;
use nix::sys::signal::Signal;

use crate::site::{HERE, Process, START, Site, command, datagrams, packets};

/// The unit that is shipped.
const UNIT: &str = include_str!("../../../deploy/systemd/peerwatch.service");

/// The values of a key of the unit, in their order.
fn values(key: &str) -> Vec<&'static str> {
    let lines = UNIT.lines();
    lines
        .filter_map(|line| line.strip_prefix(key)?.strip_prefix('='))
        .collect()
}

/// The next message of a service, within a time.
fn message(socket: &UnixDatagram, within: Duration) -> Result<String> {
    let deadline = Instant::now() + within;
    let mut buffer = [0; 4096];
    let length = loop {
        let left = deadline.saturating_duration_since(Instant::now());
        ensure!(!left.is_zero(), "no message within {within:?}");
        socket.set_read_timeout(Some(left))?;
        match socket.recv(&mut buffer) {
            // With a time-out it is not begun again, as when the process was stopped meanwhile (signal(7)).
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            result => break result.context("no message")?,
        }
    };
    Ok(String::from_utf8(buffer[..length].to_vec())?)
}

/// Where nothing is mounted, the folder that it is in is the daemon's user's, who may put a link there.
#[test]
fn the_unit_gives_nothing_away_that_a_link_leads_to() -> Result<()> {
    let commands = values("ExecStartPre");
    ensure!(!commands.is_empty(), "nothing is run as root before it");
    for command in commands {
        let words: Vec<_> = command.split(' ').collect();
        ensure!(words[..2] == ["-+/bin/chown", "-h"], "{command}");
        for path in words.iter().filter(|word| word.starts_with('/')) {
            ensure!(path.starts_with("/run/peerwatch"), "{command}");
        }
    }
    Ok(())
}

#[test]
fn the_service_manager_is_told() -> Result<()> {
    let site = Site::create()?;
    let path = site.temp.path().join("notify");
    let socket = UnixDatagram::bind(&path)?;
    let mut start = command(&site.host, &["run", "--config", "/dev/null"])?;
    start
        .env("NOTIFY_SOCKET", &path)
        .env("WATCHDOG_USEC", "4000000");
    let process = Process::start(start, &site, "daemon")?;

    let first = message(&socket, START)?;
    ensure!(
        first.lines().any(|line| line == "READY=1")
            && first.contains("STATUS=metrics on http://127.0.0.1:9680/metrics"),
        "{first:?}"
    );
    ensure!(is_ready(&site.host, 9680), "it says so before it is");
    // Every second, then: a quarter of what it has.
    let begin = Instant::now();
    for _ in 0..3 {
        let sign = message(&socket, Duration::from_secs(4))?;
        ensure!(sign.trim() == "WATCHDOG=1", "{sign:?}");
    }
    let took = begin.elapsed();
    ensure!(took >= Duration::from_secs(1), "three within {took:?}");

    // Stopped, it says nothing, and the manager would end it.
    process.signal(Signal::SIGSTOP)?;
    while message(&socket, Duration::from_millis(100)).is_ok() {}
    let silence = message(&socket, Duration::from_secs(2));
    ensure!(
        silence.is_err(),
        "a sign of life of a stopped process: {silence:?}"
    );
    process.signal(Signal::SIGCONT)?;
    message(&socket, Duration::from_secs(4)).context("no sign of life after it goes on")?;

    process.signal(Signal::SIGTERM)?;
    let stopping = until("STOPPING=1", START, || {
        let text = message(&socket, START)?;
        Ok((text.trim() == "STOPPING=1").then_some(()))
    });
    stopping?;
    ensure!(process.outcome()?.code == Some(0), "it did not end well");
    Ok(())
}

/// A copy of the daemon that every user may run.
fn copy(site: &Site) -> Result<PathBuf> {
    let to = site.temp.path().join("peerwatch");
    std::fs::copy(binary()?, &to)?;
    Ok(to)
}

/// As an ordinary user with the capabilities of the unit and no others, it does all that it does as root;
/// also for an interface that comes later.
#[test]
fn the_capabilities_of_the_unit_are_enough() -> Result<()> {
    let site = Site::create()?;
    let wanted = values("AmbientCapabilities");
    ensure!(
        wanted == values("CapabilityBoundingSet") && wanted.len() == 1,
        "{wanted:?}"
    );
    let mut set = vec!["-all".to_owned()];
    for capability in wanted[0].split(' ') {
        let name = capability.strip_prefix("CAP_").context("a capability")?;
        set.push(format!("+{}", name.to_ascii_lowercase()));
    }
    let set = set.join(",");
    ensure!(values("SupplementaryGroups") == ["root"], "other groups");
    ensure!(values("NoNewPrivileges") == ["yes"], "new privileges");
    // Each hides /proc/kallsyms, or what it takes to read it.
    for key in ["ProtectKernelTunables", "ProtectKernelLogs", "ProcSubset"] {
        ensure!(
            values(key).is_empty(),
            "{key} takes the kernel's symbols away"
        );
    }
    // The group is that of /proc/net/ip_tables_names.
    let flags = [
        "--reuid=65534".to_owned(),
        "--regid=65534".to_owned(),
        "--groups=0".to_owned(),
        "--no-new-privs".to_owned(),
        format!("--inh-caps={set}"),
        format!("--ambient-caps={set}"),
        format!("--bounding-set={set}"),
    ];
    let daemon = copy(&site)?.display().to_string();
    let mut wrapper = vec!["setpriv"];
    wrapper.extend(flags.iter().map(String::as_str));
    // What follows the wrapper is the binary itself, which the user may not be able to reach: the copy runs,
    // with its path as the first word that it does not look at.
    wrapper.extend(["sh", "-c", "shift; exec \"$0\" \"$@\"", &daemon]);
    // As the unit does it: a BPF file system and a folder that are the user's.
    let mount = Mount::new("mode=0700")?;
    let state = site.temp.path().join("state");
    std::fs::create_dir(&state)?;
    for path in [&mount.path, &state] {
        std::os::unix::fs::chown(path, Some(65534), Some(65534))?;
    }
    let paths = [&mount.path, &state].map(|path| path.display().to_string());
    let flags = [
        "--config",
        "/dev/null",
        "--bpffs",
        &paths[0],
        "--state-dir",
        &paths[1],
    ];
    let start = Start {
        flags: &flags,
        wrapper: &wrapper,
        ..Start::default()
    };
    let mut daemon = Daemon::start_as(&site.host, site.temp.path(), &start)?;
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid()))?;
    for line in [
        "Uid:\t65534\t65534",
        "NoNewPrivs:\t1",
        // It gives these up itself.
        "CapInh:\t0000000000000000",
        "CapAmb:\t0000000000000000",
    ] {
        ensure!(status.contains(line), "no {line:?} in {status}");
    }
    let errors = daemon.errors();
    ensure!(!errors.contains("WARN"), "it lacks something: {errors}");

    site.drop_input("udp dport 3544")?;
    site.link("lan1", "eth1", 2)?;
    until("the new interface is watched", START, || {
        let (_, body) = daemon.get("/metrics")?;
        let hook = "hook=\"egress\",interface=\"lan1\"} 1";
        Ok(body.contains(hook).then_some(()))
    })?;
    datagrams(&site.peer, (HERE, 3544), 7)?;
    until("seven are dropped", START, || {
        let counts = daemon.scrape_of(&["packets_total"])?;
        Ok((packets(&counts, "teredo", "inbound", "dropped") == 7).then_some(()))
    })?;
    // The change of rules was seen, and by whom.
    let errors = daemon.errors();
    ensure!(errors.contains("by nft (process "), "{errors}");

    // Counting goes on without it.
    daemon.kill()?;
    datagrams(&site.peer, (HERE, 3544), 3)?;
    let mut daemon = Daemon::start_as(&site.host, site.temp.path(), &start)?;
    until("three more are dropped", START, || {
        let counts = daemon.scrape_of(&["packets_total"])?;
        Ok((packets(&counts, "teredo", "inbound", "dropped") == 10).then_some(()))
    })?;
    let errors = daemon.errors();
    ensure!(!errors.contains("WARN"), "it lacks something: {errors}");
    daemon.stop()
}

/// Without one of them it says which one it lacks, and nothing is attached.
#[test]
fn a_missing_capability_is_named() -> Result<()> {
    let site = Site::create()?;
    let copy = copy(&site)?;
    for (missing, set) in [
        ("CAP_BPF", "-all,+perfmon,+net_admin"),
        ("CAP_PERFMON", "-all,+bpf,+net_admin"),
        ("CAP_NET_ADMIN", "-all,+bpf,+perfmon"),
    ] {
        let mut start = site.host.command("setpriv")?;
        start
            .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
            .arg(format!("--inh-caps={set}"))
            .arg(format!("--ambient-caps={set}"))
            .arg(format!("--bounding-set={set}"))
            .arg(&copy)
            .args(["run", "--config", "/dev/null"]);
        let outcome = Process::start(start, &site, missing)?.outcome()?;
        ensure!(
            outcome.code == Some(1) && outcome.stderr.contains(&format!("lacks {missing}")),
            "without {missing}: {outcome:?}"
        );
    }
    Ok(())
}

/// systemd reads the unit without a complaint. It wants the program to be there, so another one takes its
/// place.
#[test]
fn systemd_understands_the_unit() -> Result<()> {
    let site = Site::create()?;
    ensure!(
        UNIT.contains("ExecStart=/usr/bin/peerwatch run\n"),
        "another command"
    );
    let unit = UNIT.replace("/usr/bin/peerwatch", "/bin/true");
    let file = site.file("peerwatch.service", &unit)?;
    ensure!(verify(&file)?.is_empty(), "{}", verify(&file)?);
    let bad = unit.replace("ProtectSystem=strict", "ProtectSystem=sometimes");
    let file = site.file("bad.service", &bad)?;
    ensure!(!verify(&file)?.is_empty(), "a bad unit is fine too");
    Ok(())
}

/// What systemd says of a unit.
fn verify(file: &Path) -> Result<String> {
    let output = Command::new("systemd-analyze")
        .arg("verify")
        .arg(file)
        .output()
        .context("systemd-analyze")?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(
        output.status.success() || !said.is_empty(),
        "{} without a word",
        output.status
    );
    Ok(said)
}

/// Every system call that the daemon makes is one that the unit lets it make.
#[test]
fn the_filter_of_system_calls_lets_all_pass_that_it_makes() -> Result<()> {
    let site = Site::create()?;
    let output = site.temp.path().join("calls");
    let trace = output.display().to_string();
    let start = Start {
        flags: &["--config", "/dev/null"],
        // The daemon itself is our child, and who traces it a grandchild: signals reach the daemon.
        wrapper: &["strace", "-D", "-f", "-q", "-o", &trace],
        ..Start::default()
    };
    let mut daemon = Daemon::start_as(&site.host, site.temp.path(), &start)?;
    for path in ["/metrics", "/api/v1/status"] {
        let (status, _) = daemon.get(path)?;
        ensure!(status == 200, "{path}: {status}");
    }
    site.drop_input("udp dport 3544")?;
    site.link("lan1", "eth1", 2)?;
    datagrams(&site.peer, (HERE, 3544), 3)?;
    let pid = daemon.pid().to_string();
    let ends = |line: &str| line.starts_with(&pid) && line.ends_with("+++ exited with 0 +++");
    daemon.stop()?;
    let calls = until("all calls are written", START, || {
        let calls = std::fs::read_to_string(&output)?;
        Ok(calls.lines().any(ends).then_some(calls))
    })?;
    // The first line is the start of the daemon itself, by who traces it.
    let mut made = std::collections::BTreeSet::new();
    for line in calls.lines().skip(1) {
        let (_, rest) = line.split_once(' ').context("a process")?;
        let rest = rest.trim_start().trim_start_matches("<... ");
        let name: String = rest
            .chars()
            .take_while(|c| c.is_ascii_alphanumeric() || *c == '_')
            .collect();
        if !name.is_empty() && !rest.starts_with("---") && !rest.starts_with("+++") {
            made.insert(name);
        }
    }
    ensure!(made.contains("bpf") && made.len() > 20, "{made:?}");
    let mut allowed = std::collections::BTreeSet::new();
    for value in values("SystemCallFilter") {
        let (takes_away, names) = value
            .strip_prefix('~')
            .map_or((false, value), |names| (true, names));
        for name in names.split(' ') {
            for call in set(name)? {
                if takes_away {
                    allowed.remove(&call);
                } else {
                    allowed.insert(call);
                }
            }
        }
    }
    let refused: Vec<_> = made.difference(&allowed).collect();
    ensure!(refused.is_empty(), "the filter stops {refused:?}");
    Ok(())
}

/// The calls of a name in a filter: itself, or those of a set.
fn set(name: &str) -> Result<Vec<String>> {
    if !name.starts_with('@') {
        return Ok(vec![name.to_owned()]);
    }
    let mut calls = Vec::new();
    let text = run(Command::new("systemd-analyze").args(["syscall-filter", name]))?;
    for line in text.lines().skip(1).map(str::trim) {
        if line.starts_with('@') {
            calls.extend(set(line)?);
        } else if !line.is_empty() && !line.starts_with('#') {
            calls.push(line.to_owned());
        }
    }
    ensure!(!calls.is_empty(), "systemd knows no {name}");
    Ok(calls)
}
