mod sample;

use super::*;
use sample::{Builder, sample};

fn plain(offset: u32, size: u32) -> Field {
    Field {
        offset,
        size,
        bit_offset: 0,
        bit_size: 0,
    }
}

#[test]
fn fields_are_found_through_anonymous_members_names_and_qualifiers() {
    for big_endian in [false, true] {
        let btf = Btf::parse(sample(big_endian)).unwrap();
        assert_eq!(btf.field("sk_buff.len").unwrap(), plain(0, 4));
        assert_eq!(btf.field("sk_buff.data").unwrap(), plain(8, 8));
        assert_eq!(btf.field("sk_buff.raw").unwrap(), plain(16, 1));
        assert_eq!(btf.field("sk_buff.nd_net.net").unwrap(), plain(24, 8));
        assert_eq!(btf.field("sk_buff.cb").unwrap(), plain(32, 20));
        assert_eq!(btf.size_of_struct("sk_buff").unwrap(), 64);
    }
}

#[test]
fn bit_fields_say_what_to_load_and_how_far_to_shift_on_that_machine() {
    let little = Btf::parse(sample(false)).unwrap();
    let big = Btf::parse(sample(true)).unwrap();
    for (path, offset, size, (from_low, from_high), bit_size) in [
        ("sk_buff.low", 16, 1, (0, 5), 3),
        ("sk_buff.high", 16, 1, (5, 0), 3),
        ("wide.b", 0, 2, (4, 5), 7),
        ("sk_buff.old_style", 52, 2, (4, 6), 6),
    ] {
        for (btf, bit_offset) in [(&little, from_low), (&big, from_high)] {
            let expected = Field {
                offset,
                size,
                bit_offset,
                bit_size,
            };
            assert_eq!(btf.field(path).unwrap(), expected, "{path}");
        }
    }
}

#[test]
fn what_is_missing_is_named() {
    let btf = Btf::parse(sample(false)).unwrap();
    let message = |path: &str| btf.field(path).unwrap_err().to_string();
    assert_eq!(
        message("sk_buff.lne"),
        "this kernel's BTF has no `lne` in `sk_buff.lne`"
    );
    assert_eq!(
        message("sk_buff.nd_net.nte"),
        "this kernel's BTF has no `nte` in `sk_buff.nd_net.nte`"
    );
    assert_eq!(
        message("sock.len"),
        "this kernel's BTF has no struct `sock`"
    );
    assert!(message("sk_buff.data.inum").contains("`data` is no struct"));
    assert!(message("sk_buff.low.x").contains("`low` is no struct"));
    assert!(message("sk_buff").contains("`sk_buff` is no struct"));
    assert!(matches!(
        btf.field("same.twin"),
        Err(BtfError::Ambiguous { .. })
    ));
    assert!(matches!(btf.field(""), Err(BtfError::NotAStruct { .. })));
    assert!(matches!(
        btf.size_of_struct("sock"),
        Err(BtfError::MissingType { .. })
    ));
}

#[test]
fn enums_of_both_widths_and_signs_are_read() {
    for big_endian in [false, true] {
        let btf = Btf::parse(sample(big_endian)).unwrap();
        let values = |name| btf.enum_values(name).unwrap();
        assert_eq!(
            values("declared"),
            [("ONE".into(), 1), ("MANY".into(), 0xffff_0000)]
        );
        assert_eq!(values("signed"), [("ONE".into(), -2)]);
        assert_eq!(values("wide_values"), [("MANY".into(), 0x1_0000_0005)]);
        assert!(matches!(
            btf.enum_values("none"),
            Err(BtfError::MissingType { .. })
        ));
    }
}

#[test]
fn a_tracepoint_shows_its_arguments_without_the_private_one() {
    let btf = Btf::parse(sample(false)).unwrap();
    assert_eq!(
        btf.tracepoint_arguments("kfree_skb").unwrap(),
        ["const struct sk_buff *", "void *", "enum skb_drop_reason"]
    );
    let error = btf
        .tracepoint_arguments("consume_skb")
        .unwrap_err()
        .to_string();
    assert_eq!(error, "this kernel's BTF has no tracepoint `consume_skb`");
}

#[test]
fn cycles_of_types_are_errors() {
    let mut b = Builder::new(false);
    b.add("a", 8, false, 0, 2, &[]);
    b.add("b", 8, false, 0, 1, &[]);
    b.add("", 3, false, 0, 0, &[3, 3, 1]);
    b.add("", 2, false, 0, 4, &[]);
    b.composite(
        4,
        "looped",
        false,
        &[("typedefs", 1, 0), ("array", 3, 0), ("", 5, 0)],
    );
    let prototype = b.add("", 13, false, 2, 0, &[0, 0, 0, 4]);
    let pointer = b.add("", 2, false, 0, prototype, &[]);
    b.add("btf_trace_looped", 8, false, 0, pointer, &[]);
    let btf = Btf::parse(b.finish()).unwrap();
    for path in ["looped.typedefs", "looped.array"] {
        assert!(
            matches!(btf.field(path), Err(BtfError::Malformed { .. })),
            "{path}"
        );
    }
    assert!(matches!(
        btf.field("looped.none"),
        Err(BtfError::MissingField { .. })
    ));
    assert!(matches!(
        btf.tracepoint_arguments("looped"),
        Err(BtfError::Malformed { .. })
    ));
}

#[test]
fn other_files_are_refused() {
    for (file, what) in [
        (Vec::new(), "shorter than its header"),
        (vec![0; 64], "no BTF magic number"),
        (
            b"\x9f\xeb\x02\0\x18\0\0\0aaaaaaaaaaaaaaaaaaaa".to_vec(),
            "version",
        ),
    ] {
        let error = Btf::parse(file).unwrap_err().to_string();
        assert!(error.contains(what), "{error}");
    }
    let mut b = Builder::new(false);
    b.add("future", 31, false, 0, 0, &[]);
    assert!(matches!(
        Btf::parse(b.finish()),
        Err(BtfError::UnknownKind { id: 1, kind: 31 })
    ));
}

/// Asks every kind of question; the answers do not matter, only that they come.
fn interrogate(btf: &Btf) -> usize {
    let mut answers = 0;
    for path in [
        "sk_buff.len",
        "sk_buff.nd_net.net",
        "sk_buff.high",
        "sk_buff.cb",
        "wide.b",
        "same.none",
    ] {
        answers += usize::from(btf.field(path).is_ok());
    }
    for name in ["declared", "signed", "wide_values", "skb_drop_reason"] {
        answers += usize::from(btf.enum_values(name).is_ok());
    }
    answers += usize::from(btf.tracepoint_arguments("kfree_skb").is_ok());
    answers + usize::from(btf.size_of_struct("sk_buff").is_ok())
}

/// Numbers without a pattern, the same in every run.
struct Noise(u64);

impl Noise {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % u64::try_from(bound).unwrap()).unwrap()
    }

    /// A byte of the kind that breaks parsers more often than others.
    fn byte(&mut self) -> u8 {
        match self.below(4) {
            0 => 0,
            1 => 0xff,
            2 => 1 << self.below(8),
            _ => u8::try_from(self.below(256)).unwrap(),
        }
    }
}

#[test]
fn corrupt_files_give_errors_or_answers_but_no_panic() {
    for big_endian in [false, true] {
        let good = sample(big_endian);
        assert_eq!(interrogate(&Btf::parse(good.clone()).unwrap()), 10);
        for length in 0..good.len() {
            // The sections reach to the end, so a file that is cut anywhere is refused.
            assert!(Btf::parse(good[..length].to_vec()).is_err(), "{length}");
        }
        let mut noise = Noise(0x9e37_79b9_7f4a_7c15);
        let (mut refused, mut parsed) = (0, 0);
        for _ in 0..20_000 {
            let mut bad = good.clone();
            for _ in 0..=noise.below(4) {
                let at = noise.below(bad.len());
                bad[at] = noise.byte();
            }
            match Btf::parse(bad) {
                Ok(btf) => {
                    parsed += 1;
                    interrogate(&btf);
                }
                Err(_) => refused += 1,
            }
        }
        assert!(
            refused > 1_000 && parsed > 1_000,
            "{refused} refused, {parsed} parsed"
        );
    }
}

fn running_kernel() -> Vec<u8> {
    std::fs::read(VMLINUX).expect("a kernel with CONFIG_DEBUG_INFO_BTF")
}

#[test]
fn layouts_that_the_kernel_promises_to_keep_are_found_in_the_running_one() {
    let btf = Btf::read(VMLINUX).unwrap();
    for (path, offset, size) in [
        ("ethhdr.h_proto", 12, 2),
        ("iphdr.protocol", 9, 1),
        ("iphdr.saddr", 12, 4),
        ("ipv6hdr.nexthdr", 6, 1),
        ("ipv6hdr.daddr", 24, 16),
        ("ipv6hdr.daddr.in6_u.u6_addr32", 24, 16),
        ("udphdr.check", 6, 2),
        ("__sk_buff.ifindex", 40, 4),
    ] {
        assert_eq!(btf.field(path).unwrap(), plain(offset, size), "{path}");
    }
    assert_eq!(btf.size_of_struct("tcphdr").unwrap(), 20);
    if cfg!(target_endian = "little") {
        for (path, offset, bit_offset, bit_size) in [
            ("iphdr.ihl", 0, 0, 4),
            ("iphdr.version", 0, 4, 4),
            ("tcphdr.doff", 12, 4, 4),
            ("tcphdr.syn", 13, 1, 1),
            ("tcphdr.ack", 13, 4, 1),
        ] {
            let expected = Field {
                offset,
                size: 1,
                bit_offset,
                bit_size,
            };
            assert_eq!(btf.field(path).unwrap(), expected, "{path}");
        }
    }
}

#[test]
fn every_field_that_drops_need_is_in_the_running_kernel() {
    let btf = Btf::read(VMLINUX).unwrap();
    let pointer = u32::try_from(size_of::<usize>()).unwrap();
    for (path, size) in [
        ("sk_buff.len", 4),
        ("sk_buff.head", pointer),
        ("sk_buff.data", pointer),
        ("sk_buff.dev", pointer),
        ("sk_buff.sk", pointer),
        ("sk_buff.skb_iif", 4),
        ("sk_buff._skb_refdst", pointer),
        ("sk_buff.network_header", 2),
        ("sk_buff.mac_header", 2),
        ("sk_buff.end", 4),
        ("sock.__sk_common.skc_net.net", pointer),
        ("sock.__sk_common.skc_state", 1),
        ("net_device.nd_net.net", pointer),
        ("net_device.ifindex", 4),
        ("net.ns.inum", 4),
        ("dst_entry.dev", pointer),
        ("rtable.rt_type", 2),
        ("rt6_info.rt6i_flags", 4),
        ("skb_shared_info.gso_size", 2),
        ("skb_shared_info.gso_segs", 2),
    ] {
        let field = btf.field(path).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!((field.size, field.bit_size), (size, 0), "{path}");
        assert!(field.offset < 8192, "{path} at {}", field.offset);
    }
    let kind = btf.field("sk_buff.pkt_type").unwrap();
    assert_eq!((kind.size, kind.bit_size), (1, 3));
    let arguments = btf.tracepoint_arguments("kfree_skb").unwrap();
    assert_eq!(arguments[..2], ["struct sk_buff *", "void *"]);
    let families = btf.enum_values("bpf_map_type").unwrap();
    assert_eq!(families[1], ("BPF_MAP_TYPE_HASH".to_owned(), 1));
}

#[test]
fn the_running_kernel_s_btf_gives_errors_when_corrupt_but_no_panic() {
    let good = running_kernel();
    let mut noise = Noise(0x2545_f491_4f6c_dd1d);
    for _ in 0..8 {
        let cut = good[..noise.below(good.len())].to_vec();
        assert!(Btf::parse(cut).is_err());
    }
    // A file with thousands of broken bytes is refused at the first broken type, so they break
    // only behind the index: every question then meets them.
    let mut btf = Btf::parse(good).unwrap();
    let questions = 12;
    let mut fewest = questions;
    for _ in 0..16 {
        for _ in 0..100_000 {
            let at = noise.below(btf.data.len());
            btf.data[at] = noise.byte();
        }
        fewest = fewest.min(interrogate(&btf));
    }
    assert!(fewest < questions, "the damage reached no answer");
}

#[test]
fn names_and_namesakes_that_would_take_all_memory_or_time_are_refused() {
    let mut file = Builder::new(false);
    let long = "x".repeat(MAX_NAME + 1);
    let value = file.composite(4, &long, false, &[]);
    assert_eq!(value, 1);
    file.add("of_long_names", 6, false, 1, 4, &[1, 7]);
    let btf = Btf::parse(file.finish()).unwrap();
    // The name at 1 is the long one.
    let error = btf.enum_values("of_long_names").unwrap_err().to_string();
    assert!(error.contains("a name that is too long"), "{error}");

    let mut file = Builder::new(false);
    let members: Vec<_> = (0..20_000).map(|_| ("m", 0, 0)).collect();
    let large = file.composite(4, "", false, &members);
    for _ in 0..20_000 {
        file.composite(4, "sk_buff", false, &[("", large, 0)]);
    }
    let btf = Btf::parse(file.finish()).unwrap();
    let begin = std::time::Instant::now();
    assert!(btf.field("sk_buff.len").is_err());
    assert!(begin.elapsed().as_secs() < 20, "{:?}", begin.elapsed());
}
