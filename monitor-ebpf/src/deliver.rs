//! Inbound packets that are past every verdict: a socket is about to get them.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::{bpf_get_netns_cookie, bpf_sk_fullsock};
use monitor_common::attempt::hook;
use monitor_common::interface::EXCLUDED;
use monitor_common::packet::{Headers, Reader, TcpStart};
use monitor_common::{Direction, Protocol};

use crate::glance::{self, Hook, Plain};
use crate::kernel::{Memory, device, probe};
use crate::maps::{INTERFACES, LAST};
use crate::packet::{Direct, Watched, watched};
use crate::pass::{is_any, parse, pass};
use crate::{attempt, globals};

/// The loopback device has this index in every namespace.
const LOOPBACK: u32 = 1;

const SOCK_RAW: u32 = 3;
const TCP_LISTEN: u32 = 10;
const TCP_ACK: u8 = 0x10;
const TCP_SYN: u8 = 0x02;
/// `PACKET_HOST`: addressed to this host alone (`linux/if_packet.h`).
const PACKET_HOST: u32 = 0;

/// Whether the socket that gets the packet is in the daemon's network namespace: the hook sees those of
/// every namespace.
#[inline(always)]
fn is_own(skb: *mut __sk_buff) -> bool {
    if globals::HAS_NETNS_COOKIE.load() != 0 {
        // SAFETY: the context is valid while the program runs.
        return unsafe { bpf_get_netns_cookie(skb.cast()) } == globals::NETNS_COOKIE.load();
    }
    let Some(address) = probe::<u64>(skb.cast(), &globals::SK_BUFF_DEV) else {
        return false;
    };
    device::look(Memory::CALLED, address as *const u8).is_own()
}

/// Whether the configuration leaves the interface out.
#[inline(always)]
fn is_excluded(index: u32) -> bool {
    if !is_any(EXCLUDED) {
        return false;
    }
    // SAFETY: entries are small, written whole by the daemon, and never freed while programs run.
    matches!(unsafe { INTERFACES.get(index) }, Some(interface) if interface.flags & EXCLUDED != 0)
}

/// Whether this delivery repeats one that was counted.
///
/// The same packet passes twice where a listening socket gets an acknowledgement that fits no request
/// (`tcp_v4_rcv` filters for the request first, then for the listener), and once for each socket where
/// a broadcast or multicast datagram has several (`__udp4_lib_mcast_deliver`). Both follow each other
/// on one CPU with nothing in between.
#[inline(always)]
fn is_repeated<R: Reader>(
    skb: &__sk_buff,
    receiver: Receiver,
    reader: &R,
    headers: &Headers,
    watched: &Watched,
) -> bool {
    let Some(last) = LAST.get_ptr_mut(0) else {
        return false;
    };
    // SAFETY: this CPU's own value.
    let last = unsafe { &mut *last };
    if headers.protocol == Protocol::Tcp as u32 {
        if receiver.state != TCP_LISTEN {
            return false;
        }
        let Some(tcp) = reader.get::<TcpStart>(headers.transport) else {
            return false;
        };
        let numbers = tcp.numbers_key();
        let kind = tcp.flags.flags & (TCP_SYN | TCP_ACK);
        if kind == TCP_SYN {
            last.syn_numbers = numbers;
            last.syn_skb = core::ptr::from_ref(skb) as u64;
            last.syn_ports = watched.ports_key();
        }
        if kind != TCP_ACK {
            return false;
        }
        let same = last.skb == core::ptr::from_ref(skb) as u64
            && last.ports == watched.ports_key()
            && last.listen_numbers == numbers;
        // Seen twice at most: what comes with the same address after that is a new packet.
        last.listen_numbers = if same { 0 } else { numbers };
        return same;
    }
    if skb.pkt_type == PACKET_HOST {
        return false;
    }
    // Clones share their data. One delivery gives each socket one: the first socket again is a new
    // packet that happens to lie in the same memory.
    let data = u64::from(skb.data);
    let socket = receiver.socket;
    if last.fan_data == data && last.ports == watched.ports_key() && last.fan_socket != socket {
        return true;
    }
    last.fan_data = data;
    last.fan_socket = socket;
    false
}

/// The socket that is about to get a packet.
#[derive(Clone, Copy)]
struct Receiver {
    /// Its address.
    socket: u64,
    /// `enum sock_state` of `include/net/tcp_states.h`.
    state: u32,
}

/// The socket that is about to get a packet, where that counts: in this namespace, from an interface that is not left
/// out. A raw socket gets a copy of what the protocol's own socket gets as well, or of what nobody does.
#[inline(always)]
fn receiver(skb: *mut __sk_buff) -> Option<Receiver> {
    // SAFETY: the context is valid while the program runs.
    if !is_own(skb) || is_excluded(unsafe { (*skb).ifindex }) {
        return None;
    }
    // SAFETY: the field is a socket or null, which both the program and the helper check.
    let socket = unsafe { (*skb).__bindgen_anon_2.sk };
    if socket.is_null() {
        return None;
    }
    // SAFETY: not null.
    let socket = unsafe { bpf_sk_fullsock(socket) };
    if socket.is_null() {
        return None;
    }
    // SAFETY: not null, and a full socket.
    let (kind, state) = unsafe { ((*socket).type_, (*socket).state) };
    (kind != SOCK_RAW).then_some(Receiver {
        socket: socket as u64,
        state,
    })
}

/// A packet that a socket is about to get.
struct Delivered(*mut __sk_buff);

impl Hook for Delivered {
    #[inline(always)]
    fn count(&self, plain: Plain) -> bool {
        let Some(receiver) = receiver(self.0) else {
            return true;
        };
        // SAFETY: the context is valid while the program runs.
        let context = unsafe { &*self.0 };
        // What may be delivered twice is looked at closely.
        let is_once = if plain.is_tcp {
            receiver.state != TCP_LISTEN
        } else {
            context.pkt_type == PACKET_HOST
        };
        is_once && glance::pass(context, plain, Direction::Inbound)
    }
}

/// cgroup ingress at the root: a socket is about to get the packet. Gives the task that is left; `None`
/// where there was nothing to count or to follow.
#[inline(always)]
pub(crate) fn deliver(skb: *mut __sk_buff) -> Option<u32> {
    // SAFETY: the context is valid while the program runs.
    let context = unsafe { &*skb };
    if context.ifindex == LOOPBACK {
        return None;
    }
    let is_done = glance::look(context, context.protocol, 0, &Delivered(skb));
    if is_done {
        return None;
    }
    let reader = Direct::new(skb);
    let headers = parse(&reader, context.protocol, 0)?;
    let watched = watched(&reader, &headers);
    let flags = attempt::may_belong(&reader, &headers);
    let task = attempt::task(&headers, &watched, flags, 0);
    if !watched.is_known && task == attempt::NOTHING {
        return None;
    }
    let receiver = receiver(skb)?;
    if watched.is_known && !is_repeated(context, receiver, &reader, &headers, &watched) {
        pass(context, &reader, &headers, &watched, 0, Direction::Inbound);
    }
    if task == attempt::NOTHING {
        return Some(task);
    }
    let direction = Direction::Inbound as u32;
    Some(attempt::leave(hook::DELIVER, task, direction, 0))
}
