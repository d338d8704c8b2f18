use super::*;
use crate::netlink::NLMSGHDR;

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(u16::try_from(4 + value.len()).unwrap().to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn message(kind: u16, flags: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(
        u32::try_from(NLMSGHDR + payload.len())
            .unwrap()
            .to_ne_bytes(),
    );
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(7_u32.to_ne_bytes());
    bytes.extend(9_u32.to_ne_bytes());
    bytes.extend(payload);
    bytes
}

fn ifinfo(family: i32, arphrd: u16, index: u32, attributes: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = vec![u8::try_from(family).unwrap(), 0];
    bytes.extend(arphrd.to_ne_bytes());
    bytes.extend(index.to_ne_bytes());
    bytes.resize(IFINFOMSG, 0);
    bytes.extend(attributes.concat());
    bytes
}

fn ifaddr(family: i32, prefix: u8, index: u32, attributes: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = vec![u8::try_from(family).unwrap(), prefix, 0, 0];
    bytes.extend(index.to_ne_bytes());
    bytes.extend(attributes.concat());
    bytes
}

fn port_of_a_bridge() -> Vec<u8> {
    let info = [
        attribute(IFLA_INFO_KIND, b"vlan\0"),
        attribute(IFLA_INFO_SLAVE_KIND, b"bridge\0"),
    ];
    ifinfo(
        libc::AF_UNSPEC,
        libc::ARPHRD_ETHER,
        5,
        &[
            attribute(IFLA_IFNAME, b"eth0.7\0"),
            attribute(IFLA_MASTER, &3_u32.to_ne_bytes()),
            attribute(IFLA_LINK, &2_u32.to_ne_bytes()),
            attribute(IFLA_LINKINFO | 0x8000, &info.concat()),
            attribute(999, b"from a newer kernel"),
        ],
    )
}

fn bodies(datagram: &[u8]) -> Vec<Body> {
    decode(datagram)
        .into_iter()
        .map(|frame| frame.body)
        .collect()
}

#[test]
fn a_link_has_name_master_lower_and_kinds() {
    let frames = decode(&message(RTM_NEWLINK, NLM_F_DUMP_INTR, &port_of_a_bridge()));
    let expected = Interface {
        index: 5,
        name: "eth0.7".into(),
        kind: LinkType::Ethernet,
        master: Some(3),
        slave_kind: Some("bridge".into()),
        info_kind: Some("vlan".into()),
        lower: Some(2),
        writes_tag: false,
    };
    let body = Body::Message(Message::NewLink(expected));
    assert_eq!(
        frames,
        [Frame {
            sequence: 7,
            port: 9,
            interrupted: true,
            body
        }]
    );
}

#[test]
fn a_lower_interface_of_another_namespace_is_none_of_ours() {
    let mut payload = port_of_a_bridge();
    payload.extend(attribute(IFLA_LINK_NETNSID, &0_u32.to_ne_bytes()));
    let bodies = bodies(&message(RTM_NEWLINK, 0, &payload));
    let [Body::Message(Message::NewLink(interface))] = &bodies[..] else {
        panic!("{bodies:?}")
    };
    assert_eq!(interface.lower, None);
}

#[test]
fn a_vlan_that_does_not_reorder_headers_writes_its_tag() {
    let writes_tag = |kind: &[u8], flags: u32| {
        let mut data = vec![attribute(1, &20_u16.to_ne_bytes())];
        // As the kernel does: none are not told. With the mask of those that are meant: all.
        if flags != 0 {
            let flags = [flags.to_ne_bytes(), u32::MAX.to_ne_bytes()].concat();
            data.push(attribute(IFLA_VLAN_FLAGS, &flags));
        }
        let info = [
            attribute(IFLA_INFO_KIND, kind),
            attribute(IFLA_INFO_DATA | 0x8000, &data.concat()),
        ];
        let payload = ifinfo(
            libc::AF_UNSPEC,
            libc::ARPHRD_ETHER,
            5,
            &[
                attribute(IFLA_IFNAME, b"eth0.7\0"),
                attribute(IFLA_LINKINFO | 0x8000, &info.concat()),
            ],
        );
        let bodies = bodies(&message(RTM_NEWLINK, 0, &payload));
        let [Body::Message(Message::NewLink(interface))] = &bodies[..] else {
            panic!("{bodies:?}")
        };
        interface.writes_tag
    };
    assert!(writes_tag(b"vlan\0", 0));
    // Another flag, such as GVRP, says nothing of it.
    assert!(writes_tag(b"vlan\0", 0x2));
    assert!(!writes_tag(b"vlan\0", VLAN_FLAG_REORDER_HDR));
    assert!(!writes_tag(b"macvlan\0", 0));
}

#[test]
fn what_a_bridge_tells_of_its_ports_is_no_link() {
    let of_bridge = ifinfo(libc::AF_BRIDGE, 1, 5, &[attribute(IFLA_IFNAME, b"eth0\0")]);
    for kind in [RTM_NEWLINK, RTM_DELLINK] {
        assert_eq!(bodies(&message(kind, 0, &of_bridge)), [Body::Other]);
    }
    let of_link = ifinfo(libc::AF_UNSPEC, 1, 5, &[]);
    assert_eq!(
        bodies(&message(RTM_DELLINK, 0, &of_link)),
        [Body::Message(Message::DelLink(5))]
    );
    assert_eq!(
        bodies(&message(RTM_NEWLINK, 0, &of_link)),
        [Body::Other],
        "no name"
    );
}

#[test]
fn addresses_have_a_local_end_and_a_peer() {
    let v4 = ifaddr(
        libc::AF_INET,
        24,
        2,
        &[
            attribute(IFA_ADDRESS, &[10, 0, 0, 2]),
            attribute(IFA_LOCAL, &[10, 0, 0, 1]),
            attribute(IFA_BROADCAST, &[10, 0, 0, 255]),
        ],
    );
    let loopback = Ipv6Addr::LOCALHOST;
    let v6 = ifaddr(
        libc::AF_INET6,
        128,
        1,
        &[attribute(IFA_ADDRESS, &loopback.octets())],
    );
    let broken = ifaddr(libc::AF_INET, 24, 2, &[attribute(IFA_LOCAL, &[10, 0, 0])]);
    let datagram = [
        message(RTM_NEWADDR, 0, &v4),
        message(RTM_DELADDR, 0, &v6),
        message(RTM_NEWADDR, 0, &broken),
    ];
    let address = |index, local: IpAddr, peer: IpAddr, prefix| Address {
        index,
        local,
        peer,
        prefix,
    };
    let ip = |last| IpAddr::from([10, 0, 0, last]);
    assert_eq!(
        bodies(&datagram.concat()),
        [
            Body::Message(Message::NewAddress(
                address(2, ip(1), ip(2), 24),
                Some(ip(255))
            )),
            Body::Message(Message::DelAddress(address(
                1,
                loopback.into(),
                loopback.into(),
                128
            ))),
            Body::Other,
        ]
    );
}

#[test]
fn ends_and_errors_of_dumps_are_told_apart() {
    let code = |number: i32| number.to_ne_bytes();
    for (kind, payload, body) in [
        (NLMSG_DONE, code(0), Body::Done),
        (NLMSG_DONE, code(-libc::EINTR), Body::Failed(libc::EINTR)),
        (NLMSG_ERROR, code(-libc::EBUSY), Body::Failed(libc::EBUSY)),
        (NLMSG_ERROR, code(i32::MIN), Body::Failed(i32::MAX)),
        (4711, code(0), Body::Other),
    ] {
        assert_eq!(bodies(&message(kind, 0, &payload)), [body]);
    }
    assert_eq!(bodies(&message(NLMSG_DONE, 0, &[])), [Body::Done]);
}

#[test]
fn odd_bytes_never_panic() {
    let good = [
        message(RTM_NEWLINK, 0, &port_of_a_bridge()),
        message(
            RTM_DELADDR,
            0,
            &ifaddr(2, 24, 2, &[attribute(IFA_LOCAL, &[10, 0, 0, 1])]),
        ),
    ]
    .concat();
    assert_eq!(decode(&good).len(), 2);
    for end in 0..good.len() {
        assert!(decode(&good[..end]).len() < 2, "{end}");
    }
    let mut decoded = 0;
    for position in 0..good.len() {
        for value in [0, 1, 3, 4, 15, 16, 17, 0x7f, 0x80, 0xff] {
            let mut bytes = good.clone();
            bytes[position] = value;
            decoded += decode(&bytes).len();
        }
    }
    assert!(
        decoded > good.len() * 10,
        "most still hold both messages: {decoded}"
    );
}

#[test]
fn requests_have_the_length_that_they_say() {
    for (kind, length) in [(RTM_GETLINK, 32), (RTM_GETADDR, 24)] {
        let request = dump_request(kind, 3);
        assert_eq!(request.len(), length);
        assert_eq!(u32_at(&request, 0), u32::try_from(length).ok());
        assert_eq!(
            (u16_at(&request, 4), u32_at(&request, 8)),
            (Some(kind), Some(3))
        );
    }
}
