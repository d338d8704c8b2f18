//! How the doctor answers to those who may less, on kernels that have less, and to calls that are wrong; its self-test.

use std::fs;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use super::{Rig, all, known_limits, report};
use crate::daemon::{Daemon, Start, hide};
use crate::features::BTF;

/// Somebody who is not root.
const NOBODY: u32 = 65534;
/// From `linux/capability.h`.
const CAP_SYSLOG: libc::c_ulong = 34;

/// Everybody may ask; what keeps the daemon from working is named, and the way out.
pub(super) fn no_privileges() -> Result<()> {
    let rig = Rig::create()?;
    let binary = rig.folder.path().join("peerwatch");
    fs::copy(crate::daemon::binary()?, &binary)?;
    let mut permissions = fs::metadata(rig.folder.path())?.permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o755);
    fs::set_permissions(rig.folder.path(), permissions)?;
    // As root's, without its supplementary groups.
    let mut command = Command::new(&binary);
    command.uid(NOBODY).gid(NOBODY);
    let (report, code) = report(command.args(["doctor", "--json"]))?;
    ensure!(code == 2, "exit code {code}: {report:#}");
    ensure!(report["verdict"] == "cannot_work", "{report:#}");
    let first = &report["findings"][0];
    ensure!(first["id"] == "capabilities", "{report:#}");
    let hint = first["hint"].as_str().unwrap_or_default();
    ensure!(hint.contains("root"), "{hint}");
    ensure!(report["selftest"].is_null(), "{report:#}");
    Ok(())
}

/// Root without `CAP_SYSLOG` may not see where functions are.
pub(super) fn symbols_hidden() -> Result<()> {
    let rig = Rig::create()?;
    let paranoid = fs::read_to_string("/proc/sys/kernel/perf_event_paranoid").unwrap_or_default();
    let restrict = fs::read_to_string("/proc/sys/kernel/kptr_restrict").unwrap_or_default();
    let everybody = restrict.trim() == "0" && paranoid.trim().parse::<i32>().unwrap_or(2) <= 1;
    let mut command = rig.command()?;
    // SAFETY: between fork and exec only prctl(2) is called, which takes two numbers.
    unsafe {
        command.pre_exec(|| match libc::prctl(libc::PR_CAPBSET_DROP, CAP_SYSLOG) {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        });
    }
    let (report, _) = report(command.args(["--json", "--self-test=false"]))?;
    // Where the administrator shows them to everybody, they are not hidden.
    ensure!(
        all(&report).contains("symbols_hidden") != everybody,
        "{report:#}"
    );
    Ok(())
}

/// A kernel that shows no BTF, or something else in its place.
pub(super) fn no_btf() -> Result<()> {
    let rig = Rig::create()?;
    let (before, _) = rig.report(&[])?;
    ensure!(!all(&before).contains("kernel_btf"), "before: {before:#}");
    let mut command = rig.command()?;
    hide(&mut command, &[BTF])?;
    let (report, code) = report(command.args(["--json", "--self-test=false"]))?;
    ensure!(
        code == 1 && all(&report).contains("kernel_btf"),
        "{report:#}"
    );
    ensure!(hook(&report, "drop")?["state"] == "missing", "{report:#}");
    Ok(())
}

/// A kernel that keeps its memory to itself.
pub(crate) fn locked_down() -> Result<()> {
    let rig = Rig::create()?;
    let (report, code) = rig.report(&[])?;
    ensure!(
        code == 1 && all(&report).contains("kernel_reads"),
        "{report:#}"
    );
    ensure!(
        report["host"]["lockdown"] == "confidentiality",
        "{report:#}"
    );
    let drop = hook(&report, "drop")?;
    let why = drop["why"].as_str().unwrap_or_default();
    ensure!(
        drop["state"] == "missing" && why.contains("lockdown=confidentiality"),
        "{drop:#}"
    );
    Ok(())
}

/// What a report says of a hook.
pub(super) fn hook(report: &Value, name: &str) -> Result<Value> {
    let hooks = report["hooks"].as_array().context("no hooks")?;
    let found = hooks.iter().find(|one| one["hook"] == name);
    Ok(found.with_context(|| format!("no hook {name}"))?.clone())
}

/// What this kernel would lack is named with its effect.
pub(super) fn features_left_out() -> Result<()> {
    let rig = Rig::create()?;
    for (feature, hook) in [
        ("kernel_btf", Some("drop")),
        ("cgroup_root", Some("deliver")),
        ("drop_reasons", None),
        ("tcx", None),
    ] {
        let mut command = rig.command()?;
        command.env("PEERWATCH_WITHOUT", feature);
        let (report, _) = report(command.args(["--json", "--self-test=false"]))?;
        ensure!(all(&report).contains(feature), "{feature}: {report:#}");
        if let Some(hook) = hook {
            let found = self::hook(&report, hook)?;
            ensure!(found["state"] == "missing", "{found:#}");
        }
        if feature == "tcx" {
            let modes = report["interfaces"].as_array().into_iter().flatten();
            let mut modes = modes.filter_map(|one| one["mode"].as_str());
            ensure!(modes.all(|mode| mode == "clsact"), "{report:#}");
        }
    }
    Ok(())
}

/// The self-test passes, and leaves nothing: neither namespaces nor programs nor mounts.
pub(super) fn self_test() -> Result<()> {
    let rig = Rig::create()?;
    let (report, code) = report(rig.command()?.arg("--json"))?;
    let test = &report["selftest"];
    ensure!(test["lacks"].is_null(), "{test:#}");
    let cases = test["cases"].as_array().context("no cases")?;
    let passed = cases
        .iter()
        .filter(|case| case["result"]["outcome"] == "passed")
        .count();
    // A machine that does other things may not have the time for all of them.
    let is_late = |case: &&Value| {
        let why = case["result"]["why"].as_str();
        why.is_some_and(|why| why.contains("no time left"))
    };
    let late = cases.iter().filter(is_late).count();
    ensure!(
        passed + late == cases.len() && passed >= 12,
        "{passed} passed: {test:#}"
    );
    ensure!(code == known_limits(&report), "exit code {code}");
    println!("{passed} of {} cases in {} s", cases.len(), test["seconds"]);
    Ok(())
}

/// The daemon says how its self-test went; without one it says nothing.
pub(super) fn daemon_tests_itself() -> Result<()> {
    let rig = Rig::create()?;
    for (flags, wanted) in [(&["--self-test"][..], Some("1")), (&[], None)] {
        let start = Start {
            flags,
            ..Start::default()
        };
        let mut daemon = Daemon::start_as(&rig.netns, rig.folder.path(), &start)?;
        let (_, body) = daemon.get("/metrics")?;
        let mut lines = body.lines();
        let value = lines.find_map(|line| line.strip_prefix("peerwatch_selftest_success "));
        ensure!(value == wanted, "{flags:?}: {value:?}");
        let said = daemon.errors().contains("cases counted exactly");
        ensure!(said == wanted.is_some(), "{}", daemon.errors());
        daemon.stop()?;
    }
    // Where it can't run, the daemon works all the same, and says so.
    let start = Start {
        flags: &["--self-test"],
        wrapper: &["setpriv", "--bounding-set", "-sys_admin"],
        ..Start::default()
    };
    let mut daemon = Daemon::start_as(&rig.netns, rig.folder.path(), &start)?;
    let (_, body) = daemon.get("/metrics")?;
    ensure!(body.contains("\npeerwatch_selftest_success 0\n"), "{body}");
    ensure!(
        daemon.errors().contains("the self-test could not run"),
        "{}",
        daemon.errors()
    );
    daemon.stop()
}

/// A wrong call says so, and is no verdict on the host.
pub(super) fn bad_arguments() -> Result<()> {
    let rig = Rig::create()?;
    for (flags, says) in [
        (&["--json=yes"][..], "--json"),
        (&["--self-test=maybe"], "maybe"),
        (
            &["--config", "/nowhere/peerwatch.toml"],
            "/nowhere/peerwatch.toml",
        ),
        (&["--btf", "/dev/null"], "/dev/null"),
    ] {
        let output = rig.command()?.args(flags).output()?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(
            !output.status.success() && output.stdout.is_empty(),
            "{flags:?}"
        );
        if !errors.contains(says) {
            bail!("{flags:?}: {errors}");
        }
    }
    Ok(())
}
