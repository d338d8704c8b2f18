//! Under `lockdown=confidentiality`: what loads counts what passes here exactly (no later program drops it,
//! and no socket is in `TIME_WAIT`), and the rest is absent and said. Only the virtual machines of
//! `cargo xtask vm-test` boot a kernel so.

use anyhow::{Result, ensure};

use crate::daemon::Start;
use crate::degraded::{ALLOWED, nothing_leaves_a_tun, run};
use crate::doctor::calls::locked_down;
use crate::features::{OwnLab, claimed, is_locked_down};
use crate::lab::Lab;

/// The trials of this file.
pub const TRIALS: &[OwnLab] = &[
    ("lockdown/what_is_left", what_is_left),
    ("lockdown/doctor", locked_down),
];

/// Why they can't run here; `None` where it can.
///
/// # Errors
///
/// When the kernel's command line can't be read.
pub fn missing() -> Result<Option<String>> {
    let why = "this kernel is not locked down; `cargo xtask vm-test lockdown/` boots one that is";
    Ok((!is_locked_down()?).then(|| why.to_owned()))
}

fn what_is_left() -> Result<()> {
    let lab = Lab::create_with(&Start {
        flags: &["--log-level", "debug"],
        ready: false,
        ..Start::default()
    })?;
    let said = lab.daemon.errors();
    let claims = claimed(&said)?;
    ensure!(claims["kernel_reads"].is_err(), "{claims:?}");
    let errors: Vec<&str> = said
        .lines()
        .filter(|line| line.contains(" ERROR "))
        .collect();
    let about_drops = |line: &&&str| line.contains("drops are not counted");
    ensure!(
        errors.iter().filter(about_drops).count() == 1
            && errors
                .iter()
                .all(|line| line.contains("lockdown=confidentiality")),
        "{errors:?}"
    );
    let (status, why) = lab.daemon.get("/readyz")?;
    ensure!(
        status == 503 && why.contains("hook drop: ") && why.contains("lockdown=confidentiality"),
        "{status}: {why}"
    );
    nothing_leaves_a_tun(&lab)?;
    let inbound = claims["netns_cookie_cgroup"].is_ok();
    run(&lab, &ALLOWED[usize::from(!inbound)..])?;
    let (_, body) = lab.daemon.get("/metrics")?;
    for absent in ["verdict=\"dropped\"", "peerwatch_drops_total"] {
        ensure!(!body.contains(absent), "there is {absent}");
    }
    let attached =
        |hook: &str, value: u8| format!("hook_attached{{hook=\"{hook}\",interface=\"\"}} {value}");
    for shown in [attached("drop", 0), attached("deliver", u8::from(inbound))] {
        ensure!(body.contains(&shown), "no {shown} in {body}");
    }
    Ok(())
}
