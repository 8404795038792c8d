//! Copies of WAL files and of segments that a reorg has killed, kept in the cold target instead of being lost.
//!
//! A copy is the file as it was. That of a WAL file is named by the number of the last commit in it, so the copies of a shard in
//! the order of their names have every commit once or more; that of a segment is named like the file. Nothing here reads or
//! removes them.
//!
//! Files wait for their copies, but not for ever: where the store's own device runs short, or too many wait, they go without.

use op_engine_io::num::{to_u64, to_usize};
use op_engine_io::{
    ColdFault, ColdStore, ColdUpload as _, Dir, Env, Error as IoError, File as _, FileKind, FileName,
    OpenMode,
};

use crate::error::Result;
use crate::ids::Seq;
use crate::segment::ColdPace;
use crate::wal::Covered;

use super::Shard;

/// What is copied at once.
const COPY_BYTES: u64 = 1 << 20;
/// WAL files that wait for their copies at most.
const WAITING_MAX: usize = 16;

/// Copies the first bytes of a file to the cold target, unless a copy of that length is there.
pub(super) async fn copy_out<E: Env>(
    env: &E,
    from: FileName,
    bytes: u64,
    to: FileName,
    pace: &ColdPace,
) -> Result<()> {
    let Some(target) = env.cold() else { return Ok(()) };
    match target.length(to).await {
        Ok(length) if length == bytes => return Ok(()),
        Ok(_) | Err(IoError::Cold { fault: ColdFault::Missing, .. }) => {}
        Err(error) => return Err(error.into()),
    }
    let file = env.open(from, OpenMode::Read).await?;
    let mut upload = target.upload(to).await?;
    let mut offset = 0;
    while offset < bytes {
        let wanted = COPY_BYTES.min(bytes - offset);
        let buf = env.read_buffer(to_usize(wanted)).await;
        let (buf, read) = file.read_at(offset, buf).await;
        read?;
        pace.wait(env, wanted).await;
        upload.append(buf.as_slice().iter().take(to_usize(wanted)).copied().collect()).await?;
        offset += wanted;
        env.yield_now().await;
    }
    Ok(upload.finish().await?)
}

/// The name of the copy of a WAL file whose last commit has this number.
pub(super) fn wal_copy_name(dir: Dir, last: Seq) -> FileName {
    FileName { dir, kind: FileKind::Wal, number: last.0 }
}

impl<E: Env> Shard<E> {
    fn archives(&self, is_wanted: bool) -> bool {
        is_wanted && self.env.cold().is_some() && self.state.borrow().catalog.cold_mark.is_some()
    }

    /// Whether segments that a reorg has killed wait to be copied.
    pub(super) fn archives_orphans(&self) -> bool {
        self.archives(self.config.archives_orphans) && !self.shortage.holds_merges()
    }

    /// Gives up WAL files that a checkpoint covers, or has them wait for their copies.
    pub(super) async fn release_wal(&self, through: Seq) -> Result<()> {
        let wal = &self.writer().wal;
        if !self.archives(self.config.archives_wal) {
            return wal.release(through).await;
        }
        self.tiering.cover_wal(through);
        let waiting = wal.covered(through);
        let too_many = waiting.len().saturating_sub(WAITING_MAX);
        let given_up = if self.shortage.holds_flushes() { waiting.len() } else { too_many };
        if let Some(last) = given_up.checked_sub(1).and_then(|at| waiting.get(at)) {
            self.tiering.note_not_archived(to_u64(given_up));
            wal.release(last.last).await?;
        }
        Ok(())
    }

    /// Copies the next file that waits. Tells whether there was one.
    pub(super) async fn archive_something(&self) -> Result<bool> {
        let dir = Dir::Shard(self.identity.shard.0);
        if self.archives(self.config.archives_wal) {
            let wal = &self.writer().wal;
            if let Some(Covered { file, bytes, last }) =
                wal.covered(self.tiering.covered_wal()).first().copied()
            {
                copy_out(&self.env, file, bytes, wal_copy_name(dir, last), &self.tiering.pace()).await?;
                wal.release(last).await?;
                self.tiering.note_archived();
                return Ok(true);
            }
        }
        if self.archives_orphans()
            && let Some((collection, number, bytes)) = self.orphan_to_archive()
        {
            self.claims.set_moving(&[number]);
            let name = self.home.file_name(number);
            let copied = copy_out(&self.env, name, bytes, name, &self.tiering.pace()).await;
            self.claims.set_moving(&[]);
            copied?;
            self.discard_if_room(collection, vec![number]).await?;
            self.tiering.note_archived();
            return Ok(true);
        }
        Ok(false)
    }
}
