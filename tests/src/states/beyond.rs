//! Firewalls beyond this host that say nothing: a block where the host behind them is known to be alive.

use std::net::{SocketAddr, UdpSocket};

use anyhow::{Result, ensure};

use super::command::first_line;
use super::scene;
use super::shown::{SOON, exactly, is_near, three_in_vain, wait_for};
use crate::attempts::act::{Act, Way};
use crate::attempts::lab::WAN;
use crate::expect::Family;
use crate::lab::{Net, PEER, SERVER, address};

/// A host that lets nobody in. Neighbours find it all the same, or nothing would get there.
const CLOSED: &str = "type filter hook input priority 0; policy drop";
const NEIGHBOURS: &str = "icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept";

/// The target is on a link of this host: it answers for its link address, and for nothing else.
pub(super) fn on_link(family: Family) -> Result<()> {
    scene("", Way::Forwarded, family, |act| {
        let lab = act.lab;
        act.target = address(family, WAN, SERVER);
        act.rule(&lab.router, CLOSED, NEIGHBOURS)?;
        // As on real links: it has to be asked for.
        lab.gw.ip(&format!("neigh del {} dev wan0", act.target))?;
        let before = lab.counts()?;
        let tries = three_in_vain(act)?;
        let blocked = wait_for(act, "blocked", SOON)?;
        ensure!(blocked.blocked_by == "upstream", "{blocked:?}");
        is_near("blocked since", blocked.blocked_since, tries.first)?;
        exactly(act, &before, &act.only("unanswered", "upstream", 3))?;
        blocked_by_upstream(act)
    })
}

/// The target is behind another router, so nothing is known of it until it says something.
pub(super) fn behind_a_router(family: Family) -> Result<()> {
    scene("", Way::Forwarded, family, |act| {
        let lab = act.lab;
        act.rule(&lab.server, CLOSED, NEIGHBOURS)?;
        let before = lab.counts()?;
        let tries = three_in_vain(act)?;
        let failing = wait_for(act, "failing", SOON)?;
        ensure!(failing.blocked_by == "unknown", "{failing:?}");
        ensure!(failing.blocked_since.to_bits() == 0, "{failing:?}");
        let mut expected = act.only("unanswered", "unknown", 3);
        exactly(act, &before, &expected)?;
        let line = first_line(lab, &[], 1)?;
        ensure!(
            line.starts_with("PEERWATCH WARNING - do_peer forwarded failing by unknown since "),
            "{line}"
        );

        let target = SocketAddr::new(act.target, 0);
        let client = SocketAddr::new(address(family, Net::Lan, PEER), 9);
        lab.server.run(|| {
            let socket = UdpSocket::bind(target)?;
            socket.send_to(b"still here", client)?;
            Ok(())
        })?;
        three_in_vain(act)?;
        let blocked = wait_for(act, "blocked", SOON)?;
        ensure!(blocked.blocked_by == "upstream", "{blocked:?}");
        // Those that nothing was known of belong to it: there was no success in between.
        is_near("blocked since", blocked.blocked_since, tries.first)?;
        act.expect(&mut expected, "unanswered", "upstream", 3);
        exactly(act, &before, &expected)?;
        blocked_by_upstream(act)
    })
}

fn blocked_by_upstream(act: &Act<'_>) -> Result<()> {
    let line = first_line(act.lab, &[], 2)?;
    ensure!(
        line.starts_with("PEERWATCH CRITICAL - do_peer forwarded blocked by upstream since "),
        "{line}"
    );
    Ok(())
}
