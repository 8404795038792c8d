//! Keys, values and versions as they lie in the arena.
//!
//! | bytes | field |
//! |---|---|
//! | 4 | the key's length in the low 11 bits; above it 0 = tombstone, all ones = the value ends with its chunk, else the value's length and 1 |
//! | 4 | in a key's first version: its newest one, if it has more; in others: the next older one |
//! | 4 | which commit wrote it |
//! | n | key, in a key's first version |
//! | n | value |
//!
//! A key lies once, with its first version. The index names that one, and it names the newest. The others form a chain,
//! newest first, that ends with the first one, or before it if that was replaced.

use op_engine_io::num::to_usize;

use crate::ids::Seq;
use crate::ops::{KEY_BYTES_MAX, VALUE_BYTES_MAX};

use super::arena::{Arena, Handle, SHARED_BYTES_MAX, is_shared};
use super::slots::Keys;

const HEADER_BYTES: usize = 12;
const KEY_BITS: u32 = 11;
const TOMBSTONE: u32 = 0;
const TO_END: u32 = u32::MAX >> KEY_BITS;

const _: () = assert!(KEY_BYTES_MAX < 1 << KEY_BITS);
const _: () = assert!(SHARED_BYTES_MAX < 1 << (u32::BITS - KEY_BITS - 1));

/// One version, in place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VersionRef<'a> {
    /// The commit that wrote it.
    pub seq: Seq,
    /// What it wrote; `None` deletes.
    pub value: Option<&'a [u8]>,
    /// Where to find it again.
    pub at: VersionAt,
}

/// Where a version lies, for as long as its memtable lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VersionAt(Handle);

#[derive(Debug, Clone, Copy)]
struct Header {
    key_len: usize,
    value: u32,
    link: Handle,
    commit: u32,
}

impl Header {
    fn new(key: &[u8], value: Option<&[u8]>, link: Handle, commit: u32) -> Self {
        assert!(key.len() <= KEY_BYTES_MAX, "keys have been checked");
        let value = match value {
            None => TOMBSTONE,
            Some(value) => {
                assert!(value.len() <= VALUE_BYTES_MAX, "values have been checked");
                let is_shared = is_shared(HEADER_BYTES + key.len() + value.len());
                if is_shared { low_bits(value.len() + 1) } else { TO_END }
            }
        };
        Self { key_len: key.len(), value, link, commit }
    }

    fn encode(self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        let lens = low_bits(self.key_len) | self.value << KEY_BITS;
        let fields = [lens.to_le_bytes(), self.link.to_le_bytes(), self.commit.to_le_bytes()];
        bytes.copy_from_slice(fields.as_flattened());
        bytes
    }

    fn decode(bytes: &[u8; HEADER_BYTES]) -> Self {
        let [l0, l1, l2, l3, link @ .., c0, c1, c2, c3] = *bytes;
        let lens = u32::from_le_bytes([l0, l1, l2, l3]);
        Self {
            key_len: to_usize(u64::from(lens % (1 << KEY_BITS))),
            value: lens >> KEY_BITS,
            link: Handle::from_le_bytes(link),
            commit: u32::from_le_bytes([c0, c1, c2, c3]),
        }
    }

    /// The key and the value, of what follows the header.
    fn split(self, body: &[u8]) -> (&[u8], Option<&[u8]>) {
        let (key, rest) = body.split_at(self.key_len);
        let value = match self.value {
            TOMBSTONE => None,
            TO_END => Some(rest),
            len => Some(rest.split_at(to_usize(u64::from(len - 1))).0),
        };
        (key, value)
    }
}

/// A length that was checked to be small.
fn low_bits(len: usize) -> u32 {
    match u32::try_from(len) {
        Ok(len) => len,
        Err(_) => unreachable!("no key or value has 4 GiB"),
    }
}

/// Every version of every key, by handle.
#[derive(Debug, Default)]
pub(super) struct Records {
    arena: Arena,
    commits: Vec<Seq>,
}

impl Records {
    /// Adds a key with its first version.
    pub(super) fn add_key(&mut self, key: &[u8], seq: Seq, value: Option<&[u8]>) -> Handle {
        self.add(key, seq, value, Handle::NONE)
    }

    /// Adds a version to a key; in the place of its newest one, and then the answer is `false`, if that has the same
    /// number.
    pub(super) fn add_version(&mut self, first: Handle, seq: Seq, value: Option<&[u8]>) -> bool {
        let newest = self.newest(first);
        let header = self.parse(newest).0;
        let newest_seq = self.seq(header);
        debug_assert!(newest_seq <= seq, "the versions of a key ascend");
        let is_new = newest_seq != seq;
        if !is_new && self.replace_in_place(newest, value) {
            return false;
        }
        let older = match (is_new, newest == first) {
            (true, _) => newest,
            (false, true) => Handle::NONE,
            (false, false) => header.link,
        };
        let added = self.add(&[], seq, value, older);
        let header = self.parse(first).0;
        self.rewrite(first, Header { link: added, ..header });
        is_new
    }

    /// The version that is here.
    pub(super) fn version(&self, at: VersionAt) -> VersionRef<'_> {
        let (header, body) = self.parse(at.0);
        VersionRef { seq: self.seq(header), value: header.split(body).1, at }
    }

    /// The versions of a key, newest first.
    pub(super) fn versions(&self, first: Handle) -> Versions<'_> {
        Versions { records: self, first, next: self.newest(first) }
    }

    /// What has been allocated.
    pub(super) fn bytes(&self) -> usize {
        self.arena.bytes() + self.commits.capacity() * size_of::<Seq>()
    }

    fn add(&mut self, key: &[u8], seq: Seq, value: Option<&[u8]>, link: Handle) -> Handle {
        if self.commits.last() != Some(&seq) {
            self.commits.push(seq);
        }
        let header = Header::new(key, value, link, low_bits(self.commits.len() - 1));
        self.arena.append([&header.encode(), key, value.unwrap_or_default()])
    }

    /// Overwrites the value of a version if the new one takes no more room.
    fn replace_in_place(&mut self, at: Handle, value: Option<&[u8]>) -> bool {
        let (header, body) = self.parse(at);
        let room = match header.split(body).1 {
            _ if header.value == TO_END => return false,
            Some(old) => old.len(),
            None => 0,
        };
        let value_code = match value {
            Some(value) if value.len() > room || header.value == TOMBSTONE => return false,
            Some(value) => low_bits(value.len() + 1),
            None => TOMBSTONE,
        };
        let body = self.rewrite(at, Header { value: value_code, ..header });
        let places = body.iter_mut().skip(header.key_len);
        places.zip(value.unwrap_or_default()).for_each(|(place, byte)| *place = *byte);
        true
    }

    /// Puts another header in front of what follows it.
    fn rewrite(&mut self, at: Handle, header: Header) -> &mut [u8] {
        let Some((head, body)) = self.arena.tail_mut(at).split_first_chunk_mut() else {
            unreachable!("a record has a header")
        };
        *head = header.encode();
        body
    }

    fn newest(&self, first: Handle) -> Handle {
        match self.parse(first).0.link {
            Handle::NONE => first,
            newest => newest,
        }
    }

    fn seq(&self, header: Header) -> Seq {
        let Some(seq) = self.commits.get(to_usize(u64::from(header.commit))) else {
            unreachable!("the commit was noted with the record")
        };
        *seq
    }

    fn parse(&self, at: Handle) -> (Header, &[u8]) {
        let Some((head, body)) = self.arena.tail(at).split_first_chunk() else {
            unreachable!("a record has a header")
        };
        (Header::decode(head), body)
    }
}

impl Keys for Records {
    /// The key whose first version is here.
    fn key(&self, first: Handle) -> &[u8] {
        let (header, body) = self.parse(first);
        header.split(body).0
    }
}

/// The versions of a key, newest first.
#[derive(Debug, Clone)]
pub struct Versions<'a> {
    records: &'a Records,
    first: Handle,
    next: Handle,
}

impl<'a> Iterator for Versions<'a> {
    type Item = VersionRef<'a>;

    fn next(&mut self) -> Option<VersionRef<'a>> {
        if self.next == Handle::NONE {
            return None;
        }
        let at = self.next;
        let (header, body) = self.records.parse(at);
        self.next = if at == self.first { Handle::NONE } else { header.link };
        Some(VersionRef { seq: self.records.seq(header), value: header.split(body).1, at: VersionAt(at) })
    }
}
