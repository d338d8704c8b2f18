//! Clients that share what one client may use up.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An IPv4 address, or the first half of an IPv6 one: whoever has one address there has 2^64. All loopback
/// addresses are one: everybody on this host has all of them.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(super) struct Group(IpAddr);

impl Group {
    /// That of a client.
    pub(super) fn of(address: IpAddr) -> Self {
        let address = address.to_canonical();
        if address.is_loopback() {
            return Self(Ipv4Addr::LOCALHOST.into());
        }
        Self(match address {
            IpAddr::V4(_) => address,
            IpAddr::V6(v6) => {
                let prefix = u128::from(v6) & !u128::from(u64::MAX);
                Ipv6Addr::from(prefix).into()
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Group {
        Group::of(text.parse().unwrap())
    }

    #[test]
    fn an_ipv6_network_is_one_client() {
        assert_eq!(of("2001:db8:1:2::1"), of("2001:db8:1:2:ffff::9"));
        assert_ne!(of("2001:db8:1:2::1"), of("2001:db8:1:3::1"));
        assert_eq!(of("::ffff:10.0.0.1"), of("10.0.0.1"));
        assert_ne!(of("10.0.0.1"), of("10.0.0.2"));
        assert_ne!(of("::1"), of("::2"));
    }

    #[test]
    fn this_host_is_one_client() {
        for address in ["127.0.0.2", "127.255.0.1", "::1", "::ffff:127.8.0.1"] {
            assert_eq!(of(address), of("127.0.0.1"), "{address}");
        }
        assert_ne!(of("127.0.0.1"), of("128.0.0.1"));
    }
}
