use std::fmt::Write as _;

use super::*;
use crate::btf::{Btf, VMLINUX};
use crate::kallsyms::KALLSYMS;

fn running_kernel() -> (Kallsyms, ReasonTable) {
    let symbols = Kallsyms::read(KALLSYMS).expect("root, and kernel.kptr_restrict below 2");
    let reasons = ReasonTable::from_btf(&Btf::read(VMLINUX).unwrap()).unwrap();
    (symbols, reasons)
}

/// A table of a kernel that gives no reasons.
fn no_reasons() -> ReasonTable {
    // A header without types and strings is the least that BTF can be.
    let mut empty = vec![0x9f, 0xeb, 1, 0, 24];
    empty.resize(24, 0);
    ReasonTable::from_btf(&Btf::parse(empty).unwrap()).unwrap()
}

fn at<'a>(places: &'a [Place], symbols: &Kallsyms, function: &str) -> &'a Place {
    let ranges = symbols.ranges(&[function]);
    let address = ranges
        .iter()
        .find(|range| !range.cold)
        .expect(function)
        .start;
    places
        .iter()
        .find(|place| (place.start..place.end).contains(&address))
        .unwrap_or_else(|| panic!("{function} has no place"))
}

fn meaning(place: &Place) -> (Class, Group, u8) {
    let class = Class::from_code(place.class).unwrap();
    (class, Group::from_code(place.group).unwrap(), place.kind)
}

#[test]
fn functions_of_the_running_kernel_mean_what_the_table_says() {
    let (symbols, reasons) = running_kernel();
    let places = places(&symbols, &reasons);
    for (function, class, group, kind) in [
        ("dst_discard_out", Class::Routing, Group::Before, 0),
        ("ip_error", Class::Routing, Group::Before, 0),
        ("neigh_invalidate", Class::Neighbour, Group::Before, 0),
        ("packet_rcv", Class::Unspecified, Group::Ignored, 0),
        ("inet_sock_destruct", Class::Socket, Group::After, 0),
    ] {
        assert_eq!(
            meaning(at(&places, &symbols, function)),
            (class, group, kind),
            "{function}"
        );
    }
    assert_eq!(at(&places, &symbols, "tcp_v4_rcv").kind, PLACE_TCP_RECEIVE);
    assert_eq!(at(&places, &symbols, "tcp_v6_rcv").kind, PLACE_TCP_RECEIVE);
}

#[test]
fn a_kernel_without_reasons_has_its_firewall_among_the_places() {
    let (symbols, reasons) = running_kernel();
    let old = places(&symbols, &no_reasons());
    let firewall = (Class::Firewall, Group::Before, 0);
    assert_eq!(meaning(at(&old, &symbols, "nf_hook_slow")), firewall);
    let closed_port = (Class::NoListener, Group::Before, PLACE_TCP_RECEIVE);
    assert_eq!(meaning(at(&old, &symbols, "tcp_v4_rcv")), closed_port);
    if reasons.has_reasons() {
        let time_wait = (Class::Protocol, Group::Before, PLACE_TCP_RECEIVE);
        let new = places(&symbols, &reasons);
        assert_eq!(meaning(at(&new, &symbols, "tcp_v4_rcv")), time_wait);
        let start = symbols.ranges(&["nf_hook_slow"])[0].start;
        assert!(
            !new.iter()
                .any(|place| (place.start..place.end).contains(&start))
        );
    }
}

#[test]
fn places_of_the_running_kernel_fit_and_do_not_overlap() {
    let (symbols, reasons) = running_kernel();
    for reasons in [reasons, no_reasons()] {
        let places = places(&symbols, &reasons);
        assert!(places.len() <= MAX_PLACES as usize, "{}", places.len());
        assert!(places.len() > 30, "only {}", places.len());
        assert!(places.iter().all(|place| place.start < place.end));
        for pair in places.windows(2) {
            assert!(pair[0].end <= pair[1].start, "{pair:x?}");
        }
    }
}

#[test]
fn all_functions_of_the_running_kernel_find_room() {
    let (symbols, reasons) = running_kernel();
    let unwanted = if reasons.has_reasons() {
        Kernels::WithoutReasons
    } else {
        Kernels::WithReasons
    };
    let rows: Vec<&Row> = ROWS.iter().filter(|row| row.kernels != unwanted).collect();
    let functions: Vec<&str> = rows.iter().flat_map(|row| row.functions).copied().collect();
    let places = places(&symbols, &reasons);
    for range in symbols.ranges(&functions) {
        let row = rows
            .iter()
            .find(|row| row.functions.contains(&range.name.as_str()))
            .unwrap();
        let place = places
            .iter()
            .find(|place| place.start <= range.start && range.end <= place.end);
        assert_eq!(
            place.map(meaning),
            Some((row.class, row.group, row.kind)),
            "{range:x?}"
        );
    }
}

#[test]
fn no_function_has_two_meanings_on_one_kernel() {
    for unwanted in [Kernels::WithoutReasons, Kernels::WithReasons] {
        let rows = ROWS.iter().filter(|row| row.kernels != unwanted);
        let mut functions: Vec<&str> = rows.flat_map(|row| row.functions).copied().collect();
        let all = functions.len();
        functions.sort_unstable();
        functions.dedup();
        assert_eq!(functions.len(), all);
    }
}

#[test]
fn the_kernel_program_can_tell_what_each_place_means() {
    for row in ROWS {
        let allowed = matches!(
            row.group,
            Group::Before | Group::After | Group::Subtract | Group::Ignored
        );
        assert!(allowed, "{:?}", row.functions);
    }
}

#[test]
fn neighbours_with_the_same_meaning_share_a_row() {
    let place = |start, end, class: Class| Place {
        start,
        end,
        class: class.code(),
        ..Place::default()
    };
    let routing = |start, end| place(start, end, Class::Routing);
    let joined = joined(&[
        routing(30, 40),
        routing(10, 20),
        routing(20, 30),
        place(40, 50, Class::Queue),
        routing(50, 60),
        routing(70, 80),
    ]);
    let expected = [
        routing(10, 40),
        place(40, 50, Class::Queue),
        routing(50, 60),
        routing(70, 80),
    ];
    assert_eq!(joined, expected);
}

#[test]
fn a_list_with_far_too_many_functions_takes_no_time() {
    let mut text = String::new();
    for n in 0..50_000 {
        writeln!(text, "{:x} t ip_forward\n{:x} t x", 2 * n + 1, 2 * n + 2).unwrap();
    }
    let symbols = Kallsyms::from_bytes(text.as_bytes()).unwrap();
    let begin = std::time::Instant::now();
    let found = places(&symbols, &no_reasons());
    assert!(begin.elapsed().as_secs() < 20, "{:?}", begin.elapsed());
    assert_eq!(found.len(), MAX_PLACES as usize);
}
