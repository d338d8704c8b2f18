use super::*;

/// `enum skb_drop_reason` of Linux 6.18, without prefixes and without what is no reason.
const LINUX_6_18: &str = "
    SKB_CONSUMED NOT_SPECIFIED NO_SOCKET SOCKET_CLOSE SOCKET_FILTER SOCKET_RCVBUFF
    UNIX_DISCONNECT UNIX_SKIP_OOB PKT_TOO_SMALL TCP_CSUM UDP_CSUM NETFILTER_DROP
    OTHERHOST IP_CSUM IP_INHDR IP_RPFILTER UNICAST_IN_L2_MULTICAST XFRM_POLICY
    IP_NOPROTO PROTO_MEM TCP_AUTH_HDR TCP_MD5NOTFOUND TCP_MD5UNEXPECTED TCP_MD5FAILURE
    TCP_AONOTFOUND TCP_AOUNEXPECTED TCP_AOKEYNOTFOUND TCP_AOFAILURE SOCKET_BACKLOG
    TCP_FLAGS TCP_ABORT_ON_DATA TCP_ZEROWINDOW TCP_OLD_DATA TCP_OVERWINDOW
    TCP_OFOMERGE TCP_RFC7323_PAWS TCP_RFC7323_PAWS_ACK TCP_RFC7323_TW_PAWS
    TCP_RFC7323_TSECR TCP_LISTEN_OVERFLOW TCP_OLD_SEQUENCE TCP_INVALID_SEQUENCE
    TCP_INVALID_END_SEQUENCE TCP_INVALID_ACK_SEQUENCE TCP_RESET TCP_INVALID_SYN
    TCP_CLOSE TCP_FASTOPEN TCP_OLD_ACK TCP_TOO_OLD_ACK TCP_ACK_UNSENT_DATA
    TCP_OFO_QUEUE_PRUNE TCP_OFO_DROP IP_OUTNOROUTES BPF_CGROUP_EGRESS IPV6DISABLED
    NEIGH_CREATEFAIL NEIGH_FAILED NEIGH_QUEUEFULL NEIGH_DEAD NEIGH_HH_FILLFAIL
    TC_EGRESS SECURITY_HOOK QDISC_DROP QDISC_OVERLIMIT QDISC_CONGESTED CAKE_FLOOD
    FQ_BAND_LIMIT FQ_HORIZON_LIMIT FQ_FLOW_LIMIT CPU_BACKLOG XDP TC_INGRESS
    UNHANDLED_PROTO SKB_CSUM SKB_GSO_SEG SKB_UCOPY_FAULT DEV_HDR DEV_READY FULL_RING
    NOMEM HDR_TRUNC TAP_FILTER TAP_TXFILTER ICMP_CSUM INVALID_PROTO IP_INADDRERRORS
    IP_INNOROUTES IP_LOCAL_SOURCE IP_INVALID_SOURCE IP_LOCALNET IP_INVALID_DEST
    PKT_TOO_BIG DUP_FRAG FRAG_REASM_TIMEOUT FRAG_TOO_FAR TCP_MINTTL IPV6_BAD_EXTHDR
    IPV6_NDISC_FRAG IPV6_NDISC_HOP_LIMIT IPV6_NDISC_BAD_CODE IPV6_NDISC_BAD_OPTIONS
    IPV6_NDISC_NS_OTHERHOST QUEUE_PURGE TC_COOKIE_ERROR PACKET_SOCK_ERROR
    TC_CHAIN_NOTFOUND TC_RECLASSIFY_LOOP VXLAN_INVALID_HDR VXLAN_VNI_NOT_FOUND
    MAC_INVALID_SOURCE VXLAN_ENTRY_EXISTS NO_TX_TARGET IP_TUNNEL_ECN TUNNEL_TXINFO
    LOCAL_MAC ARP_PVLAN_DISABLE MAC_IEEE_MAC_CONTROL BRIDGE_INGRESS_STP_STATE
    CAN_RX_INVALID_FRAME CANFD_RX_INVALID_FRAME CANXL_RX_INVALID_FRAME PFMEMALLOC
    DUALPI2_STEP_DROP PSP_INPUT PSP_OUTPUT RECURSION_LIMIT
";

#[test]
fn every_reason_of_linux_6_18_has_a_row() {
    let names: Vec<&str> = LINUX_6_18.split_whitespace().collect();
    assert_eq!(names.len(), 127);
    let unknown: Vec<&&str> = names.iter().filter(|name| !is_known(name)).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}

#[test]
fn every_row_is_of_use() {
    let others = [
        "VXLAN_NO_REMOTE",
        "SKB_BAD_GSO",
        "IPV6_TOO_MANY_EXTHDRS",
        "MACVLAN_BROADCAST_BACKLOG",
        "IPVLAN_MULTICAST_BACKLOG",
    ];
    for pattern in ROWS.iter().flat_map(|row| row.names) {
        let used = LINUX_6_18.split_whitespace().chain(others).any(|name| {
            pattern
                .strip_suffix('*')
                .map_or(name == *pattern, |start| name.starts_with(start))
        });
        assert!(used, "{pattern}");
    }
    let mut names: Vec<&str> = ROWS.iter().flat_map(|row| row.names).copied().collect();
    let all = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), all, "a name stands in two rows");
}

#[test]
fn reasons_fall_into_the_class_and_group_of_their_meaning() {
    for (name, class, group) in [
        ("NETFILTER_DROP", Class::Firewall, Group::Before),
        ("SOCKET_FILTER", Class::Firewall, Group::Subtract),
        ("TC_EGRESS", Class::Firewall, Group::Subtract),
        ("NO_SOCKET", Class::NoListener, Group::Before),
        ("IP_RPFILTER", Class::RpFilter, Group::Before),
        ("PKT_TOO_BIG", Class::Routing, Group::ByPlace),
        ("NEIGH_FAILED", Class::Neighbour, Group::Before),
        ("TCP_MD5FAILURE", Class::Malformed, Group::Before),
        ("TCP_CSUM", Class::Malformed, Group::ByPlace),
        ("CPU_BACKLOG", Class::Overload, Group::Before),
        ("SOCKET_RCVBUFF", Class::Socket, Group::After),
        ("QDISC_OVERLIMIT", Class::Queue, Group::After),
        ("TCP_INVALID_SYN", Class::Protocol, Group::After),
        ("TCP_RFC7323_TW_PAWS", Class::Protocol, Group::Allowed),
        ("NOT_SPECIFIED", Class::Unspecified, Group::ByPlace),
        ("OTHERHOST", Class::Unspecified, Group::Ignored),
    ] {
        assert_eq!(classify(name), (class, group), "{name}");
    }
}

#[test]
fn a_row_with_the_whole_name_goes_before_one_with_its_beginning() {
    assert_eq!(
        classify("VXLAN_NO_REMOTE"),
        (Class::Neighbour, Group::ByPlace)
    );
    assert_eq!(
        classify("VXLAN_SOMETHING"),
        (Class::Malformed, Group::Before)
    );
}

#[test]
fn names_of_later_kernels_fall_under_a_rule() {
    for (name, class, group) in [
        ("TCP_SOMETHING_NEW", Class::Protocol, Group::After),
        ("TCP_NEW_CSUM", Class::Malformed, Group::ByPlace),
        ("NF_SOMETHING", Class::Firewall, Group::Before),
        ("BPF_CGROUP_INGRESS", Class::Firewall, Group::Subtract),
        ("NEIGH_NEW", Class::Neighbour, Group::Before),
        ("SCTP_NEW", Class::Unspecified, Group::Ignored),
        ("RECEIVE_REPROCESS_LOOP", Class::Unspecified, Group::ByPlace),
        ("", Class::Unspecified, Group::ByPlace),
    ] {
        assert!(!is_known(name), "{name}");
        assert_eq!(classify(name), (class, group), "{name}");
    }
}

#[test]
fn subsystems_are_classed_as_a_whole() {
    assert_eq!(
        classify_subsystem("OPENVSWITCH"),
        (Class::Firewall, Group::Before)
    );
    assert_eq!(
        classify_subsystem("MAC80211_UNUSABLE"),
        (Class::Unspecified, Group::Ignored)
    );
    assert_eq!(
        classify_subsystem("MAC80211_MONITOR"),
        (Class::Unspecified, Group::Ignored)
    );
    assert_eq!(classify_subsystem("QDISC"), (Class::Queue, Group::After));
    assert_eq!(
        classify_subsystem("LATER"),
        (Class::Unspecified, Group::ByPlace)
    );
}
