//! The state file, which a daemon before wrote: of another version, damaged, or changed by somebody.

use std::net::SocketAddrV4;
use std::time::Duration;

use monitor::fuzz;
use monitor::saved::{Saved, file};
use monitor::teredo::{Message, Packet};
use monitor_common::attempt::{Attempt, AttemptKey};
use monitor_common::{Direction, Family};

/// As `/proc/sys/kernel/random/boot_id` has it.
const BOOT: &str = "5a3c1f0e-1111-2222-3333-444455556666";

/// When the next daemon begins: with the times of the seeds, somewhat later.
const NOW: Duration = Duration::from_secs(1000);

/// What the next daemon finds in its map: attempts of the seeds, one of them answered since, and others.
fn records() -> [(AttemptKey, Attempt); 4] {
    let now = u64::try_from(NOW.as_nanos()).unwrap_or(u64::MAX);
    std::array::from_fn(|at| {
        let at = u32::try_from(at).unwrap_or_default();
        let key = AttemptKey {
            family: Family::Ipv4 as u32,
            sequence: at,
        };
        let attempt = Attempt {
            first_ns: now - 1_000_000_000,
            syn_ns: now - 1_000_000_000,
            passed_ns: now - 1_000_000_000,
            answered_ns: if at == 1 { now - 1 } else { 0 },
            dropped_ns: if at == 3 { now - 500_000_000 } else { 0 },
            direction: Direction::Outbound.code(),
            ..Attempt::default()
        };
        (key, attempt)
    })
}

/// A solicitation of each nonce of the seeds, and one of a client that nobody knows.
fn packets() -> [Packet; 3] {
    let client = |port| SocketAddrV4::new([10, 0, 0, 2].into(), port);
    [(50_000, 1), (50_000, 9), (50_001, 2)].map(|(port, nonce)| Packet {
        time: NOW,
        traffic: 1,
        direction: Direction::Outbound,
        dropped: None,
        source: client(port),
        destination: SocketAddrV4::new([192, 0, 2, 1].into(), 3544),
        message: Message::Solicitation {
            nonce: Some([nonce; 8]),
            cone: false,
        },
    })
}

/// A state file's content; and a whole file.
///
/// # Panics
///
/// Where content does not come back out of a file, a damaged one is taken, or what a daemon keeps after it has gone on
/// with what was kept is not read by the next one.
pub fn state_file(data: &[u8]) {
    let whole = file::encode(BOOT, data);
    assert_eq!(file::decode(BOOT, &whole), Ok(data));
    assert_eq!(file::decode("another", &whole), Err(file::Fault::Boot));
    for damaged in [0, whole.len() / 2, whole.len() - 1] {
        let mut bytes = whole.clone();
        bytes[damaged] ^= 0x10;
        assert!(file::decode(BOOT, &bytes).is_err(), "byte {damaged}");
    }
    if let Ok(content) = file::decode(BOOT, data) {
        assert_eq!(file::encode(BOOT, content), data);
    }
    for same_maps in [true, false] {
        // Each is read anew: it is used up.
        let Ok(saved) = Saved::from_bytes(data) else {
            return;
        };
        let bytes = fuzz::go_on(saved, same_maps, NOW, &records(), &packets()).expect("memory");
        let again = Saved::from_bytes(&bytes).expect("what we wrote");
        let later = NOW + Duration::from_secs(1);
        let more = fuzz::go_on(again, true, later, &records(), &packets()).expect("memory");
        // Times grow by a byte now and then, and what ended is added.
        assert!(more.len() <= 2 * bytes.len() + 4096, "{} bytes", more.len());
    }
}
