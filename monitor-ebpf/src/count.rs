//! Adding to counters.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::maps::PerCpuArray;
use monitor_common::Direction;
use monitor_common::counter::Count;
use monitor_common::drop::DropKey;
use monitor_common::event::loss;
use monitor_common::interface::{InterfaceCount, NO_INTERFACE, OTHER_INTERFACES};

use crate::maps::{
    ALLOWED, DROPS, FRAGMENTS, INTERFACE_COUNTS, INTERFACE_COUNTS_LOW, LAST, LOSSES,
};

/// `linux/bpf.h`: only a new entry.
const BPF_NOEXIST: u64 = 1;

#[inline(always)]
fn increment(map: &PerCpuArray<u64>, index: u32, by: u64) {
    if let Some(value) = map.get_ptr_mut(index) {
        // SAFETY: this CPU's own value.
        unsafe { *value += by };
    }
}

/// Counts something that could not be done (an index of [`loss`]).
#[inline(always)]
pub(crate) fn lost(index: u32) {
    increment(&LOSSES, index, 1);
}

/// Counts a fragment that is not the first; `counter` is one of [`crate::maps::fragment`].
#[inline(always)]
pub(crate) fn fragment(counter: u32, direction: u32) {
    increment(&FRAGMENTS, counter + direction, 1);
}

/// Counts an allowed packet everywhere, and notes that it was the last one; `ports` are as in
/// [`crate::packet::ports_key`].
#[inline(always)]
pub(crate) fn passed(
    skb: &__sk_buff,
    slot: u32,
    direction: Direction,
    ports: u32,
    segments: u32,
    length: u32,
) {
    allowed(slot, segments, length);
    interface(skb.ifindex, |counts| {
        counts.passed[direction as usize] += u64::from(segments);
    });
    if let Some(last) = LAST.get_ptr_mut(0) {
        // SAFETY: this CPU's own value.
        unsafe {
            (*last).skb = core::ptr::from_ref(skb) as u64;
            (*last).ports = ports;
            (*last).slot = slot;
            (*last).interface = skb.ifindex;
            (*last).direction = direction as u32;
        }
    }
}

#[inline(always)]
fn allowed(slot: u32, segments: u32, length: u32) {
    if let Some(count) = ALLOWED.get_ptr_mut(slot) {
        // SAFETY: this CPU's own value; the pass programs run with bottom halves off, one at a time.
        unsafe {
            (*count).packets += u64::from(segments);
            (*count).bytes += u64::from(length);
        }
    }
}

/// Counts a freed packet.
#[inline(always)]
pub(crate) fn dropped(key: &DropKey, segments: u32, length: u32) {
    let count = DROPS.get_ptr_mut(key).or_else(|| {
        // A failure shows in the look-up: no room, unless another CPU was faster.
        DROPS.insert(key, Count::default(), BPF_NOEXIST).ok();
        DROPS.get_ptr_mut(key)
    });
    let Some(count) = count else {
        return lost(loss::DROPS_FULL);
    };
    // SAFETY: this CPU's own value; the drop program does not interrupt itself.
    unsafe {
        (*count).packets += u64::from(segments);
        (*count).bytes += u64::from(length);
    }
}

/// Counts something of an interface, through `update`.
#[inline(always)]
pub(crate) fn interface(index: u32, update: impl Fn(&mut InterfaceCount)) {
    // Index 1 is the loopback device in every namespace: a packet that is on it here has just been
    // put there by a rule's rejection, and was on no device before.
    let index = if index == 1 { NO_INTERFACE } else { index };
    if let Some(count) = INTERFACE_COUNTS_LOW.get_ptr_mut(index) {
        // SAFETY: this CPU's own value; each field has one writer.
        return update(unsafe { &mut *count });
    }
    if let Some(count) = INTERFACE_COUNTS.get_ptr_mut(index) {
        // SAFETY: this CPU's own value; each field has one writer.
        return update(unsafe { &mut *count });
    }
    // Not over an entry that a program has made in the meantime which interrupted this one.
    INTERFACE_COUNTS.insert(index, EMPTY, BPF_NOEXIST).ok();
    if let Some(count) = INTERFACE_COUNTS.get_ptr_mut(index) {
        // SAFETY: as above.
        return update(unsafe { &mut *count });
    }
    lost(loss::INTERFACES_FULL);
    if let Some(count) = INTERFACE_COUNTS.get_ptr_mut(OTHER_INTERFACES) {
        // SAFETY: as above.
        update(unsafe { &mut *count });
    }
}

/// What a new interface begins with. Static: it is too large to build on the stack for each insertion.
static EMPTY: InterfaceCount = InterfaceCount {
    passed: [0; 3],
    dropped: [0; 3],
    revoked: [0; 3],
    taken: [0; 3],
};
