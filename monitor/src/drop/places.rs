//! The kernel functions whose addresses decide about drops that have no telling reason.

use monitor_common::drop::{
    Class, Group, MAX_PLACES, PLACE_CERTAIN, PLACE_READER, PLACE_TCP_RECEIVE, Place,
};

use super::ReasonTable;
use crate::kallsyms::{Kallsyms, Range};

/// Which kernels a row is for.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Kernels {
    All,
    /// Linux 5.17 and later.
    WithReasons,
    /// Older ones, where every drop is decided here.
    WithoutReasons,
}

/// What a packet means that is freed in these functions.
struct Row {
    kernels: Kernels,
    class: Class,
    group: Group,
    kind: u8,
    functions: &'static [&'static str],
}

const fn row(
    kernels: Kernels,
    class: Class,
    group: Group,
    functions: &'static [&'static str],
) -> Row {
    Row {
        kernels,
        class,
        group,
        kind: 0,
        functions,
    }
}

/// The most telling rows first: what finds no room at the end is left out.
///
/// A function stands here when a call in it frees packets and returns there. One that frees as its
/// very last act (`arp_error_report`) leaves its caller's address instead, so both are here; and one
/// that compilers inline (`nf_reinject` since 6.10) stands beside the function that swallows it.
/// The list was checked against the disassembly of Debian's 5.10 and 6.1 kernels; 6.18's names
/// against its symbols.
const ROWS: &[Row] = &[
    // Rule P, step 3: most of what ends here was taken by a TIME_WAIT socket. Checksum errors have
    // a reason of their own and are found before the socket's hook.
    Row {
        kernels: Kernels::WithReasons,
        class: Class::Protocol,
        group: Group::Before,
        kind: PLACE_TCP_RECEIVE,
        functions: &["tcp_v4_rcv", "tcp_v6_rcv"],
    },
    // The same function on a kernel that cannot tell TIME_WAIT from a closed port.
    Row {
        kernels: Kernels::WithoutReasons,
        class: Class::NoListener,
        group: Group::Before,
        kind: PLACE_TCP_RECEIVE,
        functions: &["tcp_v4_rcv", "tcp_v6_rcv"],
    },
    // Every verdict of netfilter but those of queues.
    row(
        Kernels::WithoutReasons,
        Class::Firewall,
        Group::Before,
        &["nf_hook_slow"],
    ),
    // Routes of the types unreachable, prohibit, blackhole; no route at all.
    row(
        Kernels::All,
        Class::Routing,
        Group::Before,
        &["ip_error", "ip6_pkt_drop", "dst_discard_out", "dst_discard"],
    ),
    // The target's link address did not resolve, or the entry went away with packets waiting.
    row(
        Kernels::All,
        Class::Neighbour,
        Group::Before,
        &[
            "neigh_invalidate",
            "arp_error_report",
            "ndisc_error_report",
            "__neigh_event_send",
            "neigh_flush_dev",
            "neigh_destroy",
            "neigh_blackhole",
        ],
    ),
    // Verdicts of user space (NFQUEUE), and packets that its full or missing queue costs.
    row(
        Kernels::All,
        Class::Firewall,
        Group::Before,
        &["nf_reinject", "nfqnl_reinject", "nf_queue"],
    ),
    // A generic XDP program's drop; reasons name it since 6.19 or so.
    row(
        Kernels::All,
        Class::Firewall,
        Group::Before,
        &["do_xdp_generic"],
    ),
    // Without a listener, broadcasts and multicasts included.
    row(
        Kernels::All,
        Class::NoListener,
        Group::Before,
        &[
            "__udp4_lib_rcv",
            "__udp6_lib_rcv",
            "__udp4_lib_mcast_deliver",
            "__udp6_lib_mcast_deliver",
        ],
    ),
    // Linux 7.1 retired UDP-Lite, with which UDP had shared the functions above.
    row(
        Kernels::WithReasons,
        Class::NoListener,
        Group::Before,
        &["udp_rcv", "udpv6_rcv"],
    ),
    // Clones for packet and raw sockets: the packet itself goes its own way. Of the queues that are
    // purged by a call rather than in line, those of packet sockets are the ones with packets.
    row(
        Kernels::All,
        Class::Unspecified,
        Group::Ignored,
        &[
            "packet_rcv",
            "tpacket_rcv",
            "packet_rcv_spkt",
            "packet_rcv_fanout",
            "dev_queue_xmit_nit",
            "skb_queue_purge",
            "skb_queue_purge_reason",
            "raw_rcv_skb",
            "rawv6_rcv_skb",
        ],
    ),
    // What receive offload had chained to a packet goes with it, read or not, and was counted with it.
    // Seen on 6.1, where the call in between is inlined; newer kernels know that it was consumed.
    row(
        Kernels::All,
        Class::Unspecified,
        Group::Ignored,
        &["skb_release_data"],
    ),
    // A frame for somebody else on a promiscuous port ends here, and so does one with a bad IP
    // header, which is therefore not seen on these kernels.
    row(
        Kernels::WithoutReasons,
        Class::Unspecified,
        Group::Ignored,
        &["ip_rcv_core", "ip6_rcv_core"],
    ),
    // Almost always the reverse-path filter; where there are reasons it has one, and a martian
    // address is what is left.
    row(
        Kernels::WithoutReasons,
        Class::RpFilter,
        Group::Before,
        &["ip_rcv_finish_core"],
    ),
    row(
        Kernels::WithReasons,
        Class::Routing,
        Group::Before,
        &["ip_rcv_finish_core"],
    ),
    // tc at ingress, XDP, and cgroup programs at egress.
    row(
        Kernels::WithoutReasons,
        Class::Firewall,
        Group::Before,
        &[
            "__netif_receive_skb_core",
            "netif_receive_generic_xdp",
            "ip_finish_output",
            "ip6_finish_output",
        ],
    ),
    // A tc program at egress; our hook is ahead of it. Queueing disciplines free by
    // `kfree_skb_list` there.
    row(
        Kernels::WithoutReasons,
        Class::Firewall,
        Group::Subtract,
        &["__dev_queue_xmit"],
    ),
    row(
        Kernels::WithoutReasons,
        Class::Neighbour,
        Group::Before,
        &["ip_finish_output2", "ip6_finish_output2"],
    ),
    row(
        Kernels::WithoutReasons,
        Class::Overload,
        Group::Before,
        &["enqueue_to_backlog"],
    ),
    // Mostly a full receive buffer; a socket's filter or a cgroup's program looks the same there.
    row(
        Kernels::WithoutReasons,
        Class::Socket,
        Group::After,
        &["udp_queue_rcv_one_skb", "udpv6_queue_rcv_one_skb"],
    ),
    // Not to be forwarded: link-layer broadcasts, and without reasons also an expired TTL.
    row(
        Kernels::All,
        Class::Routing,
        Group::Before,
        &["ip_forward", "ip6_forward"],
    ),
    // TCP's work on an open connection.
    row(
        Kernels::All,
        Class::Protocol,
        Group::After,
        &["tcp_v4_do_rcv", "tcp_v6_do_rcv", "tcp_rcv_established"],
    ),
    // What a socket had received and nobody read.
    row(
        Kernels::All,
        Class::Socket,
        Group::After,
        &[
            "inet_sock_destruct",
            "udp_destruct_common",
            "skb_rbtree_purge",
        ],
    ),
    // A list of packets is freed for a queueing discipline, or when the device is down.
    row(
        Kernels::All,
        Class::Queue,
        Group::After,
        &["kfree_skb_list", "kfree_skb_list_reason"],
    ),
    row(
        Kernels::WithReasons,
        Class::Queue,
        Group::After,
        &["__dev_queue_xmit", "validate_xmit_skb"],
    ),
    // Into the other end of a pair that is down or has a smaller MTU.
    row(
        Kernels::All,
        Class::Queue,
        Group::After,
        &["veth_xmit", "__dev_forward_skb", "__dev_forward_skb2"],
    ),
    // A reader finds the checksum wrong: the packet has no route, device or socket any more.
    Row {
        kernels: Kernels::All,
        class: Class::Malformed,
        group: Group::After,
        kind: PLACE_READER,
        functions: &[
            "udp_recvmsg",
            "udpv6_recvmsg",
            "__first_packet_length",
            "first_packet_length",
        ],
    },
    // Reassembly failed or timed out. The field for the device holds a tree node there.
    Row {
        kernels: Kernels::All,
        class: Class::Malformed,
        group: Group::Before,
        kind: PLACE_CERTAIN,
        functions: &["inet_frag_rbtree_purge", "ip_expire", "ip6_frag_expire"],
    },
    // A bridge has its own loop over the prerouting rules (`nf_hook_bridge_pre`), compiled into this
    // function, and frees there without a reason. A port that spanning tree blocks frees there as well.
    // Newer kernels give that a reason of its own (6.17 does, 6.12 not yet); on older ones nothing in the
    // packet tells one from the other, and a rule is the likelier one: neighbours send hardly anything
    // into a blocked port.
    row(
        Kernels::All,
        Class::Firewall,
        Group::Before,
        &["br_handle_frame"],
    ),
    // A port that is down or locked, or that has no such VLAN.
    row(
        Kernels::All,
        Class::Routing,
        Group::Before,
        &["br_handle_frame_finish"],
    ),
    // The frame's target is on the port where it came in, as in any network with a hub in it.
    row(
        Kernels::All,
        Class::Unspecified,
        Group::Ignored,
        &["br_forward", "br_flood"],
    ),
];

/// The places of this kernel, by address, at most [`MAX_PLACES`].
///
/// A function that this kernel does not have gives no row. Parts of a function that the compiler
/// split off belong to it, neighbours in memory with the same meaning share a row, and should there
/// be too many, the split-off cold parts go first, then what is least telling.
#[must_use]
pub fn places(symbols: &Kallsyms, reasons: &ReasonTable) -> Vec<Place> {
    let unwanted = if reasons.has_reasons() {
        Kernels::WithoutReasons
    } else {
        Kernels::WithReasons
    };
    let rows: Vec<&Row> = ROWS.iter().filter(|row| row.kernels != unwanted).collect();
    let functions: Vec<&str> = rows.iter().flat_map(|row| row.functions).copied().collect();
    let ranges = symbols.ranges(&functions);
    let mut found: Vec<Place> = [false, true]
        .into_iter()
        .flat_map(|cold| rows.iter().map(move |row| (cold, row)))
        .flat_map(|(cold, row)| {
            let ranges = &ranges;
            row.functions.iter().flat_map(move |function| {
                ranges
                    .iter()
                    .filter(move |range| range.cold == cold && range.name == *function)
                    .map(|range| place(row, range))
            })
        })
        .collect();
    // Far more than any kernel has; so the next step takes no time, whatever the list holds.
    found.truncate(16 * MAX_PLACES as usize);
    // Joining first can only make room: whatever is cut off afterwards is the last of the list.
    while joined(&found).len() > MAX_PLACES as usize {
        found.pop();
    }
    joined(&found)
}

fn place(row: &Row, range: &Range) -> Place {
    Place {
        start: range.start,
        end: range.end,
        group: row.group.code(),
        class: row.class.code(),
        kind: row.kind,
        pad: [0; 5],
    }
}

/// The same places by address, with neighbours of the same meaning made one.
fn joined(places: &[Place]) -> Vec<Place> {
    let mut places = places.to_vec();
    places.sort_unstable_by_key(|place| place.start);
    places.dedup_by(|next, place| {
        let same = (next.group, next.class, next.kind) == (place.group, place.class, place.kind);
        let adjacent = place.end == next.start || place.start == next.start;
        if same && adjacent {
            place.end = next.end;
        }
        same && adjacent
    });
    places
}

#[cfg(test)]
mod tests;
