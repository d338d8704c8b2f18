//! What the kernel says of itself: its types, its symbols, files of /proc. `--btf` takes any file.

use monitor::btf::Btf;
use monitor::drop::{ReasonTable, places};
use monitor::fuzz;
use monitor_common::drop::MAX_PLACES;

/// Paths of the kinds that the daemon asks for: plain members, nested ones, bit-fields.
const PATHS: [&str; 6] = [
    "sk_buff.len",
    "sk_buff.pkt_type",
    "sk_buff.dev",
    "net_device.nd_net.net.ns.inum",
    "skb_shared_info.gso_size",
    "a.b",
];

/// BTF, of either byte order.
///
/// # Panics
///
/// Where an answer is not one that the file can give.
pub fn btf(data: &[u8]) {
    let Ok(btf) = Btf::parse(data.to_vec()) else {
        return;
    };
    for path in PATHS {
        if let Ok(field) = btf.field(path) {
            assert!(field.bit_size <= 64 && field.bit_offset < 64, "{field:?}");
            if field.bit_size != 0 {
                assert!([1, 2, 4, 8].contains(&field.size), "{field:?}");
                assert!(field.offset.is_multiple_of(field.size), "{field:?}");
                assert!(
                    field.bit_offset + field.bit_size <= field.size * 8,
                    "{field:?}"
                );
            }
        }
        let name = path.split('.').next().unwrap_or_default();
        if btf.size_of_struct(name).is_err() {
            assert!(btf.size_of_struct(name).is_err(), "as before");
        }
    }
    if let Ok(values) = btf.enum_values("skb_drop_reason") {
        // Each value takes eight bytes of the file, and has a name of it.
        assert!(!values.is_empty() && values.len() * 8 <= data.len());
    }
    if let Ok(arguments) = btf.tracepoint_arguments("kfree_skb") {
        assert!(btf.tracepoint_id("kfree_skb").is_ok());
        assert!(arguments.len() * 8 <= data.len());
        assert!(arguments.iter().all(|argument| !argument.is_empty()));
    }
    if let Ok(table) = ReasonTable::from_btf(&btf) {
        assert!(!table.has_reasons() || btf.enum_values("skb_drop_reason").is_ok());
    }
}

/// `/proc/kallsyms`, and the places of drops that are looked up in it.
///
/// # Panics
///
/// Where a range is none, or places overlap that must not.
pub fn kallsyms(data: &[u8]) {
    let Ok(symbols) = fuzz::kallsyms(data) else {
        return;
    };
    let ranges = symbols.ranges(&["tcp_v4_rcv", "nf_hook_slow", "ip_forward"]);
    for range in &ranges {
        assert!(
            range.start < range.end || range.start == u64::MAX,
            "{range:?}"
        );
    }
    assert!(ranges.is_sorted_by_key(|range| range.start));
    // A line has an address, a type and a name.
    assert!(ranges.len() * "0 t ip_forward".len() <= data.len() + 1);
    let places = places(&symbols, &ReasonTable::unavailable());
    assert!(places.len() <= MAX_PLACES as usize);
    assert!(places.is_sorted_by_key(|place| place.start));
}

/// Texts of /proc: the connection table's numbers, mounts, modules, a program's and the process's own state.
///
/// # Panics
///
/// Where something is told that the text does not hold.
pub fn proc_files(data: &[u8]) {
    for (point, options) in fuzz::cgroup_mounts(data) {
        assert!(point.as_os_str().len() <= data.len());
        for option in options {
            let option = option.as_bytes();
            assert!(!option.is_empty() && !option.contains(&b','), "{option:?}");
        }
    }
    let text = String::from_utf8_lossy(data);
    if let Some((drops, early)) = fuzz::conntrack(&text) {
        // 32 bits for each CPU, which has a line.
        let most = u64::from(u32::MAX) * text.lines().count() as u64;
        assert!(drops <= most && early <= most);
    }
    for (name, address) in fuzz::modules(&text) {
        assert!(text.contains(&name) && text.contains(&address));
        assert!(!name.is_empty() && !address.contains(char::is_whitespace));
    }
    if let Some(misses) = fuzz::recursion_misses(&text) {
        assert!(text.contains(&misses.to_string()) || text.contains('+') || text.contains(":\t0"));
    }
    let shown = format!("CapEff:\t{:016x}\n", fuzz::effective_capabilities(&text));
    let again = fuzz::effective_capabilities(&shown);
    assert_eq!(again, fuzz::effective_capabilities(&text));
}
