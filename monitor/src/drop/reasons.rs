//! Class and group of each drop reason, by name.

use monitor_common::drop::{Class, Group};

/// Reasons that mean the same thing. A name that ends with `*` stands for all that begin so and are
/// in no row of their own.
struct Row {
    class: Class,
    group: Group,
    names: &'static [&'static str],
}

const fn row(class: Class, group: Group, names: &'static [&'static str]) -> Row {
    Row {
        class,
        group,
        names,
    }
}

/// The names of `enum skb_drop_reason` (`include/net/dropreason-core.h`) up to Linux 7.3 without
/// their prefix, and those that kernels between 6.1 and 7.3 called otherwise. `monitor/tests` has the
/// enums of many of them.
///
/// Whether a reason stands before or after the point where allowed packets are counted was found by
/// experiment for the common ones and in the kernel's source for the rest. `Subtract` is for those
/// that can follow a counting hook (the socket's own filter runs after the cgroup hook), and
/// `ByPlace` for those that occur on both sides of it.
const ROWS: &[Row] = &[
    row(
        Class::Firewall,
        Group::Before,
        &[
            "NETFILTER_DROP",
            "XFRM_POLICY",
            "BPF_CGROUP_EGRESS",
            "XDP",
            "TC_INGRESS",
            "TC_COOKIE_ERROR",
        ],
    ),
    row(
        Class::Firewall,
        Group::Subtract,
        // The last two come from a classifier at ingress, where nothing was counted yet and
        // `Subtract` means `Before`, as well as at egress.
        &[
            "SOCKET_FILTER",
            "SECURITY_HOOK",
            "TC_EGRESS",
            "TC_CHAIN_NOTFOUND",
            "TC_RECLASSIFY_LOOP",
        ],
    ),
    row(
        Class::NoListener,
        Group::Before,
        &["NO_SOCKET", "IP_NOPROTO"],
    ),
    row(
        Class::Routing,
        Group::Before,
        &[
            "IP_OUTNOROUTES",
            "IP_INADDRERRORS",
            "IP_INNOROUTES",
            "IP_LOCALNET",
            "IP_INVALID_DEST",
            "IPV6DISABLED",
            "BRIDGE_INGRESS_STP_STATE",
        ],
    ),
    row(Class::Routing, Group::ByPlace, &["PKT_TOO_BIG"]),
    row(
        Class::RpFilter,
        Group::Before,
        &["IP_RPFILTER", "IP_LOCAL_SOURCE", "IP_INVALID_SOURCE"],
    ),
    row(
        Class::Neighbour,
        Group::Before,
        &[
            "NEIGH_CREATEFAIL",
            "NEIGH_FAILED",
            "NEIGH_QUEUEFULL",
            "NEIGH_DEAD",
            "NEIGH_HH_FILLFAIL",
        ],
    ),
    // VXLAN_NO_REMOTE is what 6.12 called NO_TX_TARGET.
    row(
        Class::Neighbour,
        Group::ByPlace,
        &["NO_TX_TARGET", "VXLAN_NO_REMOTE"],
    ),
    row(
        Class::Malformed,
        Group::Before,
        &[
            "PKT_TOO_SMALL",
            "IP_CSUM",
            "IP_INHDR",
            "UNICAST_IN_L2_MULTICAST",
            "TCP_AUTH_HDR",
            "TCP_MD5*",
            "TCP_AO*",
            "TCP_MINTTL",
            "IPV6_BAD_EXTHDR",
            "DUP_FRAG",
            "FRAG_*",
            "VXLAN_*",
            "MAC_INVALID_SOURCE",
            "LOCAL_MAC",
            "IP_TUNNEL_ECN",
            // Linux 7.0, in `__dev_queue_xmit` ahead of the egress hook.
            "SKB_BAD_GSO",
            // Linux 7.1, in `ip6_protocol_deliver_rcu`.
            "IPV6_TOO_MANY_EXTHDRS",
        ],
    ),
    row(
        Class::Malformed,
        Group::ByPlace,
        &[
            "TCP_CSUM",
            "UDP_CSUM",
            "SKB_CSUM",
            "HDR_TRUNC",
            "DEV_HDR",
            "PSP_INPUT",
        ],
    ),
    row(
        Class::Overload,
        Group::Before,
        &["CPU_BACKLOG", "PFMEMALLOC"],
    ),
    row(
        Class::Overload,
        Group::ByPlace,
        // The last two (Linux 7.1) are copies of broadcasts for a host's own virtual devices, which
        // wait in a queue: on the way in, and for ipvlan on the way out too.
        &[
            "NOMEM",
            "SKB_UCOPY_FAULT",
            "MACVLAN_BROADCAST_BACKLOG",
            "IPVLAN_MULTICAST_BACKLOG",
        ],
    ),
    row(
        Class::Socket,
        Group::After,
        &[
            "SOCKET_CLOSE",
            "SOCKET_RCVBUFF",
            "PROTO_MEM",
            "SOCKET_BACKLOG",
            "TCP_LISTEN_OVERFLOW",
            "TCP_OFO_QUEUE_PRUNE",
        ],
    ),
    row(Class::Socket, Group::ByPlace, &["QUEUE_PURGE"]),
    row(
        Class::Queue,
        Group::After,
        &[
            "QDISC_*",
            "CAKE_FLOOD",
            "FQ_*",
            "FULL_RING",
            "TAP_*",
            "TUNNEL_TXINFO",
            "DUALPI2_STEP_DROP",
            "PSP_OUTPUT",
            "RECURSION_LIMIT",
        ],
    ),
    row(Class::Queue, Group::ByPlace, &["SKB_GSO_SEG", "DEV_READY"]),
    row(
        Class::Protocol,
        Group::After,
        &[
            "TCP_FLAGS",
            "TCP_ABORT_ON_DATA",
            "TCP_ZEROWINDOW",
            "TCP_OLD_DATA",
            "TCP_OVERWINDOW",
            "TCP_OFOMERGE",
            "TCP_RFC7323_PAWS",
            "TCP_RFC7323_PAWS_ACK",
            "TCP_RFC7323_TSECR",
            "TCP_OLD_SEQUENCE",
            "TCP_INVALID_*",
            "TCP_RESET",
            "TCP_CLOSE",
            "TCP_FASTOPEN",
            "TCP_OLD_ACK",
            "TCP_TOO_OLD_ACK",
            "TCP_ACK_UNSENT_DATA",
            "TCP_OFO_DROP",
        ],
    ),
    row(Class::Protocol, Group::Allowed, &["TCP_RFC7323_TW_PAWS"]),
    row(Class::Unspecified, Group::ByPlace, &["NOT_SPECIFIED"]),
    row(
        Class::Unspecified,
        Group::Ignored,
        &[
            "OTHERHOST",
            "UNHANDLED_PROTO",
            "ICMP_CSUM",
            "INVALID_PROTO",
            "IPV6_NDISC_*",
            "PACKET_SOCK_ERROR",
            "ARP_PVLAN_DISABLE",
            "MAC_IEEE_MAC_CONTROL",
            "CAN_*",
            "CANFD_*",
            "CANXL_*",
            "UNIX_*",
            "SKB_CONSUMED",
        ],
    ),
];

/// How a rule of [`RULES`] looks at a name.
#[derive(Clone, Copy)]
enum Test {
    Begins(&'static str),
    Has(&'static str),
}

/// For names that no row knows, because the kernel is newer: the first rule that fits.
///
/// A rule says `Before` or `After` only where every known reason of its kind agrees; otherwise the
/// packet's own path decides. Calling a harmless clean-up a drop wakes somebody up, so what belongs
/// to TCP's own work is `After`, and what carries neither TCP nor UDP is left out.
const RULES: &[(Test, Class, Group)] = &[
    // Checksums are verified late or early, by length (see the row of TCP_CSUM); this goes before
    // the protocols, whose names stand in front.
    (Test::Has("CSUM"), Class::Malformed, Group::ByPlace),
    (Test::Begins("NETFILTER"), Class::Firewall, Group::Before),
    (Test::Begins("NF_"), Class::Firewall, Group::Before),
    (Test::Begins("XFRM_"), Class::Firewall, Group::Before),
    (Test::Begins("XDP_"), Class::Firewall, Group::Before),
    // Programs and modules that can sit on either side of a counting hook: what they drop is taken
    // off the allowed packets if it was counted there, and is a plain drop otherwise.
    (Test::Begins("BPF_"), Class::Firewall, Group::Subtract),
    (Test::Begins("TC_"), Class::Firewall, Group::Subtract),
    (Test::Begins("SECURITY_"), Class::Firewall, Group::Subtract),
    (Test::Begins("LSM_"), Class::Firewall, Group::Subtract),
    (Test::Begins("NEIGH_"), Class::Neighbour, Group::Before),
    (Test::Begins("SCTP_"), Class::Unspecified, Group::Ignored),
    (Test::Begins("ICMP"), Class::Unspecified, Group::Ignored),
    (Test::Begins("ARP_"), Class::Unspecified, Group::Ignored),
    (Test::Begins("IGMP_"), Class::Unspecified, Group::Ignored),
    (
        Test::Begins("MAC80211_"),
        Class::Unspecified,
        Group::Ignored,
    ),
    (Test::Begins("TCP_"), Class::Protocol, Group::After),
    (Test::Begins("SOCKET_"), Class::Socket, Group::After),
    (Test::Has("RCVBUF"), Class::Socket, Group::After),
    (Test::Begins("CAKE_"), Class::Queue, Group::After),
    (Test::Begins("DUALPI2_"), Class::Queue, Group::After),
    (Test::Has("RPFILTER"), Class::RpFilter, Group::Before),
    (Test::Has("ROUTE"), Class::Routing, Group::ByPlace),
    (Test::Begins("BRIDGE_"), Class::Routing, Group::ByPlace),
    (Test::Has("FRAG"), Class::Malformed, Group::ByPlace),
    (Test::Has("HDR"), Class::Malformed, Group::ByPlace),
    (Test::Has("NOMEM"), Class::Overload, Group::ByPlace),
    (Test::Has("BACKLOG"), Class::Overload, Group::ByPlace),
];

/// Class and group of the reason `name` (without `SKB_DROP_REASON_`).
///
/// Names that no row has, of kernels newer than this program, fall under a rule by their parts, and
/// what no rule knows is [`Class::Unspecified`], decided by its place.
#[must_use]
pub fn classify(name: &str) -> (Class, Group) {
    if let Some(row) = known(name) {
        return (row.class, row.group);
    }
    let fits = |test| match test {
        Test::Begins(start) => name.starts_with(start),
        Test::Has(part) => name.contains(part),
    };
    RULES.iter().find(|&&(test, ..)| fits(test)).map_or(
        (Class::Unspecified, Group::ByPlace),
        |&(_, class, group)| (class, group),
    )
}

/// Whether the reason `name` (without `SKB_DROP_REASON_`) has a row, rather than a guess by rule.
#[must_use]
pub fn is_known(name: &str) -> bool {
    known(name).is_some()
}

/// The row of a name: the one that has all of it, else one that has its beginning.
fn known(name: &str) -> Option<&'static Row> {
    let exact = ROWS.iter().find(|row| row.names.contains(&name));
    exact.or_else(|| {
        ROWS.iter().find(|row| {
            let mut starts = row.names.iter().filter_map(|name| name.strip_suffix('*'));
            starts.any(|start| name.starts_with(start))
        })
    })
}

/// Class and group of all reasons of a subsystem: a name of `enum skb_drop_reason_subsys` without
/// `SKB_DROP_REASON_SUBSYS_`.
///
/// Open vSwitch drops what its flow table says. The reasons of the `QDISC` subsystem (Linux 7) are
/// those that were `QDISC_…` of the core before. mac80211's are wireless frames, not packets.
#[must_use]
pub fn classify_subsystem(name: &str) -> (Class, Group) {
    if name == "OPENVSWITCH" {
        (Class::Firewall, Group::Before)
    } else if name == "QDISC" {
        (Class::Queue, Group::After)
    } else if name.starts_with("MAC80211_") {
        (Class::Unspecified, Group::Ignored)
    } else {
        (Class::Unspecified, Group::ByPlace)
    }
}

#[cfg(test)]
mod tests;
