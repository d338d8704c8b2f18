//! Readers of packet bytes for programs that have a `__sk_buff`, and what the ports say.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::bpf_skb_load_bytes;
use core::cell::Cell;
use core::mem::MaybeUninit;
use monitor_common::counter::Slot;
use monitor_common::packet::{Headers, Plain, Ports, Reader, blur};
use monitor_common::traffic::UNWATCHED;
use monitor_common::{Flow, Protocol};

use crate::maps::PORT_TABLE;

/// Direct packet access: what of the packet is linear.
pub(crate) struct Direct {
    data: usize,
    end: usize,
    short: Cell<bool>,
}

impl Direct {
    #[inline(always)]
    pub(crate) fn new(skb: *const __sk_buff) -> Self {
        // SAFETY: the context is valid while the program runs. Read anew each time: a glance comes first, and what is
        // kept for later would cost it a way through memory.
        unsafe {
            Self {
                data: (&raw const (*skb).data).read_volatile() as usize,
                end: (&raw const (*skb).data_end).read_volatile() as usize,
                short: Cell::new(false),
            }
        }
    }

    /// Whether something was asked for that is not in the linear part, but may be behind it.
    #[inline(always)]
    pub(crate) fn fell_short(&self, skb: &__sk_buff) -> bool {
        self.short.get() && self.end.wrapping_sub(self.data) < skb.len as usize
    }
}

impl Reader for Direct {
    #[inline(always)]
    fn get<T: Plain>(&self, offset: u32) -> Option<T> {
        let start = self.data + offset as usize;
        if start + size_of::<T>() > self.end {
            self.short.set(true);
            return None;
        }
        // SAFETY: the check above, which the verifier insists on; any bytes are a T, and packet
        // memory is aligned to 2 as T is.
        Some(unsafe { *(start as *const T) })
    }
}

/// Packet bytes through the helper, which also reads what is not linear: slower, so only where
/// [`Direct`] falls short.
#[derive(Clone, Copy)]
pub(crate) struct Loaded(pub(crate) *mut __sk_buff);

impl Reader for Loaded {
    #[inline(always)]
    fn get<T: Plain>(&self, offset: u32) -> Option<T> {
        let mut value = MaybeUninit::<T>::uninit();
        // SAFETY: the helper writes the whole of `value` or fails.
        unsafe {
            let result = bpf_skb_load_bytes(
                self.0.cast(),
                offset,
                value.as_mut_ptr().cast(),
                size_of::<T>() as u32,
            );
            (result == 0).then(|| value.assume_init())
        }
    }
}

/// Which traffic a packet belongs to. No option: the compiler may copy what is undefined in one that is
/// empty, and the verifier refuses to read what was never written.
#[derive(Clone, Copy)]
pub(crate) struct Watched {
    /// Whether it belongs to one at all.
    pub(crate) is_known: bool,
    pub(crate) traffic: u32,
    pub(crate) flow: u32,
    pub(crate) ports: Ports,
}

impl Watched {
    /// Its slot for a direction.
    #[inline(always)]
    pub(crate) fn slot(&self, headers: &Headers, direction: u32) -> u32 {
        Slot::from_codes(
            self.traffic,
            headers.protocol,
            headers.family,
            direction,
            self.flow,
        )
    }

    /// See [`ports_key`].
    #[inline(always)]
    pub(crate) fn ports_key(&self) -> u32 {
        ports_key(self.ports)
    }
}

/// Both ports in one number.
#[inline(always)]
pub(crate) fn ports_key(ports: Ports) -> u32 {
    u32::from(ports.source) << 16 | u32::from(ports.destination)
}

/// Stands for the traffic of a packet that nobody watches. Its slot is never used.
pub(crate) const NOBODY: Watched = Watched {
    is_known: false,
    traffic: 0,
    flow: 0,
    ports: Ports {
        source: 0,
        destination: 0,
    },
};

/// SYN, RST: what segments of attempts have.
pub(crate) const SYN_OR_RST: u8 = 0x06;

/// Which traffic the ports belong to.
#[inline(always)]
pub(crate) fn watched<R: Reader>(reader: &R, headers: &Headers) -> Watched {
    match reader.get::<Ports>(headers.transport) {
        Some(ports) => watched_by(ports, headers.protocol),
        None => NOBODY,
    }
}

/// As [`watched`], of ports that were read; `protocol` is the code of the [`Protocol`].
#[inline(always)]
pub(crate) fn watched_by(ports: Ports, protocol: u32) -> Watched {
    let table = PORT_TABLE.of(protocol == Protocol::Tcp as u32);
    let request = table.traffic(ports.destination);
    if request != UNWATCHED {
        return Watched {
            is_known: true,
            traffic: u32::from(request - 1),
            flow: blur(Flow::Request as u32),
            ports,
        };
    }
    let reply = table.traffic(ports.source);
    if reply != UNWATCHED {
        return Watched {
            is_known: true,
            traffic: u32::from(reply - 1),
            flow: blur(Flow::Reply as u32),
            ports,
        };
    }
    NOBODY
}

/// Index of the traffic of a request + 1; 0 for anything else.
#[inline(always)]
pub(crate) fn request(watched: &Watched) -> u32 {
    if watched.is_known && watched.flow == Flow::Request as u32 {
        watched.traffic + 1
    } else {
        0
    }
}
