//! Where things are kept: no BPF file system, one that is read-only, one for several namespaces.

use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use monitor::bpf::pins::Pins;

use crate::attempts::lab::Lab;
use crate::daemon::Start;
use crate::expect::Family;
use crate::netns::{NetNs, TempDir, run, unique_prefix};
use crate::wait::{DEADLINE, until};

use super::load::{COUNTERS, Load, exactly};
use super::{Mount, Rig, TRAFFICS, Trial};

/// How long the kernel may take to take a network namespace down.
const TAKEN_DOWN: Duration = Duration::from_mins(1);

/// The tests of this file.
pub const TRIALS: &[Trial] = &[
    ("without_a_bpf_file_system", || unpinned(false)),
    ("read_only_bpf_file_system", || unpinned(true)),
    ("read_only_for_the_next_build", read_only_for_the_next_build),
    ("no_room_for_the_state_file", no_room_for_the_state_file),
    ("namespaces_side_by_side", namespaces_side_by_side),
];

/// It says so, works, and the next one begins at 0 with the states that it had.
fn unpinned(read_only: bool) -> Result<()> {
    let mount = Mount::new("mode=0700")?;
    let mut bpffs = mount.path.display().to_string();
    if read_only {
        run(Command::new("mount")
            .args(["-o", "remount,ro"])
            .arg(&mount.path))?;
    } else {
        bpffs.push_str("/missing");
    }
    let folder = TempDir::create(&format!("{}state", unique_prefix()))?;
    let state = folder.path().display().to_string();
    let start = Start {
        flags: &["--bpffs", &bpffs, "--state-dir", &state],
        ..Start::default()
    };
    let mut lab = Lab::create_as(TRAFFICS, &start)?;
    let said = lab.daemon.errors();
    ensure!(
        said.contains("nothing counts while no daemon runs, and a restart begins at 0: ")
            && said.contains(&bpffs),
        "{said}"
    );
    let load = Load::begin(&lab, Family::V4)?;
    std::thread::sleep(Duration::from_millis(300));
    let sent = load.end()?;
    exactly(&lab, Family::V4, sent.counted())?;
    let before = lab.daemon.scrape_of(&["attempts_total"])?;
    lab.daemon.stop()?;
    lab.start(&start)?;
    let after = lab.daemon.scrape_of(&COUNTERS)?;
    let is_packet = |name: &str| name == "peerwatch_packets_total";
    let packets = after
        .iter()
        .filter(|(series, _)| is_packet(series.metric()));
    ensure!(packets.map(|(_, count)| count).sum::<u64>() == 0, "packets");
    super::not_less(&before, &after)?;
    lab.daemon.stop()
}

/// A full disk under the state file: it is said once, the daemon goes on, and writes again when there is room.
fn no_room_for_the_state_file() -> Result<()> {
    let mut rig = Rig::create(&[], &[])?;
    rig.lab.daemon.stop()?;
    rig.uninstall()?;
    std::fs::create_dir_all(&rig.state)?;
    run(Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"])
        .arg(&rig.state))?;
    let result = full(&mut rig);
    run(Command::new("umount").arg("-l").arg(&rig.state))?;
    result
}

fn full(rig: &mut Rig) -> Result<()> {
    let filler = rig.state.join("filler");
    // More than there is room for: it takes all of it.
    ensure!(
        std::fs::write(&filler, vec![0; 2 << 20]).is_err(),
        "there is room"
    );
    rig.start(&[])?;
    let load = Load::begin(&rig.lab, Family::V4)?;
    until("it says so", DEADLINE, || {
        Ok(rig
            .lab
            .daemon
            .errors()
            .contains("is forgotten at a restart")
            .then_some(()))
    })?;
    std::fs::remove_file(&filler)?;
    until("it is written again", DEADLINE, || {
        Ok(rig
            .lab
            .daemon
            .errors()
            .contains("is written again")
            .then_some(()))
    })?;
    let sent = load.end()?;
    exactly(&rig.lab, Family::V4, sent.counted())?;
    let warnings = rig
        .lab
        .daemon
        .errors()
        .matches("is forgotten at a restart")
        .count();
    ensure!(warnings <= 3, "said {warnings} times");
    rig.lab.daemon.kill()?;
    rig.start(&[])?;
    exactly(&rig.lab, Family::V4, sent.counted())?;
    rig.lab.daemon.stop()
}

/// Programs with other settings cannot be pinned, and those of before go on: nothing counts twice.
fn read_only_for_the_next_build() -> Result<()> {
    let mut rig = Rig::create(&[], &[])?;
    rig.lab.daemon.stop()?;
    let remount = |mode| {
        let options = format!("remount,{mode}");
        run(Command::new("mount").args(["-o", &options]).arg(&rig.bpffs))
    };
    remount("ro")?;
    rig.start(&["--log-packets=all"])?;
    let said = rig.lab.daemon.errors();
    ensure!(said.contains("counts begin at 0"), "{said}");
    let load = Load::begin(&rig.lab, Family::V4)?;
    std::thread::sleep(Duration::from_millis(300));
    let sent = load.end()?;
    exactly(&rig.lab, Family::V4, sent.counted())?;
    rig.lab.daemon.stop()
}

/// Two namespaces have pins of their own in one file system; those of a namespace that is gone are cleared
/// away by any daemon that starts.
fn namespaces_side_by_side() -> Result<()> {
    let mut rig = Rig::create(&[], &[])?;
    let texts = [&rig.bpffs, &rig.state].map(|path| path.display().to_string());
    let flags = [
        "--config",
        "/dev/null",
        "--bpffs",
        &texts[0],
        "--state-dir",
        &texts[1],
    ];
    let start = Start {
        flags: &flags,
        ..Start::default()
    };
    let temp = TempDir::create(&unique_prefix())?;
    let folders = |rig: &Rig| -> Result<usize> {
        let found = std::fs::read_dir(rig.bpffs.join("peerwatch/v1"))?;
        Ok(found.count())
    };
    {
        let other = NetNs::create(&format!("{}other", unique_prefix()))?;
        other.ip("link set lo up")?;
        let mut daemon = crate::daemon::Daemon::start_as(&other, temp.path(), &start)?;
        ensure!(folders(&rig)? == 2, "{:?}", rig.pinned()?);
        let load = Load::begin(&rig.lab, Family::V4)?;
        std::thread::sleep(Duration::from_millis(300));
        let sent = load.end()?;
        exactly(&rig.lab, Family::V4, sent.counted())?;
        let counts = daemon.scrape_of(&["packets_total"])?;
        ensure!(
            counts.values().sum::<u64>() == 0,
            "packets of another namespace"
        );
        daemon.stop()?;
    }
    // One worker of the kernel takes down the namespaces of the whole machine, those of other tests first.
    until("the kernel takes the namespace down", TAKEN_DOWN, || {
        let gone = Pins::all(&rig.bpffs).iter().any(Pins::is_orphan);
        Ok(gone.then_some(()))
    })?;
    rig.lab.daemon.stop()?;
    rig.start(&[])?;
    ensure!(folders(&rig)? == 1, "{:?}", rig.pinned()?);
    let said = rig.lab.daemon.errors();
    ensure!(said.contains("its network namespace is gone"), "{said}");
    let states = std::fs::read_dir(&rig.state)?.count();
    ensure!(states == 1, "{states} state files");
    rig.lab.daemon.stop()
}
