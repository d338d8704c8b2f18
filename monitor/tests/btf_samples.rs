//! What the daemon reads of the BTF of many kernels on two architectures: fields, the prototype of
//! `kfree_skb`, drop reasons. `cargo xtask btf-samples` makes the samples out of the packages that
//! `xtask/btf-samples.toml` lists; the expectations here were written down apart from the code.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use monitor::bpf::facts::KernelFacts;
use monitor::btf::Btf;
use monitor::drop::{ReasonTable, classify, is_known};
use monitor_common::drop::{Class, Group, REASON_UNAVAILABLE, ReasonInfo, reason_index};

/// Class and group of each reason.
const REASONS: &str = include_str!("btf_samples/reasons.txt");

/// Place and size of each field.
const OFFSETS: &str = include_str!("btf_samples/offsets.txt");

/// Reasons that may do without a row in the daemon's table, each with why.
const WITHOUT_ROW: [&str; 0] = [];

/// What is in the enum and is never given as a reason.
const NO_REASONS: [&str; 3] = ["SKB_NOT_DROPPED_YET", "MAX", "SUBSYS_MASK"];

/// What a kernel is like.
struct Kernel {
    name: &'static str,
    /// Arguments of `kfree_skb` after the packet and the location.
    more: &'static [&'static str],
    /// Values of `NETFILTER_DROP`, `NO_SOCKET` and `IP_RPFILTER`.
    values: Option<[u32; 3]>,
    /// Names of the subsystems, the first of which has the number 1.
    subsystems: &'static [&'static str],
}

const REASON: &[&str] = &["enum skb_drop_reason"];
const SOCKET: &[&str] = &["enum skb_drop_reason", "struct sock *"];
const CONST_SOCKET: &[&str] = &["enum skb_drop_reason", "const struct sock *"];
const WITH_MONITOR: &[&str] = &["MAC80211_UNUSABLE", "MAC80211_MONITOR", "OPENVSWITCH"];
const TWO: &[&str] = &["MAC80211_UNUSABLE", "OPENVSWITCH"];
const WITH_QDISC: &[&str] = &["MAC80211_UNUSABLE", "OPENVSWITCH", "QDISC"];

const fn kernel(
    name: &'static str,
    more: &'static [&'static str],
    values: Option<[u32; 3]>,
    subsystems: &'static [&'static str],
) -> Kernel {
    Kernel {
        name,
        more,
        values,
        subsystems,
    }
}

const KERNELS: [Kernel; 18] = [
    kernel("5.10-amd64", &[], None, &[]),
    kernel("5.10-arm64", &[], None, &[]),
    kernel("5.15-amd64", &[], None, &[]),
    kernel("5.19-amd64", REASON, Some([7, 2, 11]), &[]),
    kernel("6.1-amd64", REASON, Some([7, 2, 11]), &[]),
    kernel("6.1-arm64", REASON, Some([7, 2, 11]), &[]),
    // SKB_CONSUMED was put in front.
    kernel("6.2-amd64", REASON, Some([8, 3, 12]), &[]),
    kernel("6.8-amd64", REASON, Some([8, 3, 12]), WITH_MONITOR),
    kernel("6.12-amd64", SOCKET, Some([11, 3, 15]), WITH_MONITOR),
    kernel("6.12-arm64", SOCKET, Some([11, 3, 15]), WITH_MONITOR),
    kernel("6.17-amd64", SOCKET, Some([12, 3, 16]), TWO),
    kernel("6.18-amd64", SOCKET, Some([12, 3, 16]), TWO),
    kernel("6.19-amd64", SOCKET, Some([12, 3, 16]), TWO),
    kernel("7.0-amd64", SOCKET, Some([12, 3, 16]), TWO),
    kernel("7.1-amd64", SOCKET, Some([12, 3, 16]), WITH_QDISC),
    kernel("7.2-amd64", CONST_SOCKET, Some([12, 3, 16]), WITH_QDISC),
    kernel("7.2-arm64", CONST_SOCKET, Some([12, 3, 16]), WITH_QDISC),
    kernel("7.3-amd64", CONST_SOCKET, Some([12, 3, 16]), WITH_QDISC),
];

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/btf")
}

fn sample(kernel: &str) -> Result<Btf> {
    let file = folder().join(format!("{kernel}.btf"));
    Btf::read(&file).with_context(|| file.display().to_string())
}

/// The lines of a file of expectations that are neither empty nor a comment, in words.
fn lines(text: &str) -> impl Iterator<Item = Vec<&str>> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let words = lines.map(|line| line.split_whitespace().collect::<Vec<_>>());
    words.filter(|words| !words.is_empty())
}

/// What is expected of each reason.
fn expected_reasons() -> Result<BTreeMap<&'static str, (Class, Group)>> {
    let mut expected = BTreeMap::new();
    for words in lines(REASONS) {
        let [class, group, names @ ..] = words.as_slice() else {
            anyhow::bail!("not understood: {words:?}");
        };
        let class = Class::ALL.iter().find(|known| known.as_str() == *class);
        let class = *class.with_context(|| words.join(" "))?;
        let group = group.strip_suffix(':').unwrap_or_default();
        let group = Group::ALL.iter().find(|known| known.as_str() == group);
        let group = *group.with_context(|| words.join(" "))?;
        for name in names {
            let before = expected.insert(*name, (class, group));
            ensure!(before.is_none(), "{name} stands there twice");
        }
    }
    Ok(expected)
}

/// The kernel's own reasons with their numbers, as the enum has them, without the prefix.
fn reasons(btf: &Btf) -> Result<Vec<(String, u32)>> {
    let mut reasons = Vec::new();
    for (name, value) in btf.enum_values("skb_drop_reason")? {
        let name = name.strip_prefix("SKB_DROP_REASON_").unwrap_or(&name);
        if !NO_REASONS.contains(&name) {
            reasons.push((name.to_owned(), u32::try_from(value)?));
        }
    }
    Ok(reasons)
}

fn decoded(info: ReasonInfo) -> (Option<Class>, Option<Group>, u8) {
    let class = Class::from_code(info.class);
    (class, Group::from_code(info.group), info.unspecified)
}

#[test]
fn every_sample_is_expected_and_there_are_enough() -> Result<()> {
    let mut files = BTreeSet::new();
    for entry in fs::read_dir(folder())? {
        files.insert(entry?.file_name().to_string_lossy().into_owned());
    }
    let expected: BTreeSet<_> = KERNELS
        .iter()
        .map(|kernel| format!("{}.btf", kernel.name))
        .collect();
    assert_eq!(files, expected);
    assert!(files.len() >= 8);
    for architecture in ["amd64", "arm64"] {
        assert!(files.iter().any(|name| name.contains(architecture)));
    }
    Ok(())
}

#[test]
fn every_field_resolves_so_that_no_hook_is_left_out() -> Result<()> {
    for kernel in &KERNELS {
        let facts = KernelFacts::from_btf(&sample(kernel.name)?)?;
        // A struct that is new to the daemon must be added to xtask/src/btf/reduce.rs too.
        assert_eq!(facts.missing, [], "{}", kernel.name);
        for program in ["kfree_skb", "kfree_skb_raw", "deliver", "egress_other"] {
            assert_eq!(facts.obstacle(program, false), None, "{}", kernel.name);
        }
    }
    Ok(())
}

/// Also that pointers have 8 bytes and that `tail` and `end` are offsets of 4, as
/// `NET_SKBUFF_DATA_USES_OFFSET` makes them: the kernel programs count on both.
#[test]
fn fields_lie_where_another_reader_finds_them_and_have_the_size_that_is_loaded() -> Result<()> {
    let mut rows = lines(OFFSETS);
    let kernels = rows.next().context("no kernels")?.split_off(3);
    assert_eq!(kernels.len(), KERNELS.len());
    let rows: Vec<_> = rows.collect();
    assert!(rows.len() >= 27, "{}", rows.len());
    for (column, kernel) in kernels.into_iter().enumerate() {
        let btf = sample(kernel)?;
        let facts = KernelFacts::from_btf(&btf)?;
        for row in &rows {
            let (path, global, size) = (row[0], row[1], row[2].parse()?);
            let offset: u32 = row[3 + column].parse()?;
            let field = btf.field(path)?;
            assert_eq!(
                (field.offset, field.size),
                (offset, size),
                "{path} on {kernel}"
            );
            assert!(
                facts.offsets.contains(&(global, offset)),
                "{global} on {kernel}"
            );
        }
        let kind = btf.field("sk_buff.pkt_type")?;
        assert_eq!((kind.bit_offset, kind.bit_size), (0, 3), "{kernel}");
        assert!(facts.offsets.contains(&("SK_BUFF_PKT_TYPE_SHIFT", 0)));
    }
    Ok(())
}

/// Seen when the programs ran on these kernels.
#[test]
fn the_namespace_of_a_device_is_where_it_was_found_on_running_kernels() -> Result<()> {
    for (kernel, offset) in [
        ("5.10-amd64", 1264),
        ("6.1-amd64", 1272),
        ("6.12-amd64", 280),
        ("6.18-amd64", 264),
        ("7.2-amd64", 264),
    ] {
        let field = sample(kernel)?.field("net_device.nd_net")?;
        assert_eq!(field.offset, offset, "{kernel}");
    }
    Ok(())
}

#[test]
fn the_tracepoint_has_the_arguments_of_its_kernel() -> Result<()> {
    for kernel in &KERNELS {
        let btf = sample(kernel.name)?;
        let arguments = btf.tracepoint_arguments("kfree_skb")?;
        let expected = [&["struct sk_buff *", "void *"], kernel.more].concat();
        assert_eq!(arguments, expected, "{}", kernel.name);
        let facts = KernelFacts::from_btf(&btf)?;
        assert_eq!(facts.has_reason, !kernel.more.is_empty());
        assert_eq!(facts.has_receiving_socket, kernel.more.len() == 2);
    }
    Ok(())
}

#[test]
fn reasons_have_the_numbers_of_their_kernel() -> Result<()> {
    for kernel in &KERNELS {
        let table = ReasonTable::from_btf(&sample(kernel.name)?)?;
        let names = ["NETFILTER_DROP", "NO_SOCKET", "IP_RPFILTER"];
        let Some(values) = kernel.values else {
            assert!(!table.has_reasons(), "{}", kernel.name);
            assert_eq!(table.firewall_reason(), REASON_UNAVAILABLE);
            continue;
        };
        for (name, value) in names.into_iter().zip(values) {
            assert_eq!(table.name(value), name, "{}", kernel.name);
        }
        assert_eq!(table.firewall_reason(), values[0], "{}", kernel.name);
    }
    Ok(())
}

#[test]
fn every_reason_of_every_sample_has_its_class_and_group_at_its_number() -> Result<()> {
    let expected = expected_reasons()?;
    let mut used = BTreeSet::new();
    for kernel in KERNELS.iter().filter(|kernel| kernel.values.is_some()) {
        let btf = sample(kernel.name)?;
        let table = ReasonTable::from_btf(&btf)?;
        let reasons = reasons(&btf)?;
        assert!(reasons.len() > 60, "{}", kernel.name);
        assert_eq!(table.names().count(), reasons.len(), "{}", kernel.name);
        for (name, number) in reasons {
            let what = format!("{name} ({number}) on {}", kernel.name);
            let (&known, &(class, group)) = expected
                .get_key_value(name.as_str())
                .with_context(|| format!("nothing is expected of {what}"))?;
            used.insert(known);
            assert_eq!(classify(&name), (class, group), "{what}");
            assert_eq!(table.name(number), name, "{what}");
            let info = table.infos()[reason_index(number) as usize];
            let by_place = ["NOT_SPECIFIED", "QUEUE_PURGE"].contains(&name.as_str());
            let row = (Some(class), Some(group), u8::from(by_place));
            assert_eq!(decoded(info), row, "{what}");
        }
    }
    let unused: Vec<_> = expected
        .keys()
        .filter(|name| !used.contains(*name))
        .collect();
    assert!(unused.is_empty(), "no sample has {unused:?}");
    Ok(())
}

#[test]
fn reasons_without_a_row_are_known_by_name() -> Result<()> {
    let mut without: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for kernel in KERNELS.iter().filter(|kernel| kernel.values.is_some()) {
        for (name, _) in reasons(&sample(kernel.name)?)? {
            if !is_known(&name) {
                without.entry(name).or_default().push(kernel.name);
            }
        }
    }
    for (name, kernels) in &without {
        println!("no row for {name}: {}", kernels.join(" "));
    }
    let found: Vec<_> = without.keys().collect();
    assert_eq!(found, WITHOUT_ROW.each_ref(), "{without:?}");
    Ok(())
}

#[test]
fn subsystems_have_their_class_and_group_at_their_number() -> Result<()> {
    for kernel in &KERNELS {
        let table = ReasonTable::from_btf(&sample(kernel.name)?)?;
        for (subsystem, &name) in (1..).zip(kernel.subsystems) {
            let reason = (subsystem << 16) | 5;
            let what = format!("{name} on {}", kernel.name);
            assert_eq!(table.name(reason), format!("{name}_5"), "{what}");
            let (class, group) = match name {
                "OPENVSWITCH" => (Class::Firewall, Group::Before),
                "QDISC" => (Class::Queue, Group::After),
                _ => (Class::Unspecified, Group::Ignored),
            };
            let info = table.infos()[reason_index(reason) as usize];
            assert_eq!(decoded(info), (Some(class), Some(group), 0), "{what}");
        }
        // There are no others.
        let next = u32::try_from(kernel.subsystems.len() + 1)? << 16;
        assert_eq!(
            table.name(next),
            format!("REASON_{next}"),
            "{}",
            kernel.name
        );
    }
    Ok(())
}
