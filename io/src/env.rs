//! The seam between the engine and the world.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use crate::buf::IoBuf;
use crate::cold::ColdStore;
use crate::error::Result;
use crate::reply::{Disconnected, Reply};

/// A directory of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Dir {
    /// The store's own directory.
    Root,
    /// The directory of one shard.
    Shard(u16),
}

impl fmt::Display for Dir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => f.write_str("."),
            Self::Shard(shard) => write!(f, "shard-{shard:03}"),
        }
    }
}

/// What a file is for. It becomes the extension of its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FileKind {
    /// The store's identity: `.super`.
    Superblock,
    /// Write-ahead log: `.wal`.
    Wal,
    /// Log of the set of live segments: `.manifest`.
    Manifest,
    /// Immutable sorted file: `.segment`.
    Segment,
    /// Space that is kept for what must not fail: `.reserve`.
    Reserve,
    /// Immutable sorted file in the cold target: `.cold`.
    Cold,
}

impl FileKind {
    /// All kinds, in the order of their extensions' first use.
    pub const ALL: [Self; 6] =
        [Self::Superblock, Self::Wal, Self::Manifest, Self::Segment, Self::Reserve, Self::Cold];

    /// The extension of such a file's name.
    #[must_use]
    pub const fn extension(self) -> &'static str {
        match self {
            Self::Superblock => "super",
            Self::Wal => "wal",
            Self::Manifest => "manifest",
            Self::Segment => "segment",
            Self::Reserve => "reserve",
            Self::Cold => "cold",
        }
    }
}

/// The name of a file: a directory, a number and a kind. Nothing a user chose is ever part of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileName {
    /// The directory that holds it.
    pub dir: Dir,
    /// What it is for.
    pub kind: FileKind,
    /// Its number, unique for its kind and directory.
    pub number: u64,
}

impl FileName {
    /// The last part of the path: 16 hexadecimal digits and the kind's extension.
    #[must_use]
    pub fn leaf(&self) -> String {
        format!("{:016x}.{}", self.number, self.kind.extension())
    }

    /// Reads back what [`FileName::leaf`] wrote; `None` for any other name.
    #[must_use]
    pub fn parse(dir: Dir, leaf: &str) -> Option<Self> {
        let (digits, extension) = leaf.split_once('.')?;
        let kind = FileKind::ALL.into_iter().find(|kind| kind.extension() == extension)?;
        let number = u64::from_str_radix(digits, 16).ok()?;
        let name = Self { dir, kind, number };
        (name.leaf() == leaf).then_some(name)
    }
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.dir {
            Dir::Root => f.write_str(&self.leaf()),
            Dir::Shard(_) => write!(f, "{}/{}", self.dir, self.leaf()),
        }
    }
}

/// How to open a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenMode {
    /// Create it; fail if the name is taken.
    CreateNew,
    /// Open an existing file for reading and writing.
    ReadWrite,
    /// Open an existing file for reading only.
    Read,
}

/// What a write promises when it resolves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteSync {
    /// The bytes can be read back by this process. A crash may lose them.
    None,
    /// The bytes, and the length needed to read them, survive a crash. How (a linked fdatasync, a DSYNC write, a
    /// write and then a sync) is the calibrated sync mode of the world.
    Durable,
}

/// The scheduling class of a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TaskClass {
    /// Requests of users: reads, and accepting commits.
    Foreground,
    /// Making commits visible and durable.
    Commit,
    /// Flush, compaction, deletion. Such tasks yield after every [`Env::background_slice`].
    Background,
}

impl TaskClass {
    /// All classes, most urgent first.
    pub const ALL: [Self; 3] = [Self::Foreground, Self::Commit, Self::Background];
}

/// An open file. Clones share the descriptor, which is closed when the last clone is dropped and no operation on it
/// is in flight. An operation whose future is dropped still runs to its end in the background.
#[expect(
    clippy::len_without_is_empty,
    reason = "the length of a file takes an operation, and nobody asks whether it is 0"
)]
pub trait File: Clone + 'static {
    /// The name it was opened under.
    fn name(&self) -> FileName;

    /// Fills the whole buffer from `offset`, which is a multiple of the I/O unit.
    ///
    /// The buffer comes back whatever happens. Errors: [`crate::Error::ShortFile`] if the file ends first.
    fn read_at(&self, offset: u64, buf: IoBuf) -> impl Future<Output = (IoBuf, Result<()>)>;

    /// Writes the whole buffer at `offset`, which is a multiple of the I/O unit. May grow the file.
    fn write_at(&self, offset: u64, buf: IoBuf, sync: WriteSync)
    -> impl Future<Output = (IoBuf, Result<()>)>;

    /// Makes every write that has resolved so far durable, with the length needed to read it.
    fn sync_data(&self) -> impl Future<Output = Result<()>>;

    /// Fills bytes `0..bytes` with real zeros and makes them durable, so that later writes there change no metadata.
    fn zero_fill(&self, bytes: u64) -> impl Future<Output = Result<()>>;

    /// Takes space for bytes `0..bytes` from the filesystem without writing them: they read as zeros. Not durable.
    fn allocate(&self, bytes: u64) -> impl Future<Output = Result<()>>;

    /// Gives the space of bytes `from..to`, which are multiples of the I/O unit, back to the filesystem; the length stays.
    /// For bytes that nobody reads any more: from now on, and after a crash, they are what they were, or zeros. A
    /// filesystem that cannot do so keeps the space.
    fn release(&self, from: u64, to: u64) -> impl Future<Output = Result<()>>;

    /// The length in bytes.
    fn len(&self) -> impl Future<Output = Result<u64>>;
}

/// What one task host (a shard's core, or a service) may do to the world. Clones are handles to the same host.
pub trait Env: Clone + 'static {
    /// The files of this world.
    type File: File;

    /// The cold target of this world.
    type Cold: ColdStore;

    /// Starts a task on this host. A panic inside it ends the host and is reported to the [`PanicHook`].
    fn spawn(&self, class: TaskClass, name: &'static str, future: impl Future<Output = ()> + 'static);

    /// Time since the world began. Never goes back.
    fn now(&self) -> Duration;

    /// Resolves after `duration`.
    fn sleep(&self, duration: Duration) -> impl Future<Output = ()>;

    /// Lets the other runnable tasks of this host run once.
    fn yield_now(&self) -> impl Future<Output = ()>;

    /// How long a background task may run now before it yields.
    fn background_slice(&self) -> Duration {
        Duration::from_micros(500)
    }

    /// Tells that a user waits for this host, also if no foreground task runs: a commit that is to be durable.
    fn note_request(&self) {}

    /// Sets what background tasks get of the core while requests of users come in, in percent. Alone they get all of it.
    fn set_background_share(&self, percent: u32) {
        let _ = percent;
    }

    /// A random number, from the system or from the simulation's seed.
    fn random(&self) -> u64;

    /// A zeroed aligned buffer of `bytes`, rounded up to the I/O unit. Waits while the host's buffer memory is used up.
    fn buffer(&self, bytes: usize) -> impl Future<Output = IoBuf>;

    /// Like [`Env::buffer`], but the bytes may be left over from an earlier use: for a read that fills it.
    fn read_buffer(&self, bytes: usize) -> impl Future<Output = IoBuf> {
        self.buffer(bytes)
    }

    /// How many reads are worth having in flight at once on this host.
    fn read_depth(&self) -> usize;

    /// Opens or creates a file. A created file's name survives a crash only after [`Env::sync_dir`].
    fn open(&self, name: FileName, mode: OpenMode) -> impl Future<Output = Result<Self::File>>;

    /// Removes a file's name. Open handles stay usable. Durable only after [`Env::sync_dir`].
    fn remove(&self, name: FileName) -> impl Future<Output = Result<()>>;

    /// The files in a directory, in order of name; empty if the directory does not exist.
    ///
    /// Errors: [`crate::Error::ForeignFile`] for a name the engine never gives.
    fn list(&self, dir: Dir) -> impl Future<Output = Result<Vec<FileName>>>;

    /// Creates a directory and makes its name durable. Not an error if it is there.
    fn create_dir(&self, dir: Dir) -> impl Future<Output = Result<()>>;

    /// Makes the names created in and removed from a directory durable.
    fn sync_dir(&self, dir: Dir) -> impl Future<Output = Result<()>>;

    /// Runs work that keeps a core busy for long elsewhere: it reads and writes nothing but what it is given.
    fn off_core<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> impl Future<Output = Result<T>>;

    /// How full the filesystem of the store is.
    fn space(&self) -> impl Future<Output = Result<Space>>;

    /// Where data that is seldom read is kept; `None` if the store has no cold target.
    fn cold(&self) -> Option<Self::Cold>;
}

/// How full a filesystem is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Bytes that this process may still use. Others may use them first, and a quota may be lower.
    pub available_bytes: u64,
    /// The size of the filesystem in bytes.
    pub total_bytes: u64,
}

/// Where a host runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Pinned to the core chosen for this shard.
    Shard(u16),
    /// On any core: services that wait more than they work.
    Floating,
}

/// What is known of a task that panicked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PanicReport {
    /// The name of its host.
    pub host: String,
    /// The name of the task.
    pub task: &'static str,
    /// The panic's message.
    pub message: String,
}

/// Called with the report of every task that panics, on the thread of its host.
pub type PanicHook = Arc<dyn Fn(PanicReport) + Send + Sync>;

/// A running host.
#[derive(Debug)]
pub struct Running {
    finished: Reply<()>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Running {
    /// A host that reports through `finished` and, in the real world, runs on `thread`.
    #[must_use]
    pub fn new(finished: Reply<()>, thread: Option<std::thread::JoinHandle<()>>) -> Self {
        Self { finished, thread }
    }

    /// Resolves when the host has ended: its main future returned or panicked, and its operations are drained.
    pub async fn finished(mut self) {
        // Both an answer and a vanished host mean that it has ended.
        let _: Result<(), Disconnected> = Pin::new(&mut self.finished).await;
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// A machine, real or simulated, with one store's directory on it.
pub trait World: Clone + 'static {
    /// The hosts of this world.
    type Env: Env;

    /// Starts a host with `main` as its first task. When `main` returns, the host's other tasks are dropped, its
    /// operations drained, and it ends.
    ///
    /// # Errors
    /// If the thread or its ring cannot be set up.
    fn start<F, Fut>(&self, place: Place, name: &str, on_panic: PanicHook, main: F) -> Result<Running>
    where
        F: FnOnce(Self::Env) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + 'static;
}
