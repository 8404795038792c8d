//! How far work in the background has come, as it is stored.
//!
//! Each piece of work has one record, changed by the same commits that do the work, in a collection that follows reorgs if
//! the work does. So whatever a reorg or a crash takes away of the work, it takes away of the record, and the two agree at
//! every view.

use std::collections::BTreeMap;

use op_engine_io::mailbox::Sender;
use op_engine_io::reply;
use op_engine_shards::bytes::{ByteReader, ByteWriter, Malformed};
use op_engine_shards::message::{Direction, KeyRange, Request, ScanRequest, Select};
use op_engine_shards::ops::KEY_BYTES_MAX;
use op_engine_shards::visibility::Scope;
use op_engine_shards::{CollectionId, Error as StorageError, Seq};

use crate::engine::system;
use crate::error::{Error, Result};

const VERSION: u8 = 1;
/// Bytes of the reason of a failure at most.
const REASON_BYTES_MAX: usize = 2048;
/// Rows that are read at once.
const PAGE_ROWS: usize = 1000;

/// A place in a collection: everything on lower shards, and what is not above a key on this one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Position {
    pub(crate) shard: u16,
    /// The last key on the shard that was done; none yet if absent.
    pub(crate) after: Option<Vec<u8>>,
}

/// How far an index has been filled, or a collection been purged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Everything up to a position is done.
    Running(Position),
    /// Everything is done, by this commit.
    Complete(Seq),
    /// It cannot be done.
    Failed(String),
}

/// A stored record of work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Work {
    pub(crate) stage: Stage,
    /// Records that were looked at.
    pub(crate) records: u64,
    /// Records that were removed: by purging only.
    pub(crate) removed: u64,
    /// The height below which is being purged, or was.
    pub(crate) below: u64,
}

impl Default for Work {
    fn default() -> Self {
        Self { stage: Stage::Running(Position::default()), records: 0, removed: 0, below: 0 }
    }
}

impl Work {
    /// Writes the record.
    ///
    /// | bytes | field |
    /// |---|---|
    /// | 1 | version, 1 |
    /// | 8, 8, 8 | records looked at, records removed, height below which is purged |
    /// | 1 | 1 = running, 2 = complete, 3 = failed; from 1, so that zeros never decode |
    /// | 2 | shard; if running |
    /// | 1 | 1 = nothing of the shard is done, 2 = the next field follows; if running |
    /// | varint + n | the last key that is done; if running |
    /// | 8 | the commit that completed it; if complete |
    /// | varint + n | why, UTF-8; if failed |
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = ByteWriter::new();
        out.u8(VERSION);
        out.u64(self.records);
        out.u64(self.removed);
        out.u64(self.below);
        match &self.stage {
            Stage::Running(Position { shard, after }) => {
                out.u8(1);
                out.u16(*shard);
                match after {
                    None => out.u8(1),
                    Some(key) => {
                        out.u8(2);
                        out.bytes(key);
                    }
                }
            }
            Stage::Complete(seq) => {
                out.u8(2);
                out.u64(seq.0);
            }
            Stage::Failed(why) => {
                out.u8(3);
                let mut end = why.len().min(REASON_BYTES_MAX);
                while !why.is_char_boundary(end) {
                    end -= 1;
                }
                out.bytes(why.get(..end).unwrap_or_default().as_bytes());
            }
        }
        out.into_vec()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut input = ByteReader::new(bytes);
        if input.u8()? != VERSION {
            return Err(Malformed("a record of work has an unknown version"));
        }
        let (records, removed, below) = (input.u64()?, input.u64()?, input.u64()?);
        let stage = match input.u8()? {
            1 => Stage::Running(Position {
                shard: input.u16()?,
                after: match input.u8()? {
                    1 => None,
                    2 => Some(input.bytes(KEY_BYTES_MAX)?.to_vec()),
                    _ => return Err(Malformed("a position is neither at a key nor before all")),
                },
            }),
            2 => Stage::Complete(Seq(input.u64()?)),
            3 => Stage::Failed(
                std::str::from_utf8(input.bytes(REASON_BYTES_MAX)?)
                    .map_err(|_| Malformed("a reason is not UTF-8"))?
                    .to_owned(),
            ),
            _ => return Err(Malformed("work is at an unknown stage")),
        };
        input.finish()?;
        Ok(Self { stage, records, removed, below })
    }
}

/// The key of the work on a collection or index.
pub(crate) fn work_key(id: CollectionId) -> [u8; 4] {
    id.0.to_be_bytes()
}

/// All records of work that a view shows.
pub(crate) async fn load(shards: &[Sender<Request>], view: Seq) -> Result<BTreeMap<CollectionId, Work>> {
    let mut all = BTreeMap::new();
    for scope in [Scope::Chain, Scope::Global] {
        let collection = system::progress_spec(scope).id;
        for shard in shards {
            let mut range = KeyRange::all();
            loop {
                let (reply, answer) = reply();
                let request = ScanRequest {
                    view,
                    collection,
                    range: range.clone(),
                    direction: Direction::Forward,
                    rows_max: PAGE_ROWS,
                    bytes_max: usize::MAX,
                    goes_on: false,
                    select: Select::all(),
                    reply,
                };
                shard.send(Request::Scan(request)).await?;
                let page = answer.await??;
                for (key, value) in page.rows.iter() {
                    let (id, work) = decode_row(key, value)?;
                    all.insert(id, work);
                }
                match page.more_after {
                    Some(last) => range.start = std::ops::Bound::Excluded(last),
                    None => break,
                }
            }
        }
    }
    Ok(all)
}

/// A stored row.
pub(crate) fn decode_row(key: &[u8], value: &[u8]) -> Result<(CollectionId, Work)> {
    let id = key.try_into().map(|id| CollectionId(u32::from_be_bytes(id)));
    match (id, Work::decode(value)) {
        (Ok(id), Ok(work)) => Ok((id, work)),
        _ => {
            let what = "a record of work in the background does not decode".to_owned();
            Err(Error::Storage(StorageError::Corruption { file: ".".to_owned(), offset: 0, what }))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn works() -> Vec<Work> {
        let stages = [
            Stage::Running(Position::default()),
            Stage::Running(Position { shard: 3, after: Some(vec![0, 7, 255]) }),
            Stage::Complete(Seq(77)),
            Stage::Failed("twice: \u{fc}".to_owned()),
        ];
        stages.map(|stage| Work { stage, records: 500, removed: 3, below: 800_000 }).to_vec()
    }

    #[test]
    fn damaged_bytes_are_refused_or_are_another_record() {
        for work in works() {
            let bytes = work.encode();
            assert_eq!(Work::decode(&bytes), Ok(work.clone()));
            for len in 0..bytes.len() {
                assert!(Work::decode(&bytes[..len]).is_err(), "cut to {len} bytes");
            }
            assert!(Work::decode(&[bytes.as_slice(), &[0]].concat()).is_err());
            for (at, bit) in (0..bytes.len()).flat_map(|at| (0..8).map(move |bit| (at, bit))) {
                let mut damaged = bytes.clone();
                damaged[at] ^= 1 << bit;
                if let Ok(decoded) = Work::decode(&damaged) {
                    assert!(decoded != work && decoded.encode() == damaged, "bit {bit} of byte {at}");
                }
            }
        }
    }

    #[test]
    fn a_long_reason_is_cut_between_two_characters() {
        let why = "\u{20ac}".repeat(REASON_BYTES_MAX);
        let work = Work { stage: Stage::Failed(why.clone()), ..Work::default() };
        let Ok(Work { stage: Stage::Failed(cut), .. }) = Work::decode(&work.encode()) else {
            panic!("it decodes")
        };
        assert!(why.starts_with(&cut) && cut.len() > REASON_BYTES_MAX - 4);
    }
}
