use super::*;
use crate::netlink::NLMSGHDR;

/// A message of the dump: `state`, then the attributes.
fn message(kind: u16, state: u16, attributes: &[(u16, &[u8])]) -> Vec<u8> {
    let mut payload = vec![0; 8];
    payload.extend(state.to_ne_bytes());
    payload.extend([0, 0]);
    for (kind, value) in attributes {
        payload.extend(u16::try_from(4 + value.len()).unwrap().to_ne_bytes());
        payload.extend(kind.to_ne_bytes());
        payload.extend(*value);
        payload.resize(payload.len().next_multiple_of(4), 0);
    }
    let mut message = Vec::new();
    message.extend(
        u32::try_from(NLMSGHDR + payload.len())
            .unwrap()
            .to_ne_bytes(),
    );
    message.extend(kind.to_ne_bytes());
    message.resize(NLMSGHDR, 0);
    message.extend(payload);
    message
}

/// `struct nda_cacheinfo` with these times.
fn cache(confirmed: u32, updated: u32) -> Vec<u8> {
    let fields = [confirmed, 0xeeee_eeee, updated, 0xeeee_eeee];
    fields.into_iter().flat_map(u32::to_ne_bytes).collect()
}

#[test]
fn hosts_that_answered_and_those_that_did_not_are_told() {
    let v6 = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 9);
    let mut datagram = Vec::new();
    let states = [
        (0x02_u16, 1_u8),
        (0x04, 2),
        (0x01, 3),
        (0x20, 4),
        (0x80, 5),
        (0x40, 6),
        (0x10, 7),
    ];
    for (state, last) in states {
        let attributes: [(u16, &[u8]); 2] = [
            (NDA_DST, &[10, 0, 0, last]),
            (NDA_CACHEINFO, &cache(250, 100)),
        ];
        datagram.extend(message(RTM_NEWNEIGH, state, &attributes));
    }
    datagram.extend(message(
        RTM_NEWNEIGH,
        0x08,
        &[(NDA_CACHEINFO, &cache(0, 9)), (NDA_DST, &v6.octets())],
    ));
    let mut found = Vec::new();
    assert!(!take(&datagram, &mut found).unwrap());
    let of = |address: IpAddr, answered, millis| Neighbour {
        address,
        answered,
        ago: Duration::from_millis(millis),
    };
    assert_eq!(
        found,
        [
            of(Ipv4Addr::new(10, 0, 0, 1).into(), true, 2500),
            of(Ipv4Addr::new(10, 0, 0, 2).into(), true, 2500),
            of(Ipv4Addr::new(10, 0, 0, 4).into(), false, 1000),
            of(v6.into(), true, 0),
        ]
    );
    assert!(take(&message(NLMSG_DONE, 0, &[]), &mut found).unwrap());
}

#[test]
fn what_is_cut_off_is_left_out() {
    let attributes: [(u16, &[u8]); 2] = [(NDA_DST, &[10, 0, 0, 1]), (NDA_CACHEINFO, &cache(1, 1))];
    let whole = message(RTM_NEWNEIGH, 0x02, &attributes);
    for length in 0..whole.len() {
        let mut found = Vec::new();
        take(&whole[..length], &mut found).unwrap();
        assert!(found.is_empty(), "{length} bytes");
    }
}

#[test]
fn a_refusal_is_an_error() {
    let mut refusal = message(NLMSG_ERROR, 0, &[]);
    refusal[NLMSGHDR..NLMSGHDR + 4].copy_from_slice(&(-libc::EPERM).to_ne_bytes());
    let error = take(&refusal, &mut Vec::new()).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EPERM));
    refusal[NLMSGHDR..NLMSGHDR + 4].copy_from_slice(&i32::MIN.to_ne_bytes());
    assert!(
        take(&refusal, &mut Vec::new()).is_err(),
        "no number to negate"
    );
}

#[test]
fn this_kernel_answers() {
    read().unwrap();
}
