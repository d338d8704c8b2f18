//! What a glance says is what the parser says: the kernel programs leave a packet alone on its word.

use monitor_common::attempt::is_icmp;
use monitor_common::packet::{
    Bytes, Headers, Ports, Reader as _, TCP_FLAGS_OFFSET, TcpFlags, glance_ipv4, glance_ipv6,
    glance_ipv6_extended,
};
use monitor_common::{Family, Protocol};

/// Compares both on a packet whose parsed headers are given.
///
/// # Panics
///
/// Where they differ.
pub(super) fn agrees(frame: &[u8], network: u32, family: Family, headers: Option<&Headers>) {
    let reader = Bytes(frame);
    let (glance, number) = match family {
        Family::Ipv4 => (glance_ipv4(&reader, network), 9),
        Family::Ipv6 => {
            let plain = glance_ipv6(&reader, network);
            let glance = plain.or_else(|| glance_ipv6_extended(&reader, network));
            (glance, 6)
        }
    };
    let Some(glance) = glance else {
        return;
    };
    let Some(headers) = headers else {
        // Its length lies. It is nobody's, as long as it is not of ICMP.
        assert_eq!(glance.length(), 0, "{frame:02x?}");
        let number = reader.get::<u8>(network + number);
        assert_eq!(number.map(is_icmp), Some(false), "{frame:02x?}");
        return;
    };
    assert_eq!(headers.later_fragment, 0, "{frame:02x?}");
    let is_tcp = headers.protocol == u32::from(Protocol::Tcp.code());
    let ports = reader.get::<Ports>(headers.transport);
    let flags = match reader.get::<TcpFlags>(headers.transport + TCP_FLAGS_OFFSET) {
        Some(flags) if is_tcp => flags.flags,
        _ => 0,
    };
    assert_eq!(
        (
            glance.is_tcp,
            Some(glance.ports),
            glance.flags,
            glance.length(),
            network + glance.header,
        ),
        (is_tcp, ports, flags, headers.length, headers.transport),
        "{frame:02x?}"
    );
}
