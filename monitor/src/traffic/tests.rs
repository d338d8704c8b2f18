use super::*;

fn port(text: &str) -> Port {
    text.parse().unwrap()
}

fn traffics(list: &[(&str, &[&str])]) -> Result<Traffics, TrafficError> {
    let ports = |ports: &[&str]| ports.iter().map(|text| port(text)).collect();
    Traffics::new(
        list.iter()
            .map(|(name, list)| ((*name).to_owned(), ports(list)))
            .collect(),
    )
}

fn index(traffics: &Traffics, name: &str) -> Option<u8> {
    traffics
        .iter()
        .find(|traffic| traffic.name == name)
        .map(|traffic| traffic.index)
}

#[test]
fn ports_are_written_as_protocol_and_number() {
    assert_eq!(
        port("tcp/7680"),
        Port {
            protocol: Protocol::Tcp,
            number: 7680
        }
    );
    assert_eq!(port("udp/65535").to_string(), "udp/65535");
    for (text, sentence) in [
        (
            "7680",
            "\"7680\" names no protocol; write a port like \"tcp/7680\"",
        ),
        (
            "sctp/1",
            "\"sctp/1\" is neither tcp nor udp; write a port like \"tcp/7680\"",
        ),
        (
            "tcp/0",
            "\"tcp/0\" has no port from 1 to 65535; write a port like \"tcp/7680\"",
        ),
        (
            "tcp/65536",
            "\"tcp/65536\" has no port from 1 to 65535; write a port like \"tcp/7680\"",
        ),
        (
            "tcp/",
            "\"tcp/\" has no port from 1 to 65535; write a port like \"tcp/7680\"",
        ),
        (
            "tcp/+80",
            "\"tcp/+80\" has no port from 1 to 65535; write a port like \"tcp/7680\"",
        ),
    ] {
        assert_eq!(text.parse::<Port>().unwrap_err().to_string(), sentence);
    }
}

#[test]
fn port_table_is_indexed_in_network_byte_order() {
    let table = Traffics::new(builtin()).unwrap().port_table();
    assert_eq!(table.tcp[usize::from(7680_u16.to_be())], 1);
    assert_eq!(table.udp[usize::from(3544_u16.to_be())], 2);
    assert_eq!(table.tcp[usize::from(443_u16.to_be())], 3);
    assert_eq!(table.udp[usize::from(443_u16.to_be())], 3);
    let watched = table
        .tcp
        .iter()
        .chain(&table.udp)
        .filter(|value| **value != UNWATCHED);
    assert_eq!(watched.count(), 4);
}

#[test]
fn a_traffic_knows_its_protocols() {
    let list = Traffics::new(builtin()).unwrap();
    let protocols: Vec<Vec<_>> = list.iter().map(|t| t.protocols().collect()).collect();
    let (tcp, udp) = (Protocol::Tcp, Protocol::Udp);
    assert_eq!(protocols, [vec![tcp], vec![udp], vec![tcp, udp]]);
    assert_eq!(list.get(1).map(|t| t.name.as_str()), Some("teredo"));
    assert_eq!(list.get(3), None);
    assert_eq!((list.len(), list.port_count()), (3, 4));
}

#[test]
fn names_are_label_values() {
    for good in ["a", "cache_http", "a2", &"a".repeat(32)] {
        assert!(traffics(&[(good, &["tcp/1"])]).is_ok(), "{good}");
    }
    for bad in ["", "A", "2a", "_a", "a-b", "é", &"a".repeat(33)] {
        let error = traffics(&[(bad, &["tcp/1"])]).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "\"{bad}\" is no name for a traffic; use a lower-case letter, then up to 31 \
                 lower-case letters, digits or _"
            )
        );
    }
}

#[test]
fn a_port_belongs_to_one_traffic() {
    let error = traffics(&[("a", &["tcp/1"]), ("b", &["udp/1", "tcp/1"])]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "tcp/1 is in traffic \"a\" already; take it out of one of the two places"
    );
    assert_eq!(
        error.places(),
        [
            At {
                traffic: 1,
                port: Some(1)
            },
            At {
                traffic: 0,
                port: Some(0)
            }
        ]
    );
    let error = traffics(&[("a", &["tcp/1", "tcp/1"])]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "tcp/1 is in traffic \"a\" already; take it out of one of the two places"
    );
}

#[test]
fn the_limits_are_16_traffics_and_64_ports() {
    let list = |n: u16, ports: u16| -> Vec<(String, Vec<Port>)> {
        let number = |t, p| Port {
            protocol: Protocol::Tcp,
            number: t * 100 + p + 1,
        };
        (0..n)
            .map(|t| (format!("t{t}"), (0..ports).map(|p| number(t, p)).collect()))
            .collect()
    };
    assert_eq!(Traffics::new(list(16, 4)).unwrap().port_count(), 64);
    assert_eq!(
        Traffics::new(list(17, 1)).unwrap_err().to_string(),
        "17 traffics are more than the 16 that can be watched; merge some"
    );
    let error = Traffics::new(list(13, 5)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "65 ports are more than the 64 that can be watched; leave some out"
    );
    assert_eq!(
        error.places()[0],
        At {
            traffic: 12,
            port: Some(4)
        }
    );
}

#[test]
fn a_reload_keeps_the_index_of_a_name() {
    let first = traffics(&[("a", &["tcp/1"]), ("b", &["tcp/2"]), ("c", &["tcp/3"])]).unwrap();
    let new = traffics(&[("d", &["tcp/4"]), ("c", &["tcp/33"]), ("a", &["tcp/1"])]).unwrap();
    let second = first.merge_reload(new).unwrap();
    assert_eq!(
        second.iter().map(|t| t.index).collect::<Vec<_>>(),
        [0, 2, 3]
    );
    assert_eq!(index(&second, "a"), Some(0));
    assert_eq!(index(&second, "c"), Some(2));
    assert_eq!(
        index(&second, "d"),
        Some(3),
        "not the index of b, whose counters remain"
    );
    let table = second.port_table();
    assert_eq!(table.tcp[usize::from(33_u16.to_be())], 3);
    assert_eq!(table.tcp[usize::from(3_u16.to_be())], UNWATCHED);

    let back = traffics(&[("e", &["tcp/5"]), ("b", &["tcp/2"])]).unwrap();
    let third = second.merge_reload(back).unwrap();
    assert_eq!(
        index(&third, "b"),
        Some(1),
        "a name that comes back has its old counters"
    );
    assert_eq!(index(&third, "e"), Some(4));
}

#[test]
fn a_reload_never_gives_an_index_to_a_second_name() {
    let one = |n: u8| traffics(&[(&format!("t{n}"), &["tcp/1"])]).unwrap();
    let mut now = one(0);
    for n in 1..MAX_TRAFFICS {
        now = now.merge_reload(one(n)).unwrap();
        assert_eq!(index(&now, &format!("t{n}")), Some(n));
    }
    let error = now.merge_reload(one(MAX_TRAFFICS)).unwrap_err();
    let removed: Vec<_> = (0..MAX_TRAFFICS).map(|n| format!("t{n}")).collect();
    let TrafficError::NoFreeIndex {
        removed: mut found, ..
    } = error.clone()
    else {
        panic!("{error}")
    };
    found.sort();
    let mut sorted = removed;
    sorted.sort();
    assert_eq!(found, sorted);
    assert!(error.to_string().starts_with(
        "traffic \"t16\" can't be added, because the counters of removed traffics (t"
    ));
    assert!(error.to_string().ends_with(
        ") are kept; restart peerwatch after `peerwatch uninstall`, or with --ephemeral"
    ));
    assert_eq!(index(&now.merge_reload(one(3)).unwrap(), "t3"), Some(3));
}
