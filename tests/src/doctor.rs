//! `peerwatch doctor`: each blind spot that can be made here is made, and found; a healthy host has none.

use std::any::Any;
use std::collections::BTreeSet;
use std::fs;
use std::os::fd::{FromRawFd as _, OwnedFd};
use std::process::{Command, Output};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::bpf::{self, Place, Side};
use crate::daemon::{Daemon, binary};
use crate::features::OwnLab;
use crate::needs::Feature;
use crate::netns::{NetNs, TempDir, unique_prefix};
use crate::restarts::Mount;

pub(crate) mod calls;
mod cgroups;
mod connections;
mod flows;
mod golden;
pub(crate) mod offload;
mod rules;
pub(crate) mod switches;

/// The trials of this file.
pub const TRIALS: &[OwnLab] = &[
    (
        "doctor/healthy_then_a_socket_map",
        healthy_then_a_socket_map,
    ),
    ("doctor/native_xdp", || found("native_xdp", 1, native_xdp)),
    ("doctor/af_xdp", || found("af_xdp", 1, af_xdp)),
    ("doctor/teredo_tcp_rule", || {
        found("teredo_tcp_rule", 0, tcp_for_teredo)
    }),
    ("doctor/bridge_port_left_out", bridge_port_left_out),
    ("doctor/ipsec_policies", || {
        found("ipsec_policies", 1, ipsec)
    }),
    ("doctor/encapsulation_socket", || {
        found("encapsulation_socket", 1, vxlan)
    }),
    ("doctor/rules_of_nft", rules::of_nft),
    ("doctor/rules_of_iptables", rules::of_iptables),
    ("doctor/cgroup_root", cgroups::a_namespace),
    ("doctor/kernel_btf", calls::no_btf),
    ("doctor/symbols_hidden", calls::symbols_hidden),
    ("doctor/no_privileges", calls::no_privileges),
    ("doctor/features_left_out", calls::features_left_out),
    ("doctor/self_test", calls::self_test),
    ("doctor/bad_arguments", calls::bad_arguments),
];

/// Those that need what not every kernel has, with what that is.
pub const NEEDING: &[(Feature, OwnLab)] = &[
    (
        Feature::Tcx,
        ("doctor/behind_others", || {
            found("behind_others", 1, behind_others)
        }),
    ),
    (
        Feature::OpenVswitch,
        ("doctor/openvswitch", || {
            found("openvswitch", 1, switches::a_datapath)
        }),
    ),
    (
        Feature::Netkit,
        ("doctor/netkit", || found("netkit", 0, switches::netkit)),
    ),
    (
        Feature::ConntrackLimit,
        ("doctor/conntrack_nearly_full", connections::nearly_full),
    ),
    (
        Feature::FlowTable,
        ("doctor/flow_table_below", flows::below),
    ),
    (
        Feature::DevicePrefix,
        ("doctor/flow_table_by_prefix", flows::by_prefix),
    ),
    (
        Feature::FlowTable,
        ("doctor/hardware_offload", flows::in_hardware),
    ),
    (Feature::Netdevsim, ("doctor/tc_offload", offload::filters)),
    (Feature::Netdevsim, ("doctor/xdp_in_hardware", offload::xdp)),
];

/// Those that take a tool which virtual machines do not have (`setpriv`).
pub const ON_HOST: &[OwnLab] = &[("doctor/daemon_tests_itself", calls::daemon_tests_itself)];

/// The trial of virtual machines.
pub const OF_KERNELS: &[OwnLab] = &[("doctor/golden", golden::golden)];

/// A host: a network namespace with one interface, and a BPF file system.
#[derive(Debug)]
pub struct Rig {
    netns: NetNs,
    _other: NetNs,
    bpffs: Mount,
    folder: TempDir,
}

impl Rig {
    fn create() -> Result<Self> {
        let prefix = unique_prefix();
        let netns = NetNs::create(&format!("{prefix}host"))?;
        let other = NetNs::create(&format!("{prefix}other"))?;
        netns.ip_batch(&format!(
            "link add lan0 type veth peer name lan0 netns {}\nlink set lan0 up\n",
            other.name()
        ))?;
        Ok(Self {
            netns,
            _other: other,
            bpffs: Mount::new("mode=0700")?,
            folder: TempDir::create(&format!("{prefix}doctor"))?,
        })
    }

    /// The call, as it would be made there.
    fn command(&self) -> Result<Command> {
        let mut command = self.netns.command(binary()?)?;
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("PEERWATCH_") {
                command.env_remove(name);
            }
        }
        command.arg("doctor").arg("--bpffs").arg(&self.bpffs.path);
        Ok(command)
    }

    /// The report without a self-test, and the exit code.
    fn report(&self, flags: &[&str]) -> Result<(Value, i32)> {
        let mut command = self.command()?;
        report(command.args(["--json", "--self-test=false"]).args(flags))
    }
}

/// What a call printed as JSON, and its exit code.
fn report(command: &mut Command) -> Result<(Value, i32)> {
    let Output {
        status,
        stdout,
        stderr,
    } = command.output()?;
    let report = serde_json::from_slice(&stdout)
        .with_context(|| format!("{command:?}: {}", String::from_utf8_lossy(&stderr)))?;
    Ok((report, status.code().context("it was killed")?))
}

/// The findings of a report that weigh so much.
fn findings(report: &Value, weights: &[&str]) -> BTreeSet<String> {
    let all = report["findings"].as_array().into_iter().flatten();
    all.filter(|finding| {
        finding["weight"]
            .as_str()
            .is_some_and(|weight| weights.contains(&weight))
    })
    .filter_map(|finding| Some(finding["id"].as_str()?.to_owned()))
    .collect()
}

/// What limits, of all that was found.
fn limits(report: &Value) -> BTreeSet<String> {
    findings(report, &["limited", "cannot_work"])
}

/// All that was found.
fn all(report: &Value) -> BTreeSet<String> {
    findings(report, &["note", "limited", "cannot_work"])
}

/// Not found before it is there, and found then, with the exit code that follows.
fn found(id: &str, code: i32, produce: fn(&Rig) -> Result<Box<dyn Any>>) -> Result<()> {
    let rig = Rig::create()?;
    let (before, _) = rig.report(&[])?;
    ensure!(!all(&before).contains(id), "before: {before:#}");
    let held = produce(&rig)?;
    let (after, said) = rig.report(&[])?;
    drop(held);
    ensure!(all(&after).contains(id), "{id} is not found: {after:#}");
    ensure!(
        said == code.max(known_limits(&before)),
        "exit code {said}: {after:#}"
    );
    let text = String::from_utf8(rig.command()?.arg("--self-test=false").output()?.stdout)?;
    ensure!(text.starts_with("PEERWATCH DOCTOR "), "{text}");
    println!("{id}: found");
    Ok(())
}

/// The exit code that a report without the thing has: older kernels lack something anyway.
fn known_limits(report: &Value) -> i32 {
    i32::from(!limits(report).is_empty())
}

fn held<T: Any>(what: T) -> Box<dyn Any> {
    Box::new(what)
}

fn native_xdp(rig: &Rig) -> Result<Box<dyn Any>> {
    Ok(held(bpf::xdp_drop_native(&rig.netns, "lan0")?))
}

fn af_xdp(rig: &Rig) -> Result<Box<dyn Any>> {
    let socket = rig.netns.run(|| {
        // SAFETY: no pointers are passed.
        let fd = unsafe { libc::socket(libc::AF_XDP, libc::SOCK_RAW, 0) };
        ensure!(fd >= 0, "AF_XDP: {}", std::io::Error::last_os_error());
        // SAFETY: the call succeeded, and gives a new descriptor.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    })?;
    Ok(held(socket))
}

fn ipsec(rig: &Rig) -> Result<Box<dyn Any>> {
    rig.netns.ip(
        "xfrm policy add src 10.9.0.0/24 dst 10.9.1.0/24 dir out tmpl src 192.0.2.1 dst 192.0.2.2 proto esp mode tunnel",
    )?;
    Ok(held(()))
}

fn vxlan(rig: &Rig) -> Result<Box<dyn Any>> {
    rig.netns.ip_batch(
        "link add tunnel0 type vxlan id 7 dstport 3544 local 127.0.0.1\nlink set tunnel0 up\n",
    )?;
    Ok(held(()))
}

/// The firewall lets Teredo in by the wrong protocol.
fn tcp_for_teredo(rig: &Rig) -> Result<Box<dyn Any>> {
    rig.netns.nft(
        "table inet filter { chain input { type filter hook input priority 0; policy drop; tcp dport 3544 accept; }; }",
    )?;
    Ok(held(()))
}

/// Somebody attaches ahead of a daemon that runs.
fn behind_others(rig: &Rig) -> Result<Box<dyn Any>> {
    let daemon = Daemon::start(&rig.netns, rig.folder.path())?;
    let program = bpf::tcx_drop(&rig.netns, "lan0", Side::Egress, Place::Head)?;
    Ok(held((daemon, program)))
}

/// Nothing is wrong with a host on a kernel that has everything; a map of sockets is machine-wide, and made last.
fn healthy_then_a_socket_map() -> Result<()> {
    let rig = Rig::create()?;
    let (report, code) = rig.report(&[])?;
    let lacking: BTreeSet<String> = report["features"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|feature| feature["state"] != "available")
        .filter_map(|feature| Some(feature["name"].as_str()?.to_owned()))
        .collect();
    let found = limits(&report);
    ensure!(found.is_subset(&lacking), "{report:#}");
    ensure!(
        code == i32::from(!found.is_empty()),
        "exit code {code}: {report:#}"
    );
    let hooks = report["hooks"].as_array().context("no hooks")?;
    ensure!(
        hooks.len() == 4 && hooks.iter().all(|hook| hook["state"] == "available"),
        "{report:#}"
    );
    let map = bpf::socket_map()?;
    let (report, code) = rig.report(&[])?;
    drop(map);
    ensure!(
        code == 1 && limits(&report).contains("socket_maps"),
        "{report:#}"
    );
    Ok(())
}

/// A port of a bridge that the configuration leaves out.
fn bridge_port_left_out() -> Result<()> {
    let rig = Rig::create()?;
    rig.netns
        .ip_batch("link add br0 type bridge\nlink set lan0 master br0\nlink set br0 up\n")?;
    let file = rig.folder.path().join("peerwatch.toml");
    let flags = ["--config", file.to_str().context("a strange path")?];
    for (text, is_found) in [("", false), ("exclude_interface = [\"lan*\"]\n", true)] {
        fs::write(&file, text)?;
        let (report, _) = rig.report(&flags)?;
        ensure!(
            all(&report).contains("bridge_ports_left_out") == is_found,
            "{report:#}"
        );
        let lan0 = report["interfaces"]
            .as_array()
            .and_then(|all| all.iter().find(|one| one["name"] == "lan0"));
        let lan0 = lan0.context("no lan0")?;
        ensure!(lan0["left_out"].is_string() == is_found, "{lan0:#}");
        ensure!(lan0["slave_of"] == "bridge", "{lan0:#}");
    }
    Ok(())
}
