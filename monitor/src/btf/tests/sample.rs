//! BTF made by hand: the running kernel's has neither corrupt types nor another byte order.

/// Writes BTF by hand, in either byte order.
pub(super) struct Builder {
    big_endian: bool,
    types: Vec<u8>,
    strings: Vec<u8>,
    count: u32,
}

impl Builder {
    pub(super) fn new(big_endian: bool) -> Self {
        Self {
            big_endian,
            types: Vec::new(),
            strings: vec![0],
            count: 0,
        }
    }

    fn word(&self, value: u32) -> [u8; 4] {
        if self.big_endian {
            value.to_be_bytes()
        } else {
            value.to_le_bytes()
        }
    }

    fn string(&mut self, text: &str) -> u32 {
        if text.is_empty() {
            return 0;
        }
        let at = u32::try_from(self.strings.len()).unwrap();
        self.strings.extend_from_slice(text.as_bytes());
        self.strings.push(0);
        at
    }

    /// Adds a type and returns its number.
    pub(super) fn add(
        &mut self,
        name: &str,
        kind: u32,
        flag: bool,
        vlen: u32,
        size: u32,
        body: &[u32],
    ) -> u32 {
        let name = self.string(name);
        let info = (u32::from(flag) << 31) | (kind << 24) | vlen;
        for word in [name, info, size].iter().chain(body) {
            let bytes = self.word(*word);
            self.types.extend_from_slice(&bytes);
        }
        self.count += 1;
        self.count
    }

    fn int(&mut self, name: &str, bytes: u32) -> u32 {
        self.add(name, 1, false, 0, bytes, &[bytes * 8])
    }

    /// A struct of (name, type, offset) members, the offset as the format encodes it.
    pub(super) fn composite(
        &mut self,
        kind: u32,
        name: &str,
        flag: bool,
        members: &[(&str, u32, u32)],
    ) -> u32 {
        let mut body = Vec::new();
        for &(member, type_id, offset) in members {
            body.extend([self.string(member), type_id, offset]);
        }
        self.add(
            name,
            kind,
            flag,
            u32::try_from(members.len()).unwrap(),
            64,
            &body,
        )
    }

    pub(super) fn finish(self) -> Vec<u8> {
        let (types, strings) = (
            u32::try_from(self.types.len()).unwrap(),
            u32::try_from(self.strings.len()).unwrap(),
        );
        let magic = if self.big_endian {
            [0xeb, 0x9f]
        } else {
            [0x9f, 0xeb]
        };
        let mut file = vec![magic[0], magic[1], 1, 0];
        for word in [24, 0, types, types, strings] {
            file.extend_from_slice(&self.word(word));
        }
        file.extend_from_slice(&self.types);
        file.extend_from_slice(&self.strings);
        file
    }
}

/// A little kernel with one of everything.
pub(super) fn sample(big_endian: bool) -> Vec<u8> {
    let mut b = Builder::new(big_endian);
    let long = b.int("long unsigned int", 8);
    let int = b.int("unsigned int", 4);
    let byte = b.int("unsigned char", 1);
    let net = b.composite(4, "net", false, &[("inum", int, 96)]);
    let to_net = b.add("", 2, false, 0, net, &[]);
    let tagged = b.add("rcu", 18, false, 0, to_net, &[]);
    let possible = b.composite(4, "", false, &[("net", tagged, 0)]);
    let possible_net_t = b.add("possible_net_t", 8, false, 0, possible, &[]);
    let constant = b.add("", 10, false, 0, possible_net_t, &[]);
    // Bit-fields with their width beside them, inside anonymous members two deep.
    let bits = b.composite(
        4,
        "",
        true,
        &[
            ("low", byte, 3 << 24),
            ("", byte, (2 << 24) | 3),
            ("high", byte, (3 << 24) | 5),
        ],
    );
    let inner = b.composite(5, "", false, &[("", bits, 0), ("raw", byte, 0)]);
    let array = b.add("", 3, false, 0, 0, &[int, int, 5]);
    let narrow = b.add("narrow", 1, false, 0, 4, &[(4 << 16) | 6]);
    b.composite(
        4,
        "sk_buff",
        false,
        &[
            ("len", int, 0),
            ("data", to_net, 64),
            ("", inner, 128),
            ("nd_net", constant, 192),
            ("cb", array, 256),
            ("old_style", narrow, 416),
        ],
    );
    // Straddles a byte boundary, so two bytes have to be loaded.
    b.composite(
        4,
        "wide",
        true,
        &[("a", int, 4 << 24), ("b", int, (7 << 24) | 4)],
    );
    b.composite(4, "same", false, &[("twin", int, 0)]);
    b.composite(4, "same", false, &[("twin", int, 32)]);
    let (one, two) = (b.string("ONE"), b.string("MANY"));
    b.add("declared", 6, false, 0, 4, &[]);
    b.add("declared", 6, false, 2, 4, &[one, 1, two, 0xffff_0000]);
    b.add("signed", 6, true, 1, 4, &[one, 0xffff_fffe]);
    b.add("wide_values", 19, false, 1, 8, &[two, 5, 1]);
    let sk_buff = b.add("sk_buff", 7, false, 0, 0, &[]);
    let const_sk = b.add("", 10, false, 0, sk_buff, &[]);
    let skb = b.add("", 2, false, 0, const_sk, &[]);
    let void_pointer = b.add("", 2, false, 0, 0, &[]);
    let reason = b.add("skb_drop_reason", 6, false, 0, 4, &[]);
    let prototype = b.add(
        "",
        13,
        false,
        4,
        0,
        &[0, void_pointer, 0, skb, 0, void_pointer, 0, reason],
    );
    let pointer = b.add("", 2, false, 0, prototype, &[]);
    b.add("btf_trace_kfree_skb", 8, false, 0, pointer, &[]);
    b.add("tag", 17, false, 0, sk_buff, &[u32::MAX]);
    b.add("section", 15, false, 1, 8, &[long, 0, 8]);
    b.add("double", 16, false, 0, 8, &[]);
    b.finish()
}
