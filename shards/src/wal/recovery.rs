//! What a WAL holds when the store is opened, and the start of the next term.
//!
//! Nothing on disk is changed until [`Recovered::start_term`]. Each file is synced before it is read: what one shard
//! reports as its last commit decides what the others discard, so it must not vanish in the next crash.
//!
//! Files are taken in the order of their generations. A frame is alive if no later term cut it off. Alive frames form
//! a chain from the checkpoint: each names the commit before it. The chain ends at the first frame that is bad or does
//! not continue it; what lies beyond still tells the highest cut and the highest number.
//!
//! A file without a readable header was being created or reused when the power failed. A header is durable before the
//! first frame behind it, and a file is reused only when the checkpoint has passed all its frames. So if a frame that
//! names its own context verifies there above the checkpoint, the header is damaged.

use std::rc::Rc;

use op_engine_io::num::to_usize;
use op_engine_io::{Dir, Env, File, FileKind, FileName, OpenMode};

use super::pool::{FreeFile, Pool};
use super::{Covered, Current, LiveFile, State, Wal, WalConfig, WalStats, begin_file, context_of, wal_name};
use crate::error::{Error, Result};
use crate::ids::{Seq, ShardId, Term};
use crate::log::header::FileHeader;
use crate::log::reader::{Beyond, Expect, LogReader};
use crate::log::{Frame, FrameKind, Identity, Purpose, UNIT_BYTES, unit_ceil, unit_floor};
use crate::mutants::{self, Mutant};
use crate::reserve::Reserve;

/// Where the chain of commits ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WalEnd {
    /// The file.
    pub file: FileName,
    /// Where the next commit should be, in bytes.
    pub offset: u64,
}

/// What a WAL holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovered {
    /// The last commit of the unbroken chain.
    pub last: Seq,
    /// Where it ends.
    pub end: WalEnd,
    /// The highest commit that this shard knows to have been acknowledged.
    pub cut_mark: Seq,
    /// The highest number that was ever given, as far as this shard knows.
    pub seq_seen_max: Seq,
    /// The highest term of a file.
    pub term_max: Term,
    /// The highest generation of a file.
    pub generation_max: u64,
    /// Bytes behind the chain that look like frames: torn, dead, or not linked to it.
    pub dropped_tail_bytes: u64,
    /// The commits above the checkpoint, in the order of the chain.
    pub frames: Vec<Frame>,
    identity: Identity,
    flushed: Seq,
    files: Vec<FoundFile>,
    free: Vec<FreeFile>,
    next_number: u64,
}

/// A file with a readable header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FoundFile {
    header: FileHeader,
    bytes: u64,
    /// The highest number of a frame in it.
    seq_max: Seq,
    /// Whether it holds anything but marks.
    has_commits: bool,
    /// Behind its last good frame.
    end: u64,
}

impl FoundFile {
    fn live(&self) -> LiveFile {
        LiveFile { number: self.header.number, bytes: self.bytes, seq_max: self.seq_max }
    }
}

/// Reads the WAL of a shard whose checkpoint covers every commit up to `flushed`. Changes nothing on disk.
///
/// # Errors
/// If a file cannot be read, is not of this shard, or lost its header while its frames are needed.
pub async fn recover<E: Env>(env: &E, identity: Identity, flushed: Seq) -> Result<Recovered> {
    let dir = Dir::Shard(identity.shard.0);
    let names: Vec<FileName> =
        env.list(dir).await?.into_iter().filter(|name| name.kind == FileKind::Wal).collect();
    let mut walk = Walk::new(identity, flushed);
    if !names.is_empty() {
        env.sync_dir(dir).await?;
    }
    let mut opened = Vec::with_capacity(names.len());
    for name in names {
        walk.recovered.next_number = walk.recovered.next_number.max(next_number(name)?);
        let file = env.open(name, OpenMode::Read).await?;
        file.sync_data().await?;
        match read_header(env, &file, identity).await? {
            Some(header) => opened.push((header, file)),
            None => walk.without_header(env, file).await?,
        }
    }
    opened.sort_by_key(|(header, _)| header.generation);
    check_order(&opened)?;
    let cuts = cuts_by_later_terms(&opened);
    for ((header, file), cut) in opened.into_iter().zip(cuts) {
        walk.file(env, header, file, cut).await?;
    }
    Ok(walk.finish())
}

fn next_number(name: FileName) -> Result<u64> {
    name.number.checked_add(1).ok_or_else(|| Error::Foreign {
        file: name.to_string(),
        what: "its number is out of range".to_owned(),
    })
}

async fn read_header<E: Env>(env: &E, file: &E::File, identity: Identity) -> Result<Option<FileHeader>> {
    if file.len().await? < UNIT_BYTES {
        return Ok(None);
    }
    let buffer = env.buffer(to_usize(UNIT_BYTES)).await;
    let (buffer, outcome) = file.read_at(0, buffer).await;
    outcome?;
    FileHeader::decode(buffer.as_slice(), file.name(), Purpose::Wal, identity)
}

/// Generations are unique, and terms grow with them.
fn check_order<F: File>(opened: &[(FileHeader, F)]) -> Result<()> {
    for pair in opened.windows(2) {
        if let [(before, _), (after, file)] = pair
            && (before.generation == after.generation || before.term > after.term)
        {
            return Err(Error::corruption(file.name(), 0, "its generation contradicts that of another file"));
        }
    }
    Ok(())
}

/// For each file the number above which a later term declared its frames dead.
fn cuts_by_later_terms<F>(opened: &[(FileHeader, F)]) -> Vec<Seq> {
    opened
        .iter()
        .map(|(header, _)| {
            let later = opened.iter().filter(|(other, _)| other.term > header.term);
            later.map(|(other, _)| other.term_cut).min().unwrap_or(Seq::MAX)
        })
        .collect()
}

/// The state of a walk over all files.
struct Walk {
    recovered: Recovered,
    /// A frame was found that does not continue the chain. Nothing after it can.
    broken: bool,
}

impl Walk {
    fn new(identity: Identity, flushed: Seq) -> Self {
        let recovered = Recovered {
            last: flushed,
            end: WalEnd { file: wal_name(identity.shard, 0), offset: UNIT_BYTES },
            cut_mark: flushed,
            seq_seen_max: flushed,
            term_max: Term(0),
            generation_max: 0,
            dropped_tail_bytes: 0,
            frames: Vec::new(),
            identity,
            flushed,
            files: Vec::new(),
            free: Vec::new(),
            next_number: 0,
        };
        Self { recovered, broken: false }
    }

    /// A file that was being created or reused when the power failed.
    async fn without_header<E: Env>(&mut self, env: &E, file: E::File) -> Result<()> {
        let name = file.name();
        let bytes = unit_floor(file.len().await?);
        let identity = self.recovered.identity;
        let expect = Expect::Claimed { purpose: Purpose::Wal, identity, number: name.number };
        let found = LogReader::new(env, file, expect).await?.scan_beyond().await?;
        if found.seq > self.recovered.flushed {
            let what = format!("its header is unreadable, but it holds commits up to {}", found.seq);
            return Err(Error::corruption(name, 0, what));
        }
        self.note(&found);
        self.recovered.free.push(FreeFile { number: name.number, bytes });
        Ok(())
    }

    /// The frames of one file. Those above `term_cut` are dead.
    async fn file<E: Env>(
        &mut self,
        env: &E,
        header: FileHeader,
        file: E::File,
        term_cut: Seq,
    ) -> Result<()> {
        let bytes = unit_floor(file.len().await?);
        let mut reader = LogReader::new(env, file, Expect::Context(context_of(&header))).await?;
        self.note_header(&header);
        let mut seq_max = Seq::ZERO;
        let mut has_commits = false;
        let mut end = UNIT_BYTES;
        while let Some((offset, frame)) = reader.next().await? {
            seq_max = seq_max.max(frame.seq);
            has_commits |= frame.kind != FrameKind::Mark;
            end = reader.position();
            self.frame(frame, term_cut, WalEnd { file: reader.name(), offset }, end);
        }
        let nothing_found = self.recovered.frames.is_empty() && !self.broken;
        if nothing_found {
            self.recovered.end = WalEnd { file: reader.name(), offset: reader.position() };
        }
        let beyond = reader.scan_beyond().await?;
        self.note(&beyond);
        self.recovered.dropped_tail_bytes += beyond.bytes;
        has_commits |= beyond.frames > 0;
        let seq_max = seq_max.max(beyond.seq);
        self.recovered.files.push(FoundFile { header, bytes, seq_max, has_commits, end });
        Ok(())
    }

    /// One good frame at `at`, up to `end`.
    fn frame(&mut self, frame: Frame, term_cut: Seq, at: WalEnd, end: u64) {
        let found = &mut self.recovered;
        found.cut_mark = found.cut_mark.max(frame.cut);
        found.seq_seen_max = found.seq_seen_max.max(frame.seq);
        if frame.kind == FrameKind::Mark || frame.seq <= found.flushed {
            return;
        }
        let continues = !self.broken && frame.prev == found.last && frame.seq > found.last;
        if frame.seq > term_cut {
            found.dropped_tail_bytes += frame.file_bytes();
        } else if continues {
            found.last = frame.seq;
            found.end = WalEnd { file: at.file, offset: end };
            found.frames.push(frame);
        } else {
            if !self.broken && found.frames.is_empty() {
                found.end = at;
            }
            self.broken = true;
            found.dropped_tail_bytes += frame.file_bytes();
        }
    }

    /// A term begins with a tip that users have seen.
    fn note_header(&mut self, header: &FileHeader) {
        let found = &mut self.recovered;
        found.cut_mark = found.cut_mark.max(header.term_cut);
        found.seq_seen_max = found.seq_seen_max.max(header.seq_floor).max(header.prev);
        found.term_max = found.term_max.max(header.term);
        found.generation_max = found.generation_max.max(header.generation);
    }

    fn note(&mut self, beyond: &Beyond) {
        let found = &mut self.recovered;
        found.cut_mark = found.cut_mark.max(beyond.cut);
        found.seq_seen_max = found.seq_seen_max.max(beyond.seq);
        found.generation_max = found.generation_max.max(beyond.generation);
    }

    fn finish(self) -> Recovered {
        self.recovered
    }
}

impl Recovered {
    /// Refuses if a commit is missing here although it was acknowledged: by `acknowledged`, the highest mark of all
    /// shards, or by this shard's own.
    ///
    /// # Errors
    /// [`Error::AcknowledgedDataMissing`].
    pub fn check_acknowledged(&self, acknowledged: Seq) -> Result<()> {
        let acknowledged = acknowledged.max(self.cut_mark);
        if self.last >= acknowledged {
            return Ok(());
        }
        Err(Error::AcknowledgedDataMissing {
            shard: self.shard(),
            file: self.end.file.to_string(),
            offset: self.end.offset,
            found: self.last,
            acknowledged,
        })
    }

    /// Refuses if the WAL does not know the term in which the manifest was written: its newest file is gone.
    ///
    /// # Errors
    /// [`Error::Missing`].
    pub fn check_term(&self, manifest_term: Term) -> Result<()> {
        if self.term_max >= manifest_term {
            return Ok(());
        }
        Err(Error::Missing {
            file: wal_name(self.shard(), self.next_number).to_string(),
            what: format!(
                "a write-ahead log file of term {manifest_term} or later must be in this directory, the newest is of \
                 term {}",
                self.term_max
            ),
        })
    }

    /// The shard.
    #[must_use]
    pub fn shard(&self) -> ShardId {
        self.identity.shard
    }

    /// The files with commits of which the checkpoint covers everything, oldest first.
    #[must_use]
    pub fn covered(&self) -> Vec<Covered> {
        let covered = self.files.iter().filter(|file| file.has_commits && file.seq_max <= self.flushed);
        let name = |file: &FoundFile| wal_name(self.shard(), file.header.number);
        let covered = covered.map(|file| Covered { file: name(file), bytes: file.end, last: file.seq_max });
        covered.collect()
    }

    /// Starts a term in a fresh file. When this resolves, all frames above `cut` are dead for ever. No number up to
    /// `seq_floor` may be given from here on. Returns the log and the frames up to `cut`.
    ///
    /// However often a store is opened without a commit, it has no more files: one that the checkpoint covers is used
    /// again, as during a term, and one that holds nothing but marks goes.
    ///
    /// # Errors
    /// If the file cannot be created or written.
    pub async fn start_term<E: Env>(
        self,
        env: &E,
        config: WalConfig,
        reserve: Rc<Reserve<E>>,
        term: Term,
        cut: Seq,
        seq_floor: Seq,
    ) -> Result<(Wal<E>, Vec<Frame>)> {
        assert!(term > self.term_max, "terms grow");
        assert!(self.flushed <= cut && cut <= self.last, "the cut is a commit that this shard has");
        assert!(seq_floor >= self.seq_seen_max, "numbers that were seen are never given again");
        let config = config.normalised();
        let (mut free, unfit): (Vec<_>, Vec<_>) =
            self.free.iter().partition(|file| file.bytes == config.file_bytes);
        // The newest file says which term it is until the new one does. The others are as free as after a checkpoint.
        let (newest, older) = match self.files.split_last() {
            Some((newest, older)) => (Some(newest), older),
            None => (None, self.files.as_slice()),
        };
        let is_free = |file: &&FoundFile| file.bytes == config.file_bytes && file.seq_max <= self.flushed;
        let (reusable, older): (Vec<&FoundFile>, Vec<_>) = older.iter().partition(is_free);
        free.extend(reusable.iter().map(|file| FreeFile { number: file.header.number, bytes: file.bytes }));
        let pool = Pool::new(env, self.shard(), config, reserve, free, self.next_number);
        let header = FileHeader {
            purpose: Purpose::Wal,
            identity: self.identity,
            number: 0,
            generation: self.generation_max + 1,
            term,
            term_cut: cut,
            seq_floor,
            prev: cut,
        };
        let (header, current) = match newest {
            Some(newest) if mutants::active(Mutant::SkipNewTerm) => {
                (newest.header, self.go_on(env, newest).await?)
            }
            _ => {
                let fresh = pool.take(config.file_bytes).await?;
                let header = FileHeader { number: fresh.number, ..header };
                (header, begin_file(env, &fresh, &header).await?)
            }
        };
        // Only here is nothing of an earlier term needed except the frames between checkpoint and cut.
        let older =
            older.into_iter().chain(newest).filter(|file| file.header.generation != header.generation);
        let (older, marks): (Vec<_>, Vec<_>) =
            older.partition(|file| file.has_commits || file.seq_max <= self.flushed);
        let (released, closed): (Vec<_>, Vec<_>) =
            older.into_iter().map(FoundFile::live).partition(|file| file.seq_max <= self.flushed);
        let unfit = unfit.into_iter().map(|file| LiveFile {
            number: file.number,
            bytes: file.bytes,
            seq_max: Seq::ZERO,
        });
        pool.take_back(released.into_iter().chain(unfit).collect()).await?;
        // The new header knows all that a mark tells. Such a file is not used again: a mark in it may be above the
        // checkpoint, and would look like a commit if the next header were torn.
        pool.remove(marks.iter().map(|file| file.header.number).collect()).await?;
        pool.trim(config.free_files_max).await?;
        let state = State {
            current,
            closed: closed.into(),
            next_generation: header.generation + 1,
            last: cut,
            appending: false,
            failed: None,
            stats: WalStats::default(),
        };
        let wal = Wal {
            env: env.clone(),
            identity: self.identity,
            term: header.term,
            term_cut: header.term_cut,
            seq_floor: header.seq_floor,
            pool,
            state: state.into(),
        };
        let mut frames = self.frames;
        frames.retain(|frame| frame.seq <= cut);
        Ok((wal, frames))
    }

    /// The deliberate fault [`Mutant::SkipNewTerm`]: appends to the newest file as if nothing had happened.
    async fn go_on<E: Env>(&self, env: &E, newest: &FoundFile) -> Result<Current<E::File>> {
        let file = env.open(wal_name(self.shard(), newest.header.number), OpenMode::ReadWrite).await?;
        let position = unit_ceil(newest.end);
        Ok(Current {
            file,
            context: context_of(&newest.header),
            bytes: newest.bytes,
            position,
            written: position,
            synced: position,
            seq_max: newest.seq_max,
        })
    }
}
