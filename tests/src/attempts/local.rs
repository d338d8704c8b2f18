//! Attempts that end at the gateway: by a rule in each of its hooks, or by its stack.

use anyhow::Result;

use super::act::{ANSWER, Act, ONCE, Seen, Target, Way};
use super::{Scene, scene};
use crate::expect::{Expected, Family};
use crate::needs::Feature;

/// How many attempts a scene makes at once.
const N: u64 = 3;

/// A hook of the gateway's firewall.
#[derive(Clone, Copy, Debug)]
struct Hook {
    name: &'static str,
    /// Where it is on the way of SYNs, and which ways come there.
    syn: (&'static str, &'static [Way]),
    /// The same of SYN-ACKs.
    syn_ack: (&'static str, &'static [Way]),
    /// Whether it comes before a translation of the target, on the way of SYNs.
    before_dnat: bool,
    /// Whether rules there may reject.
    rejects: bool,
}

const HOOKS: &[Hook] = &[
    Hook {
        name: "ingress",
        syn: (
            "type filter hook ingress device \"lan0\" priority 0",
            &[Way::Inbound, Way::Forwarded, Way::Masquerade, Way::Dnat],
        ),
        syn_ack: (
            "type filter hook ingress device \"wan0\" priority 0",
            Way::BEYOND,
        ),
        before_dnat: true,
        rejects: true,
    },
    Hook {
        name: "prerouting",
        syn: (
            "type filter hook prerouting priority -150",
            &[Way::Inbound, Way::Forwarded, Way::Masquerade, Way::Dnat],
        ),
        syn_ack: ("type filter hook prerouting priority -150", Way::BEYOND),
        before_dnat: true,
        rejects: true,
    },
    Hook {
        name: "input",
        syn: ("type filter hook input priority 0", &[Way::Inbound]),
        syn_ack: ("type filter hook input priority 0", &[Way::Outbound]),
        before_dnat: false,
        rejects: true,
    },
    Hook {
        name: "forward",
        syn: ("type filter hook forward priority 0", Way::ROUTED),
        syn_ack: ("type filter hook forward priority 0", Way::ROUTED),
        before_dnat: false,
        rejects: true,
    },
    Hook {
        name: "output",
        syn: ("type filter hook output priority 0", &[Way::Outbound]),
        syn_ack: ("type filter hook output priority 0", &[Way::Inbound]),
        before_dnat: false,
        rejects: true,
    },
    Hook {
        name: "postrouting",
        syn: ("type filter hook postrouting priority 0", Way::BEYOND),
        syn_ack: (
            "type filter hook postrouting priority 0",
            &[Way::Inbound, Way::Forwarded, Way::Masquerade, Way::Dnat],
        ),
        before_dnat: false,
        rejects: false,
    },
    Hook {
        name: "egress",
        syn: (
            "type filter hook egress device \"wan0\" priority 0",
            Way::BEYOND,
        ),
        // Behind the translation back, its port is the traffic's.
        syn_ack: (
            "type filter hook egress device \"lan0\" priority 0",
            &[Way::Inbound, Way::Forwarded, Way::Masquerade],
        ),
        before_dnat: false,
        rejects: false,
    },
];

/// The scenes.
#[must_use]
pub fn scenes() -> Vec<Scene> {
    let mut all = Vec::new();
    for hook in HOOKS {
        let (name, needs) = (hook.name, needs(hook));
        let add = |scene: Scene| match needs {
            Some(feature) => scene.needing(feature),
            None => scene,
        };
        all.push(add(scene(&format!("dropped/{name}"), hook.syn.1, |act| {
            dropped(act, hook)
        })));
        all.push(add(scene(
            &format!("reply_dropped/{name}"),
            hook.syn_ack.1,
            |act| reply_dropped(act, hook),
        )));
        if hook.rejects {
            all.push(scene(&format!("rejected/icmp/{name}"), hook.syn.1, |act| {
                rejected(act, hook, "icmpx type admin-prohibited", Seen::Unreachable)
            }));
            all.push(scene(
                &format!("rejected/reset/{name}"),
                hook.syn.1,
                |act| rejected(act, hook, "tcp reset", Seen::Refused),
            ));
        }
    }
    all.push(scene("no_route", &[Way::Forwarded, Way::Dnat], by_route).target(Target::Nowhere));
    all.push(
        scene("forbidden_route", &[Way::Forwarded, Way::Dnat], by_route).target(Target::Forbidden),
    );
    all.push(
        // The other family has no such check but by rules.
        scene("rp_filter", &[Way::Inbound, Way::Forwarded], rp_filter).families(&[Family::V4]),
    );
    all
}

fn needs(hook: &Hook) -> Option<Feature> {
    (hook.name == "egress").then_some(Feature::NetdevEgress)
}

fn syn(act: &Act<'_>, hook: &Hook) -> String {
    if hook.before_dnat {
        act.syn_as_sent()
    } else {
        act.syn()
    }
}

/// The SYNs end in this hook.
fn ended(act: &Act<'_>, hook: &Hook, outcome: &str) -> Expected {
    let mut expected = Expected::nothing();
    // Direction is the furthest stage seen: before the translation, it goes to the gateway itself.
    let direction = if act.way == Way::Dnat && hook.before_dnat {
        Way::Inbound.direction()
    } else {
        act.way.direction()
    };
    let key = (&*act.slot.traffic, act.family, direction);
    expected.ended(key, (outcome, "local_firewall"), N);
    expected
}

fn dropped(act: &Act<'_>, hook: &Hook) -> Result<Expected> {
    act.rule(&act.lab.gw, hook.syn.0, &format!("{} drop", syn(act, hook)))?;
    act.connect(N, ONCE, Seen::Silence)?;
    Ok(ended(act, hook, "dropped"))
}

fn rejected(act: &Act<'_>, hook: &Hook, with: &str, seen: Seen) -> Result<Expected> {
    let rule = format!("{} reject with {with}", syn(act, hook));
    act.rule(&act.lab.gw, hook.syn.0, &rule)?;
    act.connect(N, ANSWER, seen)?;
    Ok(ended(act, hook, "rejected"))
}

fn reply_dropped(act: &Act<'_>, hook: &Hook) -> Result<Expected> {
    act.listen()?;
    act.rule(
        &act.lab.gw,
        hook.syn_ack.0,
        &format!("{} drop", act.syn_ack()),
    )?;
    act.connect(N, ONCE, Seen::Silence)?;
    Ok(act.only("reply_dropped", "local_firewall", N))
}

fn by_route(act: &Act<'_>) -> Result<Expected> {
    // The stack tells of these about once a second only, whatever the limits of ICMP are, so some hear it
    // when they repeat their SYN.
    act.connect(N, ANSWER * 3, Seen::Unreachable)?;
    Ok(act.only("dropped", "local_stack", N))
}

fn rp_filter(act: &Act<'_>) -> Result<Expected> {
    // An address that the gateway has a route to, by another interface.
    let from = crate::lab::address(act.family, super::lab::FAR, act.number);
    let client = &act.lab.client;
    client.ip(&format!("address add {from}/32 dev lo"))?;
    act.on_end(move || client.ip(&format!("address del {from}/32 dev lo")));
    act.connect_from(Some(from), N, ONCE, Seen::Silence)?;
    Ok(act.only("dropped", "local_stack", N))
}
