//! What the kernel programs must know of the running kernel, out of its BTF.

use thiserror::Error;

use crate::btf::{Btf, BtfError};

/// The globals that take the offset of a field, and the field. `monitor-ebpf/src/globals.rs` has their
/// twins.
const FIELDS: &[(&str, &str)] = &[
    ("SK_BUFF_HEAD", "sk_buff.head"),
    ("SK_BUFF_DATA", "sk_buff.data"),
    ("SK_BUFF_TAIL", "sk_buff.tail"),
    ("SK_BUFF_END", "sk_buff.end"),
    ("SK_BUFF_LEN", "sk_buff.len"),
    ("SK_BUFF_NETWORK_HEADER", "sk_buff.network_header"),
    ("SK_BUFF_MAC_HEADER", "sk_buff.mac_header"),
    ("SK_BUFF_PROTOCOL", "sk_buff.protocol"),
    ("SK_BUFF_IIF", "sk_buff.skb_iif"),
    ("SK_BUFF_DEV", "sk_buff.dev"),
    ("SK_BUFF_SK", "sk_buff.sk"),
    ("SK_BUFF_REFDST", "sk_buff._skb_refdst"),
    ("SHARED_INFO_GSO_SIZE", "skb_shared_info.gso_size"),
    ("SHARED_INFO_GSO_SEGS", "skb_shared_info.gso_segs"),
    ("NET_DEVICE_IFINDEX", "net_device.ifindex"),
    ("NET_DEVICE_NET", "net_device.nd_net.net"),
    ("NET_INUM", "net.ns.inum"),
    ("DST_DEV", "dst_entry.dev"),
    ("DST_FLAGS", "dst_entry.flags"),
    ("RTABLE_TYPE", "rtable.rt_type"),
    ("RT6_FLAGS", "rt6_info.rt6i_flags"),
    ("SOCK_NET", "sock.__sk_common.skc_net.net"),
    ("SOCK_STATE", "sock.__sk_common.skc_state"),
    ("SOCK_TYPE", "sock.sk_type"),
    ("TASK_NSPROXY", "task_struct.nsproxy"),
    ("NSPROXY_NET", "nsproxy.net_ns"),
];

/// The fields without which the socket hook cannot tell namespaces apart, where the kernel has no
/// helper for it.
const NAMESPACE_FIELDS: &[&str] = &[
    "sk_buff.dev",
    "net_device.ifindex",
    "net_device.nd_net.net",
    "net.ns.inum",
];

/// The fields without which packets of devices without an Ethernet header cannot be parsed.
const LINK_HEADER_FIELDS: &[&str] = &["sk_buff.head", "sk_buff.data", "sk_buff.network_header"];

/// A field that this kernel does not have.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
#[error("the place of the field {path} is not known: {why}")]
pub struct MissingField {
    /// Dotted path.
    pub path: &'static str,
    /// What was looked for in vain.
    pub why: String,
}

/// What is known of the running kernel.
#[derive(Clone, Debug, Default)]
pub struct KernelFacts {
    /// Globals and their values.
    pub offsets: Vec<(&'static str, u32)>,
    /// Fields that are not there.
    pub missing: Vec<MissingField>,
    /// Whether `kfree_skb` says why.
    pub has_reason: bool,
    /// Whether `kfree_skb` names the receiving socket.
    pub has_receiving_socket: bool,
    /// Whether reasons have subsystems.
    pub has_subsystems: bool,
    /// The number by which a BTF tracepoint program names `kfree_skb`.
    pub tracepoint: Option<u32>,
}

impl KernelFacts {
    /// Reads everything out of a kernel's BTF. Missing fields are listed, not refused: each takes away
    /// only the hooks that need it.
    ///
    /// # Errors
    ///
    /// Where the BTF has no prototype of the tracepoint `kfree_skb`.
    pub fn from_btf(btf: &Btf) -> Result<Self, BtfError> {
        let mut facts = Self::default();
        for &(global, path) in FIELDS {
            match btf.field(path) {
                Ok(field) => facts.offsets.push((global, field.offset)),
                Err(error) => facts.missing.push(MissingField {
                    path,
                    why: error.to_string(),
                }),
            }
        }
        match btf.field("sk_buff.pkt_type") {
            Ok(field) => {
                facts
                    .offsets
                    .push(("SK_BUFF_PKT_TYPE", field.offset + field.bit_offset / 8));
                facts
                    .offsets
                    .push(("SK_BUFF_PKT_TYPE_SHIFT", field.bit_offset % 8));
            }
            Err(error) => facts.missing.push(MissingField {
                path: "sk_buff.pkt_type",
                why: error.to_string(),
            }),
        }
        match btf.size_of_struct("sk_buff") {
            Ok(size) => facts.offsets.push(("SK_BUFF_SIZE", size)),
            Err(error) => facts.missing.push(MissingField {
                path: "sk_buff",
                why: error.to_string(),
            }),
        }
        facts.tracepoint = Some(btf.tracepoint_id("kfree_skb")?);
        facts.has_subsystems = btf.enum_values("skb_drop_reason_subsys").is_ok();
        let arguments = btf.tracepoint_arguments("kfree_skb")?;
        facts.has_reason = arguments
            .get(2)
            .is_some_and(|argument| argument.contains("skb_drop_reason"));
        facts.has_receiving_socket = arguments
            .get(3)
            .is_some_and(|argument| argument.contains("sock"));
        Ok(facts)
    }

    /// What is known without BTF: nothing, and why.
    #[must_use]
    pub fn unknown(why: &str) -> Self {
        let paths = FIELDS.iter().map(|(_, path)| *path);
        let missing = paths.chain(["sk_buff.pkt_type"]).map(|path| MissingField {
            path,
            why: why.to_owned(),
        });
        Self {
            missing: missing.collect(),
            ..Self::default()
        }
    }

    /// The offset that a global takes, bytes.
    #[must_use]
    pub fn offset(&self, global: &str) -> Option<u32> {
        let found = self.offsets.iter().find(|(name, _)| *name == global);
        found.map(|(_, offset)| *offset)
    }

    /// Whether a program calls `bpf_probe_read_kernel`; `has_netns_cookie` as below.
    #[must_use]
    pub fn reads_kernel(program: &str, has_netns_cookie: bool) -> bool {
        match program {
            "kfree_skb" | "kfree_skb_raw" | "egress_other" => true,
            "deliver" => !has_netns_cookie,
            _ => false,
        }
    }

    /// The first field that a program needs and whose place is not known; `has_netns_cookie` says
    /// whether the socket hook can do without device fields.
    #[must_use]
    pub fn obstacle(&self, program: &str, has_netns_cookie: bool) -> Option<&MissingField> {
        self.missing.iter().find(|field| match program {
            "kfree_skb" | "kfree_skb_raw" => true,
            "deliver" => !has_netns_cookie && NAMESPACE_FIELDS.contains(&field.path),
            "egress_other" => LINK_HEADER_FIELDS.contains(&field.path),
            _ => false,
        })
    }
}
