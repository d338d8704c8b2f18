//! Started as root: what the daemon gives up, that it does all the same without it, and what it says of what
//! it cannot reach any more.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use monitor_tests::daemon::{Daemon, Start};
use monitor_tests::netns::run;
use monitor_tests::restarts::Mount;
use monitor_tests::wait::until;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::site::{HERE, Process, START, Site, command, datagrams, packets};

/// `CAP_NET_ADMIN`, `CAP_SYSLOG`, `CAP_PERFMON`, `CAP_BPF` (linux/capability.h): those of the unit.
const NEEDED: u64 = 1 << 12 | 1 << 34 | 1 << 38 | 1 << 39;

/// Somebody who owns nothing of root's.
const OTHER: u32 = 65534;

/// Every thread has the four, could get no others, and none of them anew.
fn has_given_up(daemon: &Daemon) -> Result<()> {
    let mut threads = 0;
    for thread in fs::read_dir(format!("/proc/{}/task", daemon.pid()))? {
        let status = fs::read_to_string(thread?.path().join("status"))?;
        let value = |key: &str| -> Result<u64> {
            let line = status.lines().find_map(|line| line.strip_prefix(key));
            let text = line.with_context(|| format!("no {key} in {status}"))?;
            Ok(u64::from_str_radix(text.trim(), 16)?)
        };
        for (key, wanted) in [
            ("CapPrm:", NEEDED),
            ("CapEff:", NEEDED),
            ("CapBnd:", NEEDED),
            ("CapInh:", 0),
            ("CapAmb:", 0),
            ("NoNewPrivs:", 1),
        ] {
            let found = value(key)?;
            ensure!(found == wanted, "{key} {found:x}, not {wanted:x}: {status}");
        }
        ensure!(status.contains("\nUid:\t0\t0\t0\t0\n"), "{status}");
        threads += 1;
    }
    // The first one, and those of the runtime.
    ensure!(threads >= 3, "{threads} threads");
    Ok(())
}

fn hang_up(daemon: &Daemon) -> Result<()> {
    let pid = Pid::from_raw(i32::try_from(daemon.pid())?);
    Ok(kill(pid, Signal::SIGHUP)?)
}

fn says(daemon: &Daemon, sentence: &str) -> Result<()> {
    until(sentence, START, || {
        Ok(daemon.errors().contains(sentence).then_some(()))
    })
    .with_context(|| daemon.errors())
}

fn dropped(daemon: &Daemon, wanted: u64) -> Result<()> {
    until("all that were sent are dropped", START, || {
        let counts = daemon.scrape_of(&["packets_total"])?;
        let found = packets(&counts, "teredo", "inbound", "dropped");
        ensure!(found <= wanted, "{found} of {wanted}");
        Ok((found == wanted).then_some(()))
    })
}

/// It counts on interfaces that come later, reloads, and continues what another one left, with four
/// capabilities of root's.
#[test]
fn root_gives_up_what_it_does_not_need() -> Result<()> {
    let site = Site::create()?;
    let mount = Mount::new("mode=0700")?;
    let file = site.file("peerwatch.toml", "")?.display().to_string();
    let bpffs = mount.path.display().to_string();
    let state = site.temp.path().join("state").display().to_string();
    let flags = [
        "--config",
        &file,
        "--bpffs",
        &bpffs,
        "--state-dir",
        &state,
        "--log-level",
        "debug",
    ];
    let start = Start {
        flags: &flags,
        ..Start::default()
    };
    let mut daemon = Daemon::start_as(&site.host, site.temp.path(), &start)?;
    has_given_up(&daemon)?;
    says(
        &daemon,
        "capabilities from now on: CAP_NET_ADMIN, CAP_SYSLOG, CAP_PERFMON, CAP_BPF",
    )?;

    site.drop_input("udp dport 3544")?;
    site.link("lan1", "eth1", 2)?;
    until("the new interface is watched", START, || {
        let (_, body) = daemon.get("/metrics")?;
        let hook = "hook=\"egress\",interface=\"lan1\"} 1";
        Ok(body.contains(hook).then_some(()))
    })?;
    datagrams(&site.peer, (HERE, 3544), 7)?;
    datagrams(&site.peer, ([10, 77, 2, 1].into(), 3544), 4)?;
    dropped(&daemon, 11)?;
    // Whose change of rules it was, out of another process's files.
    says(&daemon, "by nft (process ")?;

    site.file(
        "peerwatch.toml",
        "[[traffic]]\nname = \"more\"\nports = [\"udp/7001\"]\n",
    )?;
    hang_up(&daemon)?;
    says(&daemon, "configuration reloaded: 4 traffics")?;
    has_given_up(&daemon)?;
    let errors = daemon.errors();
    ensure!(!errors.contains(" WARN "), "it lacks something: {errors}");

    daemon.kill()?;
    datagrams(&site.peer, (HERE, 3544), 3)?;
    let mut daemon = Daemon::start_as(&site.host, site.temp.path(), &start)?;
    dropped(&daemon, 14)?;
    has_given_up(&daemon)?;
    let errors = daemon.errors();
    ensure!(!errors.contains(" WARN "), "it lacks something: {errors}");
    daemon.stop()
}

/// What takes more than that is done before: a port below 1024.
#[test]
fn root_may_still_listen_below_1024() -> Result<()> {
    let site = Site::create()?;
    let words = ["run", "--config", "/dev/null", "--listen", "127.0.0.1:680"];
    let mut process = Process::start(command(&site.host, &words)?, &site, "daemon")?;
    let line = "metrics on http://127.0.0.1:680/metrics";
    let stderr = site.temp.path().join("daemon.stderr");
    process.wait_for(line, || Ok(fs::read_to_string(&stderr)?.contains(line)))?;
    process.signal(Signal::SIGTERM)?;
    let outcome = process.outcome()?;
    ensure!(outcome.code == Some(0), "{outcome:?}");
    Ok(())
}

/// And a private mount of the cgroup tree, which the hook is attached to again without it.
#[test]
fn a_private_mount_of_the_cgroup_tree_is_kept() -> Result<()> {
    const HIDE: &str =
        "grep ' cgroup2 ' /proc/self/mounts | cut -d' ' -f2 | xargs umount -l; exec \"$0\" \"$@\"";
    let site = Site::create()?;
    let mount = Mount::new("mode=0700")?;
    let bpffs = mount.path.display().to_string();
    let state = site.temp.path().join("state").display().to_string();
    let start = Start {
        flags: &[
            "--config",
            "/dev/null",
            "--bpffs",
            &bpffs,
            "--state-dir",
            &state,
        ],
        wrapper: &["unshare", "--mount", "sh", "-c", HIDE],
        ..Start::default()
    };
    let mut daemon = Daemon::start_as(&site.host, site.temp.path(), &start)?;
    has_given_up(&daemon)?;
    let mounts = fs::read_to_string(format!("/proc/{}/mounts", daemon.pid()))?;
    ensure!(!mounts.contains(" cgroup2 "), "{mounts}");
    let detach = format!("bpftool link detach pinned {bpffs}/peerwatch/v1/netns-*/links/deliver");
    run(Command::new("sh").args(["-c", &detach]))?;
    until("the hook is attached again", START, || {
        let (_, body) = daemon.get("/metrics")?;
        let again = "reattachments_total{hook=\"deliver\"} 1";
        let attached = "hook_attached{hook=\"deliver\",interface=\"\"} 1";
        Ok((body.contains(again) && body.contains(attached)).then_some(()))
    })
    .with_context(|| daemon.errors())?;
    daemon.stop()
}

/// Gives a file or folder to somebody else, and lets nobody else in.
fn give_away(path: &Path) -> Result<()> {
    let mode = if path.is_dir() { 0o700 } else { 0o600 };
    fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    Ok(chown(path, Some(OTHER), Some(OTHER))?)
}

/// Why root may not.
const WHY: &str = "Permission denied (os error 13) (it, or a folder above it, belongs to another user, and \
                   peerwatch gives up root's power over others' files when it starts: make root its owner)";

/// A configuration that is another user's is read once; it says so, and that nothing outlasts it where the places
/// for that are another user's.
#[test]
fn what_root_cannot_reach_any_more_is_said() -> Result<()> {
    let site = Site::create()?;
    let mount = Mount::new("mode=0700")?;
    let state = site.temp.path().join("state");
    fs::create_dir(&state)?;
    let file = site.file("peerwatch.toml", "")?;
    for path in [&mount.path, &state, &file] {
        give_away(path)?;
    }
    let [bpffs, state, file] = [&mount.path, &state, &file].map(|path| path.display().to_string());
    let start = Start {
        flags: &["--config", &file, "--bpffs", &bpffs, "--state-dir", &state],
        ..Start::default()
    };
    let mut daemon = Daemon::start_as(&site.host, site.temp.path(), &start)?;
    let nothing_counts = "nothing counts while no daemon runs, and a restart begins at 0: ";
    says(&daemon, nothing_counts)?;
    for path in [
        &format!("{bpffs}/peerwatch: "),
        &format!("SIGHUP will not read {file} again: "),
    ] {
        says(&daemon, &format!("{path}{WHY}"))?;
    }
    says(&daemon, "attempts and states begin anew with each start: ")?;
    hang_up(&daemon)?;
    says(
        &daemon,
        &format!("the configuration stays as it was: can't read {file}: {WHY}"),
    )?;
    let errors = daemon.errors();
    let told = errors.matches(WHY).count();
    ensure!(told == 4, "{told} of 4: {errors}");
    daemon.stop()
}

/// A file with users or TLS that could not be read when it changes does not start at all.
#[test]
fn a_web_configuration_that_is_another_users_is_refused() -> Result<()> {
    let site = Site::create()?;
    let file = site.file("web.yml", "")?;
    give_away(&file)?;
    let file = file.display().to_string();
    let words = ["run", "--config", "/dev/null", "--web-config", &file];
    let outcome = Process::start(command(&site.host, &words)?, &site, "daemon")?.outcome()?;
    ensure!(
        outcome.code == Some(1)
            && outcome
                .stderr
                .contains(&format!("can't read {file}: {WHY}")),
        "{outcome:?}"
    );
    Ok(())
}
