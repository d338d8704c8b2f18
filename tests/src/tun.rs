//! A tun device with this process as its wire: no link header, and packets coalesced as virtio says.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::mem::zeroed;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;

use anyhow::{Context, Result, bail, ensure};

use crate::expect::Family;
use crate::netns::NetNs;
use crate::packet::{Packet, Protocol};

/// Types of coalesced packets in the header that goes before them (`linux/virtio_net.h`).
const VIRTIO_NET_HDR_F_NEEDS_CSUM: u8 = 1;
const VIRTIO_NET_HDR_GSO_TCPV4: u8 = 1;
const VIRTIO_NET_HDR_GSO_TCPV6: u8 = 4;
const VIRTIO_NET_HDR_GSO_UDP_L4: u8 = 5;

/// Length of that header.
const VIRTIO_NET_HDR: usize = 10;

/// Segmentation of UDP, from `linux/if_tun.h`.
const TUN_F_USO: u32 = 0x20 | 0x40;

/// A tun device in a namespace; it goes with this value.
#[derive(Debug)]
pub struct Tun {
    file: File,
    offload: bool,
}

impl Tun {
    /// Makes the device and sets it up. With `offload`, coalesced packets go in and out.
    ///
    /// # Errors
    ///
    /// When `/dev/net/tun` is missing or the kernel refuses.
    pub fn create(netns: &NetNs, name: &str, offload: bool) -> Result<Self> {
        let file = netns.run(|| {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .custom_flags(libc::O_NONBLOCK)
                .open("/dev/net/tun")
                .context("/dev/net/tun")?;
            // SAFETY: ifreq is plain data, all zeros are a valid value.
            let mut request: libc::ifreq = unsafe { zeroed() };
            ensure!(name.len() < request.ifr_name.len(), "{name} is too long");
            for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
                *to = libc::c_char::try_from(from)?;
            }
            let mut flags = libc::IFF_TUN | libc::IFF_NO_PI;
            if offload {
                flags |= libc::IFF_VNET_HDR;
            }
            request.ifr_ifru.ifru_flags = libc::c_short::try_from(flags)?;
            // SAFETY: TUNSETIFF reads and writes one ifreq, which lives across the call.
            let made = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
            ensure!(made == 0, "TUNSETIFF: {}", std::io::Error::last_os_error());
            if offload {
                let features = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6 | TUN_F_USO;
                // SAFETY: TUNSETOFFLOAD takes its argument by value.
                let set = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETOFFLOAD, features) };
                ensure!(
                    set == 0,
                    "TUNSETOFFLOAD: {}",
                    std::io::Error::last_os_error()
                );
            }
            Ok(file)
        })?;
        netns.ip(&format!("link set {name} up"))?;
        Ok(Self { file, offload })
    }

    /// Lets a packet come in.
    ///
    /// # Errors
    ///
    /// When the device refuses it.
    pub fn write(&mut self, packet: &[u8]) -> Result<()> {
        let header = [0; VIRTIO_NET_HDR];
        let header = if self.offload { &header[..] } else { &[] };
        self.write_all(header, packet)
    }

    /// Lets a coalesced packet come in, which stands for packets of `size` bytes of payload.
    ///
    /// # Errors
    ///
    /// When the device refuses it, or was made without offload.
    pub fn write_coalesced(&mut self, packet: &Packet, size: u16) -> Result<()> {
        let family = Family::of(packet.source);
        let (kind, transport, checksum) = match (packet.protocol, family) {
            (Protocol::Tcp, Family::V4) => (VIRTIO_NET_HDR_GSO_TCPV4, 20, 16_u16),
            (Protocol::Tcp, Family::V6) => (VIRTIO_NET_HDR_GSO_TCPV6, 20, 16),
            (Protocol::Udp, _) => (VIRTIO_NET_HDR_GSO_UDP_L4, 8, 6),
        };
        let start = u16::try_from(family.header())?;
        let mut header = vec![VIRTIO_NET_HDR_F_NEEDS_CSUM, kind];
        for field in [start + transport, size, start, checksum] {
            header.extend(field.to_ne_bytes());
        }
        self.write_all(&header, &packet.ip())
    }

    fn write_all(&mut self, header: &[u8], packet: &[u8]) -> Result<()> {
        let bytes = [header, packet].concat();
        let written = self
            .file
            .write(&bytes)
            .context("writing to the tun device")?;
        ensure!(
            written == bytes.len(),
            "{written} of {} bytes written",
            bytes.len()
        );
        Ok(())
    }

    /// Takes the next packet that went out, without what goes before it; `None` when there is none.
    ///
    /// # Errors
    ///
    /// When the device is gone.
    pub fn read(&mut self) -> Result<Option<Vec<u8>>> {
        let mut buffer = vec![0; 70_000];
        match self.file.read(&mut buffer) {
            Ok(len) => {
                buffer.truncate(len);
                let header = if self.offload { VIRTIO_NET_HDR } else { 0 };
                Ok(Some(buffer.split_off(header.min(len))))
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => bail!("reading from the tun device: {error}"),
        }
    }
}
