//! States, decided from real packets in real time, with the thresholds that users get: each row has a lab
//! of its own, and most of its time is waiting, so all run side by side.

use anyhow::{Context as _, Result};

use crate::attempts::act::{Act, Target, Way};
use crate::attempts::lab::{Lab, Slot};
use crate::expect::Family;
use crate::netns;

mod beyond;
mod calm;
mod command;
mod here;
mod shown;

/// One row.
pub type Row = fn() -> Result<()>;

/// Every row, with its name.
#[must_use]
pub fn rows() -> Vec<(&'static str, Row)> {
    vec![
        ("rule_here/forwarded/ipv4", || here::rule(Family::V4)),
        ("rule_here/forwarded/ipv6", || here::rule(Family::V6)),
        ("silence_ends_no_block/outbound", here::silence),
        ("silent_firewall/on_link/ipv4", || {
            beyond::on_link(Family::V4)
        }),
        ("silent_firewall/on_link/ipv6", || {
            beyond::on_link(Family::V6)
        }),
        ("silent_firewall/beyond/ipv4", || {
            beyond::behind_a_router(Family::V4)
        }),
        ("silent_firewall/beyond/ipv6", || {
            beyond::behind_a_router(Family::V6)
        }),
        ("expected_closed", calm::closed),
        ("no_demand", calm::no_demand),
        ("status_over_http", calm::http),
        ("attempts_at_first_scrape", calm::first_scrape),
    ]
}

/// Runs a scene of the traffic `do_peer`, towards the server, in a lab whose daemon has this configuration.
fn scene(
    configuration: &str,
    way: Way,
    family: Family,
    run: impl FnOnce(&mut Act<'_>) -> Result<()>,
) -> Result<()> {
    let mut lab = Lab::create_with(configuration)?;
    let slot = Slot::new(0);
    let mut act = Act::new(&lab, &slot, way, family, Target::Server)?;
    let result = run(&mut act);
    drop(act);
    result.with_context(|| format!("the daemon's log:\n{}", lab.daemon.log()))?;
    if netns::keep() {
        std::mem::forget(lab);
        return Ok(());
    }
    lab.daemon.stop()
}
