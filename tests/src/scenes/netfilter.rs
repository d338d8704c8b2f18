//! Rules of nftables and iptables.

use anyhow::Result;

use super::{Limits, NETFILTER, Obstacle, Play, Reason, Scene, scene};
use crate::case::{Case, Plan, Shape, Way};
use crate::expect::Expected;
use crate::kernel;
use crate::needs::Feature;

const fn drop_at(by: Obstacle, at: &'static str) -> Play {
    Play::Dropped {
        by,
        reason: NETFILTER,
        at,
    }
}

const fn nft(chain: &'static str) -> Obstacle {
    Obstacle::Nft("inet", chain, "drop")
}

const fn netdev(chain: &'static str) -> Obstacle {
    Obstacle::Nft("netdev", chain, "drop")
}

const fn bridge(chain: &'static str) -> Obstacle {
    Obstacle::Nft("bridge", chain, "drop")
}

const INPUT: &str = "filter hook input priority 0";
const OUTPUT: &str = "filter hook output priority 0";
const FORWARD: &str = "filter hook forward priority 0";
const PREROUTING: &str = "filter hook prerouting priority 0";
const POSTROUTING: &str = "filter hook postrouting priority 0";

/// Before routing, a drop is told inbound or forwarded by its address; after it, the device is the one
/// on which the packet would have left.
pub(super) const DROPS: &[Scene] = &[
    scene("nft_input_drop", Way::Inbound, drop_at(nft(INPUT), "lan0")),
    scene(
        "nft_prerouting_drop",
        Way::Inbound,
        drop_at(nft(PREROUTING), "lan0"),
    ),
    scene("nft_ingress_drop", Way::Inbound, {
        drop_at(netdev("filter hook ingress device lan0 priority 0"), "lan0")
    }),
    scene(
        "nft_output_drop",
        Way::Outbound,
        drop_at(nft(OUTPUT), "none"),
    ),
    scene(
        "nft_postrouting_drop",
        Way::Outbound,
        drop_at(nft(POSTROUTING), "wan0"),
    ),
    scene("nft_egress_drop", Way::Outbound, {
        drop_at(netdev("filter hook egress device wan0 priority 0"), "wan0")
    })
    .needing(Feature::NetdevEgress),
    scene(
        "nft_forward_drop",
        Way::Forwarded,
        drop_at(nft(FORWARD), "lan0"),
    ),
    scene(
        "nft_prerouting_drop",
        Way::Forwarded,
        drop_at(nft(PREROUTING), "lan0"),
    ),
    scene(
        "nft_postrouting_drop",
        Way::Forwarded,
        drop_at(nft(POSTROUTING), "wan0"),
    ),
    scene("nft_ingress_drop", Way::Forwarded, {
        drop_at(netdev("filter hook ingress device lan0 priority 0"), "lan0")
    }),
    scene("nft_egress_drop", Way::Forwarded, {
        drop_at(netdev("filter hook egress device wan0 priority 0"), "wan0")
    })
    .needing(Feature::NetdevEgress),
    scene(
        "nft_input_drop_extra_headers",
        Way::Inbound,
        drop_at(nft(INPUT), "lan0"),
    )
    .shaped(Shape::ExtraHeaders),
    scene(
        "nft_output_drop_extra_headers",
        Way::OutboundRaw,
        drop_at(nft(OUTPUT), "none"),
    )
    .shaped(Shape::ExtraHeaders),
    scene(
        "nft_forward_drop_extra_headers",
        Way::Forwarded,
        drop_at(nft(FORWARD), "lan0"),
    )
    .shaped(Shape::ExtraHeaders),
    scene(
        "nft_input_drop_reply",
        Way::Inbound,
        drop_at(nft(INPUT), "lan0"),
    )
    .shaped(Shape::Reply),
    scene(
        "nft_output_drop_reply",
        Way::OutboundRaw,
        drop_at(nft(OUTPUT), "none"),
    )
    .shaped(Shape::Reply),
    scene(
        "nft_forward_drop_reply",
        Way::Forwarded,
        drop_at(nft(FORWARD), "lan0"),
    )
    .shaped(Shape::Reply),
    scene(
        "nft_input_drop_to_bridge_device",
        Way::InboundBridge,
        drop_at(nft(INPUT), "br0"),
    ),
    scene(
        "nft_forward_drop_to_bridge",
        Way::RoutedToBridge,
        drop_at(nft(FORWARD), "lan0"),
    ),
    scene(
        "nft_bridge_prerouting_drop",
        Way::Bridged,
        Play::Own(bridge_prerouting),
    ),
    scene(
        "nft_bridge_forward_drop",
        Way::Bridged,
        drop_at(bridge(FORWARD), "bp1"),
    ),
    scene(
        "nft_bridge_postrouting_drop",
        Way::Bridged,
        drop_at(bridge(POSTROUTING), "bp1"),
    ),
    scene("nft_bridge_ingress_drop", Way::Bridged, {
        drop_at(netdev("filter hook ingress device bp0 priority 0"), "bp0")
    }),
    scene(
        "iptables_nft_drop",
        Way::Inbound,
        drop_at(Obstacle::Iptables("nft", "INPUT"), "lan0"),
    ),
    scene("iptables_nft_drop", Way::Outbound, {
        drop_at(Obstacle::Iptables("nft", "OUTPUT"), "none")
    }),
    scene("iptables_nft_drop", Way::Forwarded, {
        drop_at(Obstacle::Iptables("nft", "FORWARD"), "lan0")
    }),
    scene("iptables_legacy_drop", Way::Inbound, {
        drop_at(Obstacle::Iptables("legacy", "INPUT"), "lan0")
    }),
    scene("iptables_legacy_drop", Way::Outbound, {
        drop_at(Obstacle::Iptables("legacy", "OUTPUT"), "none")
    }),
    scene("iptables_legacy_drop", Way::Forwarded, {
        drop_at(Obstacle::Iptables("legacy", "FORWARD"), "lan0")
    }),
];

/// A bridge runs these rules by itself, and does not name a firewall. Since Linux 6.7 the chain does it
/// (commit e0d4593140b0).
fn bridge_prerouting<'b>(case: &'b Case<'_>) -> Result<Plan<'b>> {
    bridge(PREROUTING).set(case)?;
    let reason = if kernel::is_at_least(6, 7) {
        NETFILTER
    } else {
        ("firewall", "NOT_SPECIFIED")
    };
    let mut expected = Expected::nothing();
    expected.dropped(case.kind(), reason, "bp0", case.count, case.bytes());
    Ok(Plan::new(|| case.send(), expected))
}

const ICMP: &str = "reject";
const RESET: &str = "reject with tcp reset";

const fn reject(chain: &'static str, verdict: &'static str) -> Obstacle {
    Obstacle::Nft("inet", chain, verdict)
}

const fn reset(chain: &'static str) -> Play {
    let reason: Reason = NETFILTER;
    Play::Refused {
        by: reject(chain, RESET),
        reason,
        at: "lan0",
    }
}

/// An ICMP error is no packet of the traffic; an RST is an answer that this host makes, also where it
/// refuses for somebody else. That of the output hook goes over the loopback and is left out.
pub(super) const REJECTS: &[Scene] = &[
    scene(
        "nft_reject_icmp",
        Way::Inbound,
        drop_at(reject(INPUT, ICMP), "lan0"),
    ),
    scene(
        "nft_reject_icmp",
        Way::Forwarded,
        drop_at(reject(FORWARD, ICMP), "lan0"),
    ),
    scene(
        "nft_reject_icmp_prerouting",
        Way::Forwarded,
        drop_at(reject(PREROUTING, ICMP), "lan0"),
    ),
    scene(
        "nft_reject_icmp",
        Way::Outbound,
        drop_at(reject(OUTPUT, ICMP), "none"),
    ),
    scene("nft_reject_rst", Way::Inbound, reset(INPUT)).only(Limits::TCP),
    scene("nft_reject_rst", Way::Forwarded, reset(FORWARD)).only(Limits::TCP),
    scene(
        "nft_reject_rst_prerouting",
        Way::Forwarded,
        reset(PREROUTING),
    )
    .only(Limits::TCP),
    scene(
        "nft_reject_rst",
        Way::Outbound,
        drop_at(reject(OUTPUT, RESET), "none"),
    )
    .only(Limits::TCP),
];
