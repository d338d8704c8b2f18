//! What to type to look further: commands of Debian for who blocked what.
//!
//! They are made of addresses and ports only, which are numbers here: nothing that came from a packet
//! or over the network as text can get into a line that somebody pastes into a root shell. None has a
//! `|`: monitoring systems take what stands behind one as performance data.

use std::net::IpAddr;

use monitor_common::{Direction, Protocol};

use crate::attempt::{BlockedBy, Outcome};
use crate::traffic::Port;

/// The commands for a client and a target whose attempts ended like this, the most helpful first.
#[must_use]
pub fn commands(
    client: IpAddr,
    target: IpAddr,
    port: Option<Port>,
    direction: Direction,
    outcome: Outcome,
    blocked_by: BlockedBy,
) -> Vec<String> {
    let look = Look {
        client: client.to_canonical(),
        target: target.to_canonical(),
        port,
        direction,
    };
    match blocked_by {
        BlockedBy::LocalFirewall => vec![look.ruleset(), look.packets()],
        BlockedBy::LocalStack => look.routing(),
        BlockedBy::LocalOverload => look.overload(),
        BlockedBy::LocalConntrack => vec![
            "sysctl net.netfilter.nf_conntrack_count net.netfilter.nf_conntrack_max".to_owned(),
            "conntrack -S".to_owned(),
        ],
        BlockedBy::LocalHost => vec![look.listeners()],
        BlockedBy::RemoteHost => look.connect().into_iter().chain([look.packets()]).collect(),
        BlockedBy::Middlebox => vec![look.path(), look.icmp()],
        BlockedBy::Upstream => vec![look.path(), look.packets()],
        BlockedBy::None if outcome == Outcome::Offline => look.neighbour(),
        BlockedBy::None | BlockedBy::Unknown => {
            let mut commands = vec![look.packets(), look.path()];
            commands.extend(look.neighbour());
            commands
        }
    }
}

struct Look {
    client: IpAddr,
    target: IpAddr,
    port: Option<Port>,
    direction: Direction,
}

impl Look {
    /// The other end: for what comes in, the target is this host.
    const fn other(&self) -> IpAddr {
        match self.direction {
            Direction::Inbound => self.client,
            Direction::Outbound | Direction::Forwarded => self.target,
        }
    }

    /// The rules with this port, and all that drop or reject: a policy names no port.
    fn ruleset(&self) -> String {
        let port = self
            .port
            .map_or(String::new(), |port| format!(" -e {}", port.number));
        format!("grep -nw -e chain -e drop -e reject{port} <(nft -a list ruleset)")
    }

    /// What comes in and what goes out again, for each interface.
    fn packets(&self) -> String {
        let port = self.port.map_or(String::new(), |port| {
            format!(" and {} port {}", port.protocol.as_str(), port.number)
        });
        format!("tcpdump -nni any -c 20 'host {}{port}'", self.other())
    }

    /// Who sends the errors to the client.
    fn icmp(&self) -> String {
        let protocol = if self.client.is_ipv6() {
            "icmp6"
        } else {
            "icmp"
        };
        format!(
            "tcpdump -nni any -c 5 '{protocol} and host {}'",
            self.client
        )
    }

    fn path(&self) -> String {
        let method = self.port.map_or(String::new(), |port| {
            let flag = match port.protocol {
                Protocol::Tcp => 'T',
                Protocol::Udp => 'U',
            };
            format!(" -{flag} -p {}", port.number)
        });
        format!("traceroute -n{method} {}", self.other())
    }

    fn connect(&self) -> Option<String> {
        let port = self.port.filter(|port| port.protocol == Protocol::Tcp)?;
        let (other, number) = (self.other(), port.number);
        Some(format!(
            "timeout 3 bash -c ': </dev/tcp/{other}/{number}' && echo open"
        ))
    }

    fn listeners(&self) -> String {
        match self.port {
            None => "ss -lntup".to_owned(),
            Some(port) => {
                let flag = match port.protocol {
                    Protocol::Tcp => 't',
                    Protocol::Udp => 'u',
                };
                format!("ss -ln{flag}p 'sport = :{}'", port.number)
            }
        }
    }

    fn neighbour(&self) -> Vec<String> {
        let other = self.other();
        vec![
            format!("ip neigh show {other}"),
            format!("ip route get {other}"),
        ]
    }

    /// The way there and, for the check of the source, the way back; whether anything is forwarded.
    fn routing(&self) -> Vec<String> {
        let mut commands = Vec::new();
        if self.direction != Direction::Inbound {
            commands.push(format!("ip route get {}", self.target));
        }
        if self.direction != Direction::Outbound {
            commands.push(format!("ip route get {}", self.client));
        }
        commands.push(if self.target.is_ipv6() {
            "sysctl net.ipv6.conf.all.forwarding".to_owned()
        } else {
            "sysctl net.ipv4.ip_forward net.ipv4.conf.all.rp_filter".to_owned()
        });
        commands.push(
            "nstat -asz TcpExtIPReversePathFilter IpExtInNoRoutes IpOutNoRoutes Ip6InNoRoutes"
                .to_owned(),
        );
        commands
    }

    fn overload(&self) -> Vec<String> {
        let counters = "nstat -asz TcpExtListenOverflows TcpExtListenDrops TcpExtTCPBacklogDrop";
        let place = match self.direction {
            Direction::Inbound => self.listeners(),
            Direction::Outbound | Direction::Forwarded => "cat /proc/net/softnet_stat".to_owned(),
        };
        vec![counters.to_owned(), place]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(direction: Direction, outcome: Outcome, blocked_by: BlockedBy) -> Vec<String> {
        commands(
            "10.7.1.2".parse().unwrap(),
            "10.7.2.2".parse().unwrap(),
            Some("tcp/7680".parse().unwrap()),
            direction,
            outcome,
            blocked_by,
        )
    }

    #[test]
    fn each_blocker_has_its_commands() {
        use Direction::{Forwarded, Inbound};
        for (direction, outcome, blocked_by, wanted) in [
            (
                Forwarded,
                Outcome::Dropped,
                BlockedBy::LocalFirewall,
                "grep -nw -e chain -e drop -e reject -e 7680 <(nft -a list ruleset)",
            ),
            (
                Forwarded,
                Outcome::Dropped,
                BlockedBy::LocalStack,
                "ip route get 10.7.2.2",
            ),
            (
                Inbound,
                Outcome::Dropped,
                BlockedBy::LocalStack,
                "ip route get 10.7.1.2",
            ),
            (
                Forwarded,
                Outcome::Offline,
                BlockedBy::None,
                "ip neigh show 10.7.2.2",
            ),
            (
                Forwarded,
                Outcome::Unanswered,
                BlockedBy::Upstream,
                "traceroute -n -T -p 7680 10.7.2.2",
            ),
            (
                Inbound,
                Outcome::Refused,
                BlockedBy::LocalHost,
                "ss -lntp 'sport = :7680'",
            ),
            (
                Forwarded,
                Outcome::Refused,
                BlockedBy::RemoteHost,
                "timeout 3 bash -c ': </dev/tcp/10.7.2.2/7680' && echo open",
            ),
        ] {
            assert_eq!(ask(direction, outcome, blocked_by)[0], wanted);
        }
    }

    #[test]
    fn no_combination_is_without_a_command_or_has_a_pipe() {
        for direction in Direction::ALL {
            for outcome in Outcome::ALL {
                for blocked_by in BlockedBy::ALL {
                    let commands = ask(*direction, *outcome, *blocked_by);
                    assert!(!commands.is_empty(), "{outcome:?} {blocked_by:?}");
                    assert!(commands.iter().all(|c| !c.contains('|')), "{commands:?}");
                }
            }
        }
    }

    #[test]
    fn a_port_can_be_unknown_and_an_address_mapped() {
        let lines = |port: Option<Port>, target: &str| {
            let target = target.parse().unwrap();
            let client = "2001:db8::1".parse().unwrap();
            let blocked_by = BlockedBy::Upstream;
            commands(
                client,
                target,
                port,
                Direction::Outbound,
                Outcome::Unanswered,
                blocked_by,
            )
        };
        assert_eq!(
            lines(None, "::ffff:10.0.0.1"),
            [
                "traceroute -n 10.0.0.1",
                "tcpdump -nni any -c 20 'host 10.0.0.1'"
            ]
        );
        assert_eq!(
            lines(Some("udp/3544".parse().unwrap()), "2001:db8::2"),
            [
                "traceroute -n -U -p 3544 2001:db8::2",
                "tcpdump -nni any -c 20 'host 2001:db8::2 and udp port 3544'"
            ]
        );
    }
}
