//! Why the kernel programs and `etherparse` may take a packet differently.

use monitor_common::packet::{BLUR_MAX, MAX_EXTENSION_HEADERS};

use super::Found;

/// A reason: what it is about the packet, which of the two sees more, and why that is right.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Reason {
    /// IPv4 with an authentication header (RFC 4302): they look behind it. Its ports are nobody's business before
    /// `IPsec` has taken it apart, and then the kernel hands on a packet without it.
    Ipv4Authentication,
    /// An IPv4 length that leaves no room for ports: they go by what is there instead. The kernel drops it.
    Ipv4TooShort,
    /// IPv4 options that are cut off: they give up. Of a later fragment nothing behind the fixed header matters.
    Ipv4OptionsCut,
    /// A mobility, HIP or shim6 header (RFC 6275, 7401, 5533), which they do not know.
    OtherExtension,
    /// Hop-by-hop options that are not first: they refuse these, as the kernel does when such a packet comes in.
    HopByHopLater,
    /// More than eight extension headers: we stop there.
    LongChain,
    /// An authentication header without the least content: they refuse it. The length is all that matters to us.
    EmptyAuthentication,
    /// The transport header is further away than a packet pointer may be moved.
    TooFar,
    /// A later fragment whose fragment header is cut off, or ends behind the packet's own length. It has all that we
    /// look at; it counts as a fragment and not as a packet.
    FragmentHeaderCut,
    /// A TCP header that is cut off behind its flags, options mostly: they want all of it.
    TcpHeaderCut,
    /// An ICMP error that is a fragment but the first. Nobody can send one that could not send it whole, and
    /// it must know the sequence number.
    ErrorInFragment,
    /// An ICMP error that ends, by the outer header, before what we read: what is there may be padding. Who sends
    /// it must know the sequence number, and can write it there as well as elsewhere.
    ErrorTooShort,
    /// The quoted IPv4 header has a length that cannot be, or is cut off, or says that it has no room for ports.
    QuotedHeaderLength,
    /// The quoted packet is a fragment but the first, in which there is no sequence number. As for
    /// [`Reason::ErrorInFragment`].
    QuotedFragment,
    /// The quote has an authentication or IPv6 extension header before TCP, which we do not follow: such an attempt
    /// ends as unanswered.
    QuotedExtension,
    /// The outer IPv4 header has options that lie outside of the packet.
    OuterHeader,
}

impl Reason {
    /// All of them.
    pub const ALL: [Self; 16] = [
        Self::Ipv4Authentication,
        Self::Ipv4TooShort,
        Self::Ipv4OptionsCut,
        Self::OtherExtension,
        Self::HopByHopLater,
        Self::LongChain,
        Self::EmptyAuthentication,
        Self::TooFar,
        Self::FragmentHeaderCut,
        Self::TcpHeaderCut,
        Self::ErrorInFragment,
        Self::ErrorTooShort,
        Self::QuotedHeaderLength,
        Self::QuotedFragment,
        Self::QuotedExtension,
        Self::OuterHeader,
    ];
}

/// `IPPROTO_AH`
const AUTHENTICATION: u8 = 51;
/// `IPPROTO_FRAGMENT`
const FRAGMENT: u8 = 44;

fn be16(bytes: &[u8], at: usize) -> usize {
    match bytes.get(at..at + 2) {
        Some(&[high, low]) => usize::from(high) << 8 | usize::from(low),
        _ => 0,
    }
}

/// One extension header: its number, where it begins and ends, bytes from the IPv6 header.
struct Link {
    number: u8,
    start: usize,
    end: usize,
}

/// The extension headers of an IPv6 packet, as far as they are there, up to a fragment but the first; any number
/// of them. The plain way, to tell what is special about a packet.
fn chain(ip: &[u8]) -> Vec<Link> {
    let mut links = Vec::new();
    let (mut number, mut start) = (ip.get(6).copied().unwrap_or(59), 40);
    while matches!(number, 0 | 43 | 44 | 51 | 60 | 135 | 139 | 140) {
        let Some(&[next, length, ..]) = ip.get(start..) else {
            break;
        };
        let length = usize::from(length);
        let end = start
            + match number {
                FRAGMENT => 8,
                AUTHENTICATION => (length + 2) * 4,
                _ => (length + 1) * 8,
            };
        links.push(Link { number, start, end });
        if number == FRAGMENT && be16(ip, start + 2) & 0xfff8 != 0 {
            break;
        }
        (number, start) = (next, end);
    }
    links
}

/// Why the headers are taken differently.
pub(super) fn of_headers(ip: &[u8], is_ipv6: bool, ours: Found, theirs: Found) -> Option<Reason> {
    if !is_ipv6 {
        return of_ipv4(ip, ours, theirs);
    }
    let links = chain(ip);
    let they_miss = theirs == Found::Nothing;
    let we_miss = ours == Found::Nothing;
    let payload = be16(ip, 4);
    let end = if payload == 0 {
        ip.len()
    } else {
        ip.len().min(40 + payload)
    };
    let later_headers = links.iter().skip(1);
    if they_miss && links.iter().any(|l| matches!(l.number, 135 | 139 | 140)) {
        Some(Reason::OtherExtension)
    } else if they_miss && later_headers.clone().any(|l| l.number == 0) {
        Some(Reason::HopByHopLater)
    } else if they_miss
        && links
            .iter()
            .any(|l| l.number == AUTHENTICATION && ip.get(l.start + 1) == Some(&0))
    {
        Some(Reason::EmptyAuthentication)
    } else if they_miss
        && matches!(ours, Found::LaterFragment(_))
        && links.last().is_some_and(|last| last.end > end)
    {
        Some(Reason::FragmentHeaderCut)
    } else if we_miss && links.len() > MAX_EXTENSION_HEADERS as usize {
        Some(Reason::LongChain)
    } else if we_miss && links.last().is_some_and(|l| l.end + 64 > BLUR_MAX as usize) {
        Some(Reason::TooFar)
    } else {
        None
    }
}

fn of_ipv4(ip: &[u8], ours: Found, theirs: Found) -> Option<Reason> {
    let header = usize::from(ip.first()? & 0x0f) * 4;
    let length = be16(ip, 2);
    if ours == Found::Nothing && ip.get(9) == Some(&AUTHENTICATION) {
        Some(Reason::Ipv4Authentication)
    } else if ours == Found::Nothing && length != 0 && length < header + 4 {
        Some(Reason::Ipv4TooShort)
    } else if theirs == Found::Nothing
        && matches!(ours, Found::LaterFragment(_))
        && header > ip.len()
    {
        Some(Reason::Ipv4OptionsCut)
    } else {
        None
    }
}

/// Why what a packet says of an attempt is taken differently; `seen` is whether we see anything in it.
pub(super) fn of_attempt(ip: &[u8], is_ipv6: bool, seen: bool) -> Option<Reason> {
    let number = super::direct_protocol(ip, is_ipv6);
    if !monitor_common::attempt::is_icmp(number) {
        return of_segment(ip, is_ipv6, seen);
    }
    let header = if is_ipv6 {
        40
    } else {
        usize::from(ip.first()? & 0x0f) * 4
    };
    if !is_ipv6 && be16(ip, 6) & 0x1fff != 0 {
        return Some(Reason::ErrorInFragment);
    }
    if !is_ipv6 && (header < 20 || header > ip.len()) {
        return Some(Reason::OuterHeader);
    }
    let quote = ip.get(header + 8..)?;
    let (number, quoted) = if is_ipv6 {
        (*quote.get(6)?, 40)
    } else {
        (*quote.get(9)?, usize::from(quote.first()? & 0x0f) * 4)
    };
    let length = if is_ipv6 {
        be16(ip, 4) + 40
    } else {
        be16(ip, 2)
    };
    let quoted_length = if is_ipv6 {
        be16(quote, 4) + 40
    } else {
        be16(quote, 2)
    };
    if number != 6 && !seen {
        return Some(Reason::QuotedExtension);
    }
    if !is_ipv6 && be16(quote, 6) & 0x1fff != 0 {
        return Some(Reason::QuotedFragment);
    }
    if !is_ipv6 && (quoted < 20 || quoted > quote.len()) || quoted_length < quoted + 8 {
        return Some(Reason::QuotedHeaderLength);
    }
    (length < header + 8 + quoted + 8).then_some(Reason::ErrorTooShort)
}

fn of_segment(ip: &[u8], is_ipv6: bool, seen: bool) -> Option<Reason> {
    let Found::Packet {
        transport, length, ..
    } = super::theirs::ip(ip, is_ipv6)
    else {
        return None;
    };
    let end = if length == 0 {
        ip.len()
    } else {
        ip.len().min(length)
    };
    let tcp = usize::from(ip.get(transport + 12)? >> 4) * 4;
    (seen && transport + tcp.max(20) > end).then_some(Reason::TcpHeaderCut)
}
