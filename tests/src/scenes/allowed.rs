//! Nothing drops the packets.

use super::{Limits, Obstacle, Play, Scene, scene};
use crate::case::{Shape, Way};

const PASS: Play = Play::Allowed(Obstacle::Nothing);
const DELIVER: Play = Play::Delivered(Obstacle::Nothing);

/// A stateful firewall that lets everything pass; conntrack reassembles and tracks.
const fn stateful(hook: &'static str) -> Obstacle {
    Obstacle::Nft("inet", hook, "ct state new accept")
}

pub(super) const SCENES: &[Scene] = &[
    scene("allowed", Way::Inbound, DELIVER),
    scene("allowed", Way::Outbound, PASS),
    scene("allowed", Way::Forwarded, PASS),
    scene("allowed_raw_socket", Way::OutboundRaw, PASS),
    scene("allowed_to_bridge_device", Way::InboundBridge, DELIVER),
    scene("allowed_to_bridge_device", Way::OutboundBridge, PASS),
    scene("routed_to_bridge", Way::RoutedToBridge, PASS),
    scene("bridged", Way::Bridged, PASS),
    scene("allowed_extra_headers", Way::Inbound, DELIVER)
        .shaped(Shape::ExtraHeaders)
        .only(Limits::UDP),
    scene("allowed_extra_headers", Way::OutboundRaw, PASS).shaped(Shape::ExtraHeaders),
    scene("allowed_extra_headers", Way::Forwarded, PASS).shaped(Shape::ExtraHeaders),
    scene("bridged_extra_headers", Way::Bridged, PASS).shaped(Shape::ExtraHeaders),
    scene("allowed_reply", Way::OutboundRaw, PASS).shaped(Shape::Reply),
    scene("allowed_reply", Way::Forwarded, PASS).shaped(Shape::Reply),
    scene("allowed_stateful", Way::Inbound, {
        Play::Delivered(stateful("filter hook input priority 0"))
    }),
    scene("allowed_stateful", Way::Outbound, {
        Play::Allowed(stateful("filter hook output priority 0"))
    }),
    scene("allowed_stateful", Way::Forwarded, {
        Play::Allowed(stateful("filter hook forward priority 0"))
    }),
];
