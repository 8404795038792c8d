//! What happened, as events for observers and as a hash that two equal runs share.

use std::fmt;
use std::time::Duration;

use crate::env::{Dir, FileName};
use crate::error::FileOp;
use crate::num::to_u64;

/// Whether an operation begins or ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum IoPhase {
    /// It was handed to the machine and is in flight.
    Submitted,
    /// It has taken effect. The task that waits for it has not run yet.
    Completed,
}

/// One of the two events in the life of an operation. Each has an I/O index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IoEvent {
    /// Begin or end.
    pub phase: IoPhase,
    /// What is done.
    pub op: FileOp,
    /// The directory it is done in.
    pub dir: Dir,
    /// The file, unless it is done to the directory.
    pub file: Option<FileName>,
    /// Where in the file, in bytes.
    pub offset: u64,
    /// How many bytes.
    pub len: u64,
    /// Whether the operation promises durability when it completes: syncs, durable writes, fills with zeros and
    /// creations of directories.
    pub durable: bool,
    /// Whether the operation may need space.
    pub grows: bool,
    /// Whether it is done to the cold target.
    pub cold: bool,
    /// The error number at its end; 0 for success.
    pub errno: i32,
}

impl fmt::Display for IoEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let phase = match self.phase {
            IoPhase::Submitted => "submit",
            IoPhase::Completed => "complete",
        };
        write!(f, "{phase} {} ", self.op)?;
        match self.file {
            Some(file) => write!(f, "{file}")?,
            None => write!(f, "{}", self.dir)?,
        }
        write!(f, " {}+{}", self.offset, self.len)?;
        if self.cold {
            f.write_str(" cold")?;
        }
        if self.durable {
            f.write_str(" durable")?;
        }
        if self.errno != 0 {
            write!(f, " errno {}", self.errno)?;
        }
        Ok(())
    }
}

/// The running hash and, if asked for, the text of a run.
#[derive(Debug)]
pub(super) struct Trace {
    hash: u64,
    lines: Option<Vec<String>>,
}

impl Trace {
    pub(super) fn new(lines: bool) -> Self {
        Self { hash: 0x6F70_656E_6769_6E65, lines: lines.then(Vec::new) }
    }

    pub(super) fn hash(&self) -> u64 {
        self.hash
    }

    pub(super) fn lines(&self) -> Vec<String> {
        self.lines.clone().unwrap_or_default()
    }

    /// A choice of the scheduler.
    pub(super) fn step(&mut self, now: Duration, choice: [usize; 3], text: impl FnOnce() -> String) {
        self.mix_time(now);
        choice.into_iter().for_each(|part| self.mix(to_u64(part)));
        self.line(now, text);
    }

    /// An I/O event.
    pub(super) fn io(&mut self, now: Duration, index: u64, event: &IoEvent) {
        self.mix_time(now);
        let dir = match event.dir {
            Dir::Root => 0,
            Dir::Shard(shard) => 1 + u64::from(shard),
        };
        let (kind, number) = event.file.map_or((0, 0), |file| (1 + file.kind as u64, file.number));
        let flags = u64::from(event.cold) << 2
            | u64::from(event.durable) << 1
            | u64::from(event.phase == IoPhase::Completed);
        let errno = u64::from(event.errno.unsigned_abs());
        for part in [index, event.op as u64, dir, kind, number, event.offset, event.len, flags, errno] {
            self.mix(part);
        }
        self.line(now, || format!("io {index}: {event}"));
    }

    fn line(&mut self, now: Duration, text: impl FnOnce() -> String) {
        if let Some(lines) = &mut self.lines {
            lines.push(format!("{:>12} us  {}", now.as_micros(), text()));
        }
    }

    fn mix_time(&mut self, now: Duration) {
        self.mix(now.as_secs());
        self.mix(u64::from(now.subsec_nanos()));
    }

    fn mix(&mut self, value: u64) {
        self.hash = (self.hash ^ value).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        self.hash ^= self.hash >> 29;
    }
}
