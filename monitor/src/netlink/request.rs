//! Writing netlink requests.

use super::{NLM_F_REQUEST, NLMSGHDR};

const NLA_F_NESTED: u16 = 0x8000;

/// A request that is being written.
#[derive(Debug)]
pub(crate) struct Request {
    bytes: Vec<u8>,
}

impl Request {
    /// Begins with the header; the flag that it is a request is set.
    pub(crate) fn new(kind: u16, flags: u16, sequence: u32) -> Self {
        let mut bytes = Vec::with_capacity(256);
        // The length, at the end.
        bytes.extend(0_u32.to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend((flags | NLM_F_REQUEST).to_ne_bytes());
        bytes.extend(sequence.to_ne_bytes());
        // The kernel puts the socket's port in.
        bytes.resize(NLMSGHDR, 0);
        Self { bytes }
    }

    /// Adds bytes as they are; what follows begins at a multiple of four.
    pub(crate) fn raw(mut self, bytes: &[u8]) -> Self {
        self.bytes.extend(bytes);
        self.pad()
    }

    /// Adds an attribute.
    pub(crate) fn attribute(self, kind: u16, value: &[u8]) -> Self {
        self.with(kind, |this| this.raw(value), value.len())
    }

    /// Adds a text as an attribute, with the NUL at its end.
    pub(crate) fn text(self, kind: u16, text: &str) -> Self {
        self.attribute(kind, &[text.as_bytes(), b"\0"].concat())
    }

    /// Adds an attribute of attributes.
    pub(crate) fn nest(self, kind: u16, fill: impl FnOnce(Self) -> Self) -> Self {
        self.with(kind | NLA_F_NESTED, fill, 0)
    }

    /// Adds an attribute. Its length is `length` or, where that is 0, that of what was added. One that is too long for an
    /// attribute is left out.
    fn with(mut self, kind: u16, fill: impl FnOnce(Self) -> Self, length: usize) -> Self {
        let start = self.bytes.len();
        self.bytes.extend(0_u16.to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        let mut this = fill(self);
        let length = if length == 0 {
            this.bytes.len() - start
        } else {
            length + 4
        };
        if let Ok(length) = u16::try_from(length) {
            this.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        } else {
            // The kernel takes none that is so long.
            this.bytes.truncate(start);
        }
        this
    }

    fn pad(mut self) -> Self {
        let length = self.bytes.len().next_multiple_of(4);
        self.bytes.resize(length, 0);
        self
    }

    /// The whole message.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        let length = u32::try_from(self.bytes.len()).unwrap_or_default();
        self.bytes[..4].copy_from_slice(&length.to_ne_bytes());
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::{attribute, messages};

    #[test]
    fn an_attribute_that_is_too_long_is_left_out() {
        let long = "n".repeat(usize::from(u16::MAX));
        let request = Request::new(1, 0, 7).text(1, "short").text(2, &long);
        let bytes = request.nest(3, |inside| inside.text(4, "x")).finish();
        let all: Vec<_> = messages(&bytes).collect();
        assert_eq!((all.len(), all[0].sequence, all[0].flags), (1, 7, 1));
        assert_eq!(attribute(all[0].payload, 1), Some(b"short\0".as_slice()));
        assert_eq!(attribute(all[0].payload, 2), None);
        let inside = attribute(all[0].payload, 3).unwrap();
        assert_eq!(attribute(inside, 4), Some(b"x\0".as_slice()));
    }
}
