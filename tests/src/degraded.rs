//! Core rows where the kernel offers less: what is still measured is exact, and what is not is absent
//! and said. `PEERWATCH_WITHOUT` makes this kernel one that has less.

use anyhow::{Context, Result, ensure};
use monitor::bpf::features::Features;
use monitor::bpf::kernel::Kernel;
use monitor::bpf::load::{self, Settings};
use monitor::config::{DEFAULT_LOG_BURST, DEFAULT_LOG_RATE};
use monitor::netns;
use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};

use crate::daemon::Start;
use crate::features::{BTF, OwnLab, claimed};
use crate::kernel::{gives_reasons, is_at_least};
use crate::lab::Lab;
use crate::rows;
use crate::tun::Tun;
use crate::wait::{DEADLINE, until};

/// The trials of this file.
pub const TRIALS: &[OwnLab] = &[
    ("degraded/raw_tp/core_rows", raw_tp),
    ("degraded/calls/core_rows", calls),
    ("degraded/refused_reads/loads", refused_reads),
    ("degraded/clsact/core_rows", clsact),
    ("degraded/no_cgroup_root/other_rows", no_cgroup_root),
    ("degraded/no_btf/allowed_rows", no_btf),
    ("degraded/btf_file/core_rows", btf_file),
];

/// Rows of packets that pass, and of packets that the firewall or nobody's socket drops.
pub(crate) const ALLOWED: [&str; 3] = ["inbound/allowed", "outbound/allowed", "forwarded/allowed"];
const DROPPED: [&str; 5] = [
    "inbound/nft_input_drop",
    "inbound/no_listener",
    "outbound/nft_output_drop",
    "forwarded/nft_forward_drop",
    "forwarded/nft_prerouting_drop",
];
/// Each on these ports.
const PORTS: [&str; 2] = ["tcp7680/ipv4", "udp443/ipv6"];

/// Runs rows, by `direction/scene`.
pub(crate) fn run(lab: &Lab, scenes: &[&str]) -> Result<()> {
    let all = rows::all();
    for scene in scenes {
        for port in PORTS {
            let name = format!("{scene}/{port}");
            let row = all.iter().find(|row| row.name() == name);
            row.with_context(|| format!("no row {name}"))?.run(lab)?;
        }
    }
    Ok(())
}

/// The modes that `hook_info` has for a hook.
fn modes(lab: &Lab, hook: &str) -> Result<Vec<String>> {
    let (_, body) = lab.daemon.get("/metrics")?;
    let hook = format!("hook=\"{hook}\"");
    let lines = body
        .lines()
        .filter(|line| line.starts_with("peerwatch_hook_info{") && line.contains(&hook));
    let mut modes: Vec<String> = lines
        .filter_map(|line| Some(line.split_once("mode=\"")?.1.split('"').next()?.to_owned()))
        .collect();
    modes.dedup();
    Ok(modes)
}

fn raw_tp() -> Result<()> {
    let lab = Lab::create_with(&Start {
        environment: &[("PEERWATCH_WITHOUT", "tp_btf")],
        ..Start::default()
    })?;
    ensure!(
        modes(&lab, "drop")? == ["raw_tp"],
        "{:?}",
        modes(&lab, "drop")?
    );
    ensure!(
        lab.daemon.errors().matches("raw tracepoint").count() == 1,
        "it is not said once: {}",
        lab.daemon.errors()
    );
    let warned = "PEERWATCH_WITHOUT leaves out tp_btf";
    ensure!(
        lab.daemon
            .errors()
            .lines()
            .any(|line| line.contains(" WARN ") && line.contains(warned)),
        "no {warned:?}: {}",
        lab.daemon.errors()
    );
    run(&lab, &ALLOWED)?;
    run(&lab, &DROPPED)
}

/// The drop program reads by calls what newer kernels let it read directly. On others this is what all tests do.
fn calls() -> Result<()> {
    let lab = Lab::create_with(&Start {
        environment: &[("PEERWATCH_WITHOUT", "head_reads")],
        ..Start::default()
    })?;
    ensure!(
        modes(&lab, "drop")? == ["tp_btf"],
        "{:?}",
        modes(&lab, "drop")?
    );
    let warned = "PEERWATCH_WITHOUT leaves out head_reads";
    let said = lab.daemon.errors();
    ensure!(said.contains(warned), "no {warned:?}: {said}");
    run(&lab, &ALLOWED)?;
    run(&lab, &DROPPED)
}

/// Where the kernel refuses the drop program that reads without calls, it is loaded as one that calls. Before 6.17 that is
/// so; here, everything is said to be there.
fn refused_reads() -> Result<()> {
    let kernel = Kernel::read(None)?;
    let settings = Settings {
        log_dropped: true,
        log_allowed: false,
        log_rate: DEFAULT_LOG_RATE,
        log_burst: DEFAULT_LOG_BURST,
        netns_inum: netns::inum()?,
        netns_cookie: None,
        diagnostics: 0,
        max_attempts: 1024,
        verifier_log: false,
    };
    // Before 5.11 maps count against it.
    setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY).ok();
    let loaded = load::load(&kernel, &Features::default(), &settings, None)?;
    ensure!(loaded.drop_fd().is_some(), "{:?}", loaded.refused);
    Ok(())
}

/// Without the root of the cgroup tree there is no hook on delivered packets.
fn no_cgroup_root() -> Result<()> {
    let lab = Lab::create_with(&Start {
        environment: &[("PEERWATCH_WITHOUT", "cgroup_root")],
        ready: false,
        ..Start::default()
    })?;
    let (status, why) = lab.daemon.get("/readyz")?;
    ensure!(
        status == 503 && why.contains("hook deliver: cgroup_root"),
        "{status}: {why}"
    );
    run(&lab, &ALLOWED[1..])?;
    run(&lab, &DROPPED)?;
    let (_, body) = lab.daemon.get("/metrics")?;
    let allowed = body
        .lines()
        .filter(|line| line.contains("verdict=\"allowed\""));
    let inbound: Vec<&str> = allowed
        .filter(|line| line.contains("direction=\"inbound\""))
        .collect();
    ensure!(inbound.is_empty(), "{inbound:?}");
    Ok(())
}

/// A device without an Ethernet header, of which the kernel lets us see only drops or nothing: what
/// leaves there is absent, and not 0.
pub(crate) fn nothing_leaves_a_tun(lab: &Lab) -> Result<()> {
    let _tun = Tun::create(&lab.gw, "tun0", false)?;
    let body = until("the daemon knows tun0", DEADLINE, || {
        let (_, body) = lab.daemon.get("/metrics")?;
        Ok(body
            .contains("hook_attached{hook=\"egress\",interface=\"tun0\"}")
            .then_some(body))
    })?;
    for direction in ["outbound", "forwarded"] {
        let series = |interface: &str| {
            format!(
                "peerwatch_interface_packets_total{{interface=\"{interface}\",direction=\"{direction}\",\
                 verdict=\"allowed\"}}"
            )
        };
        ensure!(body.contains(&series("wan0")), "no {}", series("wan0"));
        ensure!(
            !body.contains(&series("tun0")),
            "there is {}",
            series("tun0")
        );
    }
    let state = "peerwatch_hook_attached{hook=\"egress\",interface=\"tun0\"} 0";
    ensure!(body.contains(state), "no {state}");
    Ok(())
}

fn clsact() -> Result<()> {
    let lab = Lab::create_with(&Start {
        environment: &[("PEERWATCH_WITHOUT", "tcx")],
        ..Start::default()
    })?;
    for hook in ["egress", "ingress"] {
        ensure!(modes(&lab, hook)? == ["clsact"], "{:?}", modes(&lab, hook)?);
    }
    run(&lab, &ALLOWED)?;
    run(&lab, &DROPPED)
}

/// A kernel that shows no BTF: what needs none counts, the rest is absent.
fn no_btf() -> Result<()> {
    let lab = Lab::create_with(&Start {
        flags: &["--log-level", "debug"],
        hidden: &[BTF],
        ready: false,
        ..Start::default()
    })?;
    let said = lab.daemon.errors();
    let claims = claimed(&said)?;
    ensure!(claims["kernel_btf"].is_err(), "{claims:?}");
    let warnings: Vec<&str> = said
        .lines()
        .filter(|line| line.contains(" WARN "))
        .collect();
    ensure!(
        warnings.len() == 1
            && warnings[0].contains("drops are not counted")
            && warnings[0].contains("--btf FILE"),
        "{warnings:?}"
    );
    ensure!(!said.contains(" ERROR "), "{said}");
    let (status, why) = lab.daemon.get("/readyz")?;
    ensure!(
        status == 503 && why.contains("hook drop: ") && why.contains("--btf FILE"),
        "{status}: {why}"
    );
    nothing_leaves_a_tun(&lab)?;
    // Without the helper the namespace of a delivered packet cannot be told.
    let inbound = claims["netns_cookie_cgroup"].is_ok();
    run(&lab, &ALLOWED[usize::from(!inbound)..])?;
    let (_, body) = lab.daemon.get("/metrics")?;
    for absent in [
        "verdict=\"dropped\"",
        "peerwatch_drops_total",
        "peerwatch_late_drops_total",
    ] {
        ensure!(!body.contains(absent), "there is {absent}");
    }
    let shown = [
        "peerwatch_hook_attached{hook=\"drop\",interface=\"\"} 0",
        "btf=\"no\",drop_reasons=\"unknown\"",
        if inbound {
            "direction=\"inbound\",flow=\"request\",verdict=\"allowed\""
        } else {
            "peerwatch_hook_attached{hook=\"deliver\",interface=\"\"} 0"
        },
    ];
    for shown in shown {
        ensure!(body.contains(shown), "no {shown} in {body}");
    }
    ensure!(
        inbound || !body.contains("direction=\"inbound\",flow="),
        "{body}"
    );
    Ok(())
}

/// The same kernel with its BTF in a file: everything counts.
fn btf_file() -> Result<()> {
    let copy = crate::netns::TempDir::create(&crate::netns::unique_prefix())?;
    let path = copy.path().join("btf");
    std::fs::copy(BTF, &path).context(BTF)?;
    let path = path.to_string_lossy();
    let lab = Lab::create_with(&Start {
        flags: &["--btf", &path],
        hidden: &[BTF],
        ..Start::default()
    })?;
    let said = lab.daemon.errors();
    // Before 5.11 the kernel does not give its BTF by bpf(2), to compare the file with.
    let unchecked = said.contains("could not be checked against the running kernel");
    let warnings = usize::from(!is_at_least(5, 11)) + usize::from(!gives_reasons());
    ensure!(
        unchecked != is_at_least(5, 11)
            && said.matches(" WARN ").count() == warnings
            && !said.contains(" ERROR "),
        "{said}"
    );
    run(&lab, &ALLOWED)?;
    run(&lab, &DROPPED)
}
