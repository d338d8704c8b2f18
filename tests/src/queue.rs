//! A program that decides about queued packets (NFQUEUE), as intrusion prevention systems do: just
//! enough of `nfnetlink_queue` (`linux/netfilter/nfnetlink_queue.h`).

use std::io::{ErrorKind, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use socket2::{Domain, Protocol, Socket, Type};

use crate::netns::NetNs;

/// `NFNL_SUBSYS_QUEUE`, in the upper byte of message types.
const QUEUE: u16 = 3 << 8;
const NFQNL_MSG_PACKET: u16 = 0;
const NFQNL_MSG_VERDICT: u16 = 1;
const NFQNL_MSG_CONFIG: u16 = 2;
const NFQA_CFG_CMD: u16 = 1;
const NFQA_CFG_PARAMS: u16 = 2;
const NFQA_PACKET_HDR: u16 = 1;
const NFQA_VERDICT_HDR: u16 = 2;
const NFQNL_CFG_CMD_BIND: u8 = 1;
const NFQNL_COPY_META: u8 = 1;
/// From `linux/netlink.h`.
const NLMSG_ERROR: u16 = 2;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
/// Lengths of `struct nlmsghdr`, `struct nfgenmsg` and `struct nlattr`, bytes.
const NLMSGHDR: usize = 16;
const NFGENMSG: usize = 4;
const NLATTR: usize = 4;

/// How often the thread looks whether it should end.
const TICK: Duration = Duration::from_millis(50);

/// What is said of every packet, by its number in `linux/netfilter.h`.
#[derive(Clone, Copy, Debug)]
pub enum Answer {
    /// `NF_DROP`
    Drop = 0,
    /// `NF_ACCEPT`
    Accept = 1,
}

/// A listener on one queue of a namespace; ends on drop.
#[derive(Debug)]
pub struct Listener {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<u64>>>,
}

impl Listener {
    /// Binds the queue of this number and answers all that comes.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub fn start(netns: &NetNs, queue: u16, answer: Answer) -> Result<Self> {
        let mut socket = netns.run(|| {
            let domain = Domain::from(libc::AF_NETLINK);
            let protocol = Protocol::from(libc::NETLINK_NETFILTER);
            Ok(Socket::new(domain, Type::RAW, Some(protocol))?)
        })?;
        configure(
            &mut socket,
            queue,
            NFQA_CFG_CMD,
            &[NFQNL_CFG_CMD_BIND, 0, 0, 0],
        )
        .context("binding the queue")?;
        // No bytes of the packet itself.
        configure(
            &mut socket,
            queue,
            NFQA_CFG_PARAMS,
            &[0, 0, 0, 0, NFQNL_COPY_META],
        )
        .context("setting the queue up")?;
        socket.set_read_timeout(Some(TICK))?;
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let thread = std::thread::spawn(move || serve(&mut socket, queue, answer, &told));
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }

    /// Ends it, and says how many packets it decided about.
    ///
    /// # Errors
    ///
    /// When it failed.
    pub fn finish(mut self) -> Result<u64> {
        self.end().unwrap_or(Ok(0))
    }

    fn end(&mut self) -> Option<Result<u64>> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take()?;
        Some(
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
        )
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Some(Err(error)) = self.end() {
            eprintln!("the queue's listener: {error:#}");
        }
    }
}

/// One message with one attribute about a queue.
fn message(kind: u16, flags: u16, queue: u16, attribute: u16, value: &[u8]) -> Result<Vec<u8>> {
    let attribute_length = NLATTR + value.len();
    let length = NLMSGHDR + NFGENMSG + attribute_length.next_multiple_of(4);
    let mut bytes = Vec::new();
    bytes.extend(u32::try_from(length)?.to_ne_bytes());
    bytes.extend((QUEUE | kind).to_ne_bytes());
    bytes.extend((NLM_F_REQUEST | flags).to_ne_bytes());
    // Sequence number and sender: nobody looks.
    bytes.extend([0; 8]);
    // Family and version, then the queue.
    bytes.extend([0, 0]);
    bytes.extend(queue.to_be_bytes());
    bytes.extend(u16::try_from(attribute_length)?.to_ne_bytes());
    bytes.extend(attribute.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(length, 0);
    Ok(bytes)
}

/// Sends a request and waits for the kernel's word that it is done.
fn configure(socket: &mut Socket, queue: u16, attribute: u16, value: &[u8]) -> Result<()> {
    socket.write_all(&message(
        NFQNL_MSG_CONFIG,
        NLM_F_ACK,
        queue,
        attribute,
        value,
    )?)?;
    let mut buffer = [0; 4096];
    let length = socket.read(&mut buffer)?;
    let answer = &buffer[..length];
    ensure!(u16_at(answer, 4)? == NLMSG_ERROR, "an unexpected answer");
    let error = i32::from_ne_bytes(array(answer, NLMSGHDR)?);
    if error != 0 {
        bail!(std::io::Error::from_raw_os_error(-error));
    }
    Ok(())
}

fn serve(socket: &mut Socket, queue: u16, answer: Answer, stop: &AtomicBool) -> Result<u64> {
    let mut seen = 0;
    let mut buffer = vec![0; 65536];
    loop {
        let length = match socket.read(&mut buffer) {
            Ok(length) => length,
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) =>
            {
                // Only now: what came before the end is answered.
                if stop.load(Ordering::Relaxed) {
                    return Ok(seen);
                }
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        let mut rest = &buffer[..length];
        while rest.len() >= NLMSGHDR {
            let length = usize::try_from(u32::from_ne_bytes(array(rest, 0)?))?;
            let one = rest.get(..length).context("a message is cut off")?;
            if u16_at(one, 4)? == QUEUE | NFQNL_MSG_PACKET {
                let id = packet_id(one)?;
                let mut verdict = (answer as u32).to_be_bytes().to_vec();
                verdict.extend(id);
                let message = message(NFQNL_MSG_VERDICT, 0, queue, NFQA_VERDICT_HDR, &verdict)?;
                socket.write_all(&message)?;
                seen += 1;
            }
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
    }
}

/// The number that the kernel gave to a queued packet, as it stands there.
fn packet_id(message: &[u8]) -> Result<[u8; 4]> {
    let mut rest = message.get(NLMSGHDR + NFGENMSG..).unwrap_or_default();
    while rest.len() >= NLATTR {
        let length = usize::from(u16_at(rest, 0)?);
        if u16_at(rest, 2)? == NFQA_PACKET_HDR {
            return array(rest, NLATTR);
        }
        rest = rest
            .get(length.max(NLATTR).next_multiple_of(4)..)
            .unwrap_or_default();
    }
    bail!("a queued packet without a number")
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N]> {
    let part = bytes.get(at..at + N).context("a message is too short")?;
    Ok(part.try_into()?)
}

fn u16_at(bytes: &[u8], at: usize) -> Result<u16> {
    Ok(u16::from_ne_bytes(array(bytes, at)?))
}
