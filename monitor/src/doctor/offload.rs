//! Filters of `tc` that the hardware of an interface has taken over, as the kernel itself says of each.

use std::io;

use netlink_sys::protocols::NETLINK_ROUTE;

use super::finding::{Finding, Weight};
use super::interfaces::Watched;
use crate::netlink::ask::{self, Reply};
use crate::netlink::channel::Channel;
use crate::netlink::{attribute, text, u32_at};

/// `include/uapi/linux/rtnetlink.h`
const RTM_NEWQDISC: u16 = 36;
const RTM_GETQDISC: u16 = 38;
const RTM_NEWTFILTER: u16 = 44;
const RTM_GETTFILTER: u16 = 46;
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
/// `struct tcmsg`, bytes, and where it has the interface and the parent.
const TCMSG: usize = 20;
const INDEX: usize = 4;
const PARENT: usize = 12;
/// `include/uapi/linux/pkt_sched.h`: the parents of filters of `clsact`; the older `ingress` has the first.
const SIDES: [(&str, u32); 2] = [("ingress", 0xffff_fff2), ("egress", 0xffff_fff3)];
/// `include/uapi/linux/pkt_cls.h`
const TCA_CLS_FLAGS_IN_HW: u32 = 1 << 2;
const TCA_MATCHALL_FLAGS: u16 = 3;
const TCA_BPF_FLAGS_GEN: u16 = 9;
const TCA_U32_FLAGS: u16 = 11;
const TCA_FLOWER_FLAGS: u16 = 22;

/// Looks at the sides of each interface that may have filters.
pub(super) fn look(interfaces: &[Watched], findings: &mut Vec<Finding>) {
    ask(&mut ask::kernel(NETLINK_ROUTE), interfaces, findings);
}

/// The same, wherever the answers come from.
pub(super) fn ask(channel: &mut dyn Channel, interfaces: &[Watched], findings: &mut Vec<Finding>) {
    let disciplines = dump(channel, RTM_GETQDISC, RTM_NEWQDISC, 0, 0);
    for discipline in
        disciplines.unwrap_or_else(|error| unread("queueing disciplines", &error, findings))
    {
        let payload = &discipline.payload;
        let kind = attribute(payload.get(TCMSG..).unwrap_or_default(), TCA_KIND).map(text);
        let sides = match kind.as_deref() {
            Some("clsact") => &SIDES[..],
            Some("ingress") => &SIDES[..1],
            _ => continue,
        };
        let of = |line: &&Watched| u32_at(payload, INDEX) == Some(line.index);
        let Some(interface) = interfaces.iter().find(of) else {
            continue;
        };
        for (side, parent) in sides {
            let filters = dump(
                channel,
                RTM_GETTFILTER,
                RTM_NEWTFILTER,
                interface.index,
                *parent,
            );
            let filters = filters.unwrap_or_else(|error| {
                unread(
                    &format!("filters of {} ({side})", interface.name),
                    &error,
                    findings,
                )
            });
            let in_hardware = filters.iter().filter(|one| is_in_hardware(&one.payload));
            match in_hardware.count() {
                0 => {}
                count => findings.push(finding(&interface.name, side, count)),
            }
        }
    }
}

/// Says that something could not be read, unless the kernel has no such thing, or the interface is gone.
fn unread(what: &str, error: &io::Error, findings: &mut Vec<Finding>) -> Vec<Reply> {
    let absent = [libc::EOPNOTSUPP, libc::EINVAL, libc::ENODEV];
    if !error
        .raw_os_error()
        .is_some_and(|code| absent.contains(&code))
    {
        findings.push(Finding {
            id: "tc_unread",
            weight: Weight::Note,
            what: format!("tc's {what} could not be read: {error}"),
            effect: "whether hardware has taken filters over is not known".to_owned(),
            hint: Some("run it again".to_owned()),
        });
    }
    Vec::new()
}

fn finding(interface: &str, side: &str, count: usize) -> Finding {
    let effect = if side == "ingress" {
        "packets that they drop or redirect there never reach the kernel's network stack: they are neither allowed nor \
         dropped here"
    } else {
        "packets that they drop or redirect there have left the kernel's network stack, and count as allowed here"
    };
    Finding {
        id: "tc_offload",
        weight: Weight::Limited,
        what: format!("filters of tc are in the hardware of {interface} ({side}: {count})"),
        effect: effect.to_owned(),
        hint: Some(format!(
            "see what they do (`tc filter show dev {interface} {side}`); filters with skip_hw are the kernel's alone, and \
             their drops are counted"
        )),
    }
}

/// What there is of a kind, at an interface or (0) at all.
fn dump(
    channel: &mut dyn Channel,
    request: u16,
    answer: u16,
    index: u32,
    parent: u32,
) -> io::Result<Vec<Reply>> {
    let mut body = [0; TCMSG];
    body[INDEX..INDEX + 4].copy_from_slice(&index.to_ne_bytes());
    body[PARENT..PARENT + 4].copy_from_slice(&parent.to_ne_bytes());
    let mut replies = ask::dump(channel, request, &body)?;
    replies.retain(|reply| reply.kind == answer);
    Ok(replies)
}

/// Whether the hardware of at least one interface has a filter, by what follows its `struct nlmsghdr`.
pub(super) fn is_in_hardware(payload: &[u8]) -> bool {
    let flags = || {
        let inside = payload.get(TCMSG..)?;
        let wanted = match text(attribute(inside, TCA_KIND)?).as_str() {
            "flower" => TCA_FLOWER_FLAGS,
            "bpf" => TCA_BPF_FLAGS_GEN,
            "matchall" => TCA_MATCHALL_FLAGS,
            "u32" => TCA_U32_FLAGS,
            _ => return None,
        };
        u32_at(attribute(attribute(inside, TCA_OPTIONS)?, wanted)?, 0)
    };
    flags().is_some_and(|flags| flags & TCA_CLS_FLAGS_IN_HW != 0)
}
