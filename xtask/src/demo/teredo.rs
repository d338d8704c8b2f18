//! What a Teredo client and its server say to each other (RFC 4380): a solicitation, and the advertisement
//! that answers it.

use std::sync::atomic::{AtomicU64, Ordering};

/// By what a client knows the answer to its own question.
type Nonce = [u8; 8];

/// The address of a client that has none yet: link-local, and behind no cone.
const CLIENT: [u8; 16] = [
    0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfe,
];
/// That of the server, as its advertisements have it.
const SERVER: [u8; 16] = [
    0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0x80, 0, 0xf5, 0xff, 0, 0, 0, 1,
];
/// `ff02::2`, all routers.
const ROUTERS: [u8; 16] = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
/// The client's port and address as the server sees them, every bit turned over.
const ORIGIN: [u8; 8] = [0, 0, 0x12, 0x34, 0xf5, 0xb1, 0xfe, 0xfd];

/// A nonce that nobody else has here.
pub(super) fn nonce() -> Nonce {
    static LAST: AtomicU64 = AtomicU64::new(0);
    (LAST.fetch_add(1, Ordering::Relaxed) + 1).to_be_bytes()
}

/// A client's question: is a server there?
pub(super) fn solicitation(nonce: Nonce) -> Vec<u8> {
    let packet = icmp(CLIENT, ROUTERS, &[133, 0, 0, 0, 0, 0, 0, 0]);
    [&authentication(nonce)[..], &packet].concat()
}

/// What a server answers; none to what is no solicitation.
pub(super) fn answer(question: &[u8]) -> Option<Vec<u8>> {
    let nonce = *question.get(4..)?.first_chunk()?;
    if question != solicitation(nonce) {
        return None;
    }
    let mut message = [0; 48];
    message[0] = 134;
    let packet = icmp(SERVER, CLIENT, &message);
    Some([&authentication(nonce)[..], &ORIGIN, &packet].concat())
}

/// Whether this answers the question with that nonce.
pub(super) fn answers(message: &[u8], nonce: Nonce) -> bool {
    message.starts_with(&authentication(nonce)) && message.len() > solicitation(nonce).len()
}

/// The header of both, without a secret.
fn authentication(nonce: Nonce) -> [u8; 13] {
    let mut header = [0; 13];
    header[1] = 1;
    header[4..12].copy_from_slice(&nonce);
    header
}

/// An IPv6 packet with a message of `ICMPv6`.
fn icmp(source: [u8; 16], destination: [u8; 16], message: &[u8]) -> Vec<u8> {
    let length = u8::try_from(message.len()).unwrap_or(u8::MAX);
    let header = [0x60, 0, 0, 0, 0, length, 58, 255];
    [&header[..], &source, &destination, message].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_are_as_long_as_real_ones() {
        let question = solicitation(nonce());
        assert_eq!(question.len(), 61);
        assert_eq!(answer(&question).unwrap().len(), 109);
        assert_eq!(answer(&question[1..]), None);
    }

    #[test]
    fn an_answer_is_for_one_client() {
        let (mine, other) = (nonce(), nonce());
        let message = answer(&solicitation(mine)).unwrap();
        assert!(answers(&message, mine));
        assert!(!answers(&message, other));
        assert!(!answers(&solicitation(mine), mine));
    }
}
