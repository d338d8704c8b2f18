//! Devices without link header, and packets that a virtual machine's device has coalesced: the kernel
//! knows the size of the pieces, not their number.

use std::net::UdpSocket;

use anyhow::{Result, ensure};

use super::interfaces::{wait_attached, wait_gone};
use super::{BOTH, HTTPS, Trial, compare, https};
use crate::case::PAYLOAD;
use crate::expect::{Expected, Family};
use crate::lab::{GATEWAY, Lab, Net, PEER, SERVER, address};
use crate::packet::{Packet, Protocol, flags};
use crate::scrape::{Counts, rise};
use crate::send::send_datagrams;
use crate::tun::Tun;
use crate::wait::{DEADLINE, until};

pub(super) const TRIALS: &[Trial] = &[
    Trial {
        name: "tun/without_link_header",
        families: BOTH,
        run: |lab, family| with_tun(lab, family, false, without_link_header),
    },
    Trial {
        name: "tun/virtio_tso_forwarded",
        families: BOTH,
        run: |lab, family| with_tun(lab, family, true, tso_forwarded),
    },
    Trial {
        name: "tun/virtio_tso_dropped",
        families: BOTH,
        run: |lab, family| with_tun(lab, family, true, tso_dropped),
    },
    Trial {
        name: "tun/virtio_uso_inbound",
        families: BOTH,
        run: |lab, family| with_tun(lab, family, true, uso_inbound),
    },
];

const COUNT: u64 = 6;
/// Payload of a coalesced packet, and of each packet that it stands for: four full ones and a rest.
const COALESCED: usize = 4300;
const SIZE: u16 = 1000;
const SEGMENTS: u64 = 5;

/// A gateway's tun device and what a trial needs of it.
struct Scene<'a> {
    lab: &'a Lab,
    family: Family,
    name: String,
    tun: Tun,
}

impl Scene<'_> {
    /// A packet from behind the device.
    fn packet(&self, protocol: Protocol, to: (Net, u8), payload: usize) -> Packet {
        let source = (address(self.family, Net::Tun, PEER), self.lab.port());
        let to = (address(self.family, to.0, to.1), HTTPS);
        let mut packet = Packet::new(protocol, source, to);
        packet.tcp_flags = flags::ACK;
        packet.payload = payload;
        packet
    }

    fn finish(&self, what: &str, before: &Counts, expected: &Expected) -> Result<()> {
        let reached = until("the expected counts", DEADLINE, || {
            Ok(expected
                .reached_by(&rise(before, &self.lab.daemon.scrape()?)?)
                .then_some(()))
        });
        compare(what, expected, &rise(before, &self.lab.daemon.settled()?)?)?;
        reached
    }
}

/// Makes the device, runs the trial, and waits until the daemon has forgotten the device.
fn with_tun(
    lab: &Lab,
    family: Family,
    offload: bool,
    trial: fn(&mut Scene<'_>) -> Result<()>,
) -> Result<()> {
    let name = format!("tun{}", lab.port());
    let tun = Tun::create(&lab.gw, &name, offload)?;
    for (family, bits, nodad) in [(Family::V4, 24, ""), (Family::V6, 64, "nodad")] {
        let own = address(family, Net::Tun, GATEWAY);
        lab.gw
            .ip(&format!("address add {own}/{bits} dev {name} {nodad}"))?;
    }
    wait_attached(lab, &name)?;
    let mut scene = Scene {
        lab,
        family,
        name,
        tun,
    };
    trial(&mut scene)?;
    let Scene { name, tun, .. } = scene;
    drop(tun);
    wait_gone(lab, &name)
}

/// Out through the device, and in to a socket.
fn without_link_header(scene: &mut Scene<'_>) -> Result<()> {
    let (lab, family) = (scene.lab, scene.family);
    let bytes = COUNT * (family.header() + 8 + PAYLOAD as u64);
    let before = lab.daemon.settled()?;
    let to = Lab::socket(family, Net::Tun, PEER, HTTPS);
    send_datagrams(&lab.gw, to, PAYLOAD, COUNT)?;
    let mut expected = Expected::nothing();
    expected.allowed(
        https(Protocol::Udp, family, "outbound", "request"),
        &scene.name,
        COUNT,
        bytes,
    );
    scene.finish("out through a tun device", &before, &expected)?;
    let mut arrived = 0;
    while let Some(packet) = scene.tun.read()? {
        // Besides the datagrams there may be neighbour discovery.
        arrived += u64::from(packet.len() as u64 * COUNT == bytes);
    }
    ensure!(
        arrived == COUNT,
        "{arrived} datagrams came out of the device"
    );

    let own = Lab::socket(family, Net::Tun, GATEWAY, HTTPS);
    let socket = lab.gw.run(|| Ok(UdpSocket::bind(own)?))?;
    socket.set_read_timeout(Some(DEADLINE))?;
    let before = lab.daemon.settled()?;
    for _ in 0..COUNT {
        let packet = scene.packet(Protocol::Udp, (Net::Tun, GATEWAY), PAYLOAD);
        scene.tun.write(&packet.ip())?;
    }
    let mut expected = Expected::nothing();
    expected.allowed(
        https(Protocol::Udp, family, "inbound", "request"),
        &scene.name,
        COUNT,
        bytes,
    );
    scene.finish("in through a tun device", &before, &expected)?;
    for _ in 0..COUNT {
        socket.recv(&mut [0; 64])?;
    }
    Ok(())
}

/// Writes coalesced TCP segments towards the server, and says how many bytes they have.
fn write_tso(scene: &mut Scene<'_>) -> Result<u64> {
    let mut bytes = 0;
    for _ in 0..COUNT {
        let packet = scene.packet(Protocol::Tcp, (Net::Wan, SERVER), COALESCED);
        bytes += packet.ip().len() as u64;
        scene.tun.write_coalesced(&packet, SIZE)?;
    }
    Ok(bytes)
}

fn tso_forwarded(scene: &mut Scene<'_>) -> Result<()> {
    let before = scene.lab.daemon.settled()?;
    let bytes = write_tso(scene)?;
    let kind = https(Protocol::Tcp, scene.family, "forwarded", "request");
    let mut expected = Expected::nothing();
    expected.allowed(kind, "wan0", COUNT * SEGMENTS, bytes);
    scene.finish("coalesced segments forwarded", &before, &expected)
}

fn tso_dropped(scene: &mut Scene<'_>) -> Result<()> {
    let rule = format!("tcp dport {HTTPS} drop");
    scene.lab.gw.nft(&format!(
        "table inet wall {{ chain it {{ type filter hook forward priority 0; {rule}; }}; }}"
    ))?;
    let before = scene.lab.daemon.settled()?;
    let bytes = write_tso(scene)?;
    let kind = https(Protocol::Tcp, scene.family, "forwarded", "request");
    let reason = ("firewall", "NETFILTER_DROP");
    let mut expected = Expected::nothing();
    expected.dropped(kind, reason, &scene.name, COUNT * SEGMENTS, bytes);
    scene.finish("coalesced segments dropped", &before, &expected)?;
    scene.lab.gw.nft("delete table inet wall")
}

/// A socket that takes no coalesced datagrams gets them one by one.
fn uso_inbound(scene: &mut Scene<'_>) -> Result<()> {
    let (lab, family) = (scene.lab, scene.family);
    let own = Lab::socket(family, Net::Tun, GATEWAY, HTTPS);
    let socket = lab.gw.run(|| Ok(UdpSocket::bind(own)?))?;
    socket.set_read_timeout(Some(DEADLINE))?;
    let before = lab.daemon.settled()?;
    for _ in 0..COUNT {
        let packet = scene.packet(Protocol::Udp, (Net::Tun, GATEWAY), COALESCED);
        scene.tun.write_coalesced(&packet, SIZE)?;
    }
    for _ in 0..COUNT * SEGMENTS {
        socket.recv(&mut [0; 2048])?;
    }
    let bytes = COUNT * (SEGMENTS * (family.header() + 8) + COALESCED as u64);
    let kind = https(Protocol::Udp, family, "inbound", "request");
    let mut expected = Expected::nothing();
    expected.allowed(kind, &scene.name, COUNT * SEGMENTS, bytes);
    scene.finish("coalesced datagrams delivered", &before, &expected)
}
