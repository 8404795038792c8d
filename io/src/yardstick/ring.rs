//! One file, one ring, and one buffer for each operation in flight.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use io_uring::squeue::{Entry, Flags};
use io_uring::{IoUring, opcode, types};

use crate::buf::IoBuf;

/// The file's place in the ring's table: it is the only one.
const FILE: types::Fixed = types::Fixed(0);
/// Marks the completion of a sync; slots stay far below.
const SYNC: u64 = 1 << 32;

/// How a write is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    Plain,
    /// An `fdatasync` linked to it.
    ThenSync,
    /// `RWF_DSYNC`.
    Dsync,
}

/// What an operation in flight is.
#[derive(Clone, Copy)]
struct Slot {
    started: Instant,
    completions_left: u8,
}

/// The ring of one loop.
pub(super) struct BareRing {
    /// Declared first: the kernel lets go of the buffers before they are freed.
    uring: IoUring,
    buffers: Vec<IoBuf>,
    slots: Vec<Slot>,
    in_flight: usize,
    completions: Vec<(u64, i32)>,
    buffers_are_registered: bool,
    /// Held open for the ring.
    _file: File,
}

impl BareRing {
    pub(super) fn new(file: File, depth: u32, unit_bytes: usize) -> io::Result<Self> {
        let uring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_coop_taskrun()
            .build((depth * 2).next_power_of_two())?;
        uring.submitter().register_files(&[file.as_raw_fd()])?;
        let mut buffers: Vec<_> = (0..depth).map(|_| IoBuf::zeroed(unit_bytes)).collect();
        let vectors: Vec<_> = buffers
            .iter_mut()
            .map(|buf| {
                let bytes = buf.as_mut_slice();
                libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() }
            })
            .collect();
        // SAFETY: the ring is dropped before the buffers, and forgotten with them if the kernel still uses them.
        let registered = unsafe { uring.submitter().register_buffers(&vectors) };
        let idle = Slot { started: Instant::now(), completions_left: 0 };
        Ok(Self {
            uring,
            slots: vec![idle; buffers.len()],
            buffers,
            in_flight: 0,
            completions: Vec::new(),
            buffers_are_registered: registered.is_ok(),
            _file: file,
        })
    }

    /// How many operations fit in at once.
    pub(super) fn depth(&self) -> usize {
        self.buffers.len()
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// The bytes of all buffers, for what is to be written.
    pub(super) fn buffers_mut(&mut self) -> &mut [IoBuf] {
        assert!(self.in_flight == 0, "the kernel uses the buffers");
        &mut self.buffers
    }

    /// Starts a read of a whole buffer.
    pub(super) fn read(&mut self, slot: usize, offset: u64) -> io::Result<()> {
        let (pointer, bytes, index) = self.begin(slot, 1)?;
        let entry = if self.buffers_are_registered {
            opcode::ReadFixed::new(FILE, pointer, bytes, index).offset(offset).build()
        } else {
            opcode::Read::new(FILE, pointer, bytes).offset(offset).build()
        };
        self.push(&[entry.user_data(index.into())])
    }

    /// Starts a write of a whole buffer.
    pub(super) fn write(&mut self, slot: usize, offset: u64, ending: Ending) -> io::Result<()> {
        let (pointer, bytes, index) = self.begin(slot, if ending == Ending::ThenSync { 2 } else { 1 })?;
        let flags = if ending == Ending::Dsync { libc::RWF_DSYNC } else { 0 };
        let entry = if self.buffers_are_registered {
            opcode::WriteFixed::new(FILE, pointer, bytes, index).offset(offset).rw_flags(flags).build()
        } else {
            opcode::Write::new(FILE, pointer, bytes).offset(offset).rw_flags(flags).build()
        };
        let entry = entry.user_data(index.into());
        if ending != Ending::ThenSync {
            return self.push(&[entry]);
        }
        let sync = opcode::Fsync::new(FILE).flags(types::FsyncFlags::DATASYNC).build();
        self.push(&[entry.flags(Flags::IO_LINK), sync.user_data(SYNC | u64::from(index))])
    }

    /// Starts a sync of the file's data.
    pub(super) fn sync(&mut self, slot: usize) -> io::Result<()> {
        let (_, _, index) = self.begin(slot, 1)?;
        let sync = opcode::Fsync::new(FILE).flags(types::FsyncFlags::DATASYNC).build();
        self.push(&[sync.user_data(SYNC | u64::from(index))])
    }

    fn begin(&mut self, slot: usize, completions: u8) -> io::Result<(*mut u8, u32, u16)> {
        let (Some(buffer), Some(state), Ok(index)) =
            (self.buffers.get_mut(slot), self.slots.get_mut(slot), u16::try_from(slot))
        else {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        };
        assert!(state.completions_left == 0, "slot {slot} is in use");
        *state = Slot { started: Instant::now(), completions_left: completions };
        self.in_flight += 1;
        let bytes = buffer.as_mut_slice();
        let len = u32::try_from(bytes.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        Ok((bytes.as_mut_ptr(), len, index))
    }

    fn push(&mut self, entries: &[Entry]) -> io::Result<()> {
        // SAFETY: each entry names the ring's file and the buffer of a slot, which is not used again before its
        // completions are seen and not freed while any is missing.
        let pushed = unsafe { self.uring.submission().push_multiple(entries) };
        pushed.map_err(|_| io::Error::other("the submission queue is full"))
    }

    /// Submits, waits for at least one completion, and tells the slots that are done and how long each took.
    pub(super) fn wait(&mut self, mut done: impl FnMut(usize, Duration)) -> io::Result<()> {
        loop {
            match self.uring.submit_and_wait(1) {
                Ok(_) => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        let mut completions = std::mem::take(&mut self.completions);
        completions.extend(self.uring.completion().map(|entry| (entry.user_data(), entry.result())));
        let now = Instant::now();
        let mut failure = Ok(());
        for (user_data, result) in completions.drain(..) {
            match self.complete(user_data, result) {
                Ok(Some((slot, started))) => done(slot, now.saturating_duration_since(started)),
                Ok(None) => {}
                Err(error) => failure = Err(error),
            }
        }
        self.completions = completions;
        failure
    }

    fn complete(&mut self, user_data: u64, result: i32) -> io::Result<Option<(usize, Instant)>> {
        let slot = crate::num::to_usize(user_data & (SYNC - 1));
        let Some(state) = self.slots.get_mut(slot) else {
            return Err(io::Error::other("a completion belongs to no operation"));
        };
        state.completions_left = state.completions_left.saturating_sub(1);
        let (is_last, started) = (state.completions_left == 0, state.started);
        self.in_flight -= usize::from(is_last);
        if result < 0 {
            return Err(io::Error::from_raw_os_error(-result));
        }
        let moved = self.buffers.get(slot).map_or(0, |buf| buf.as_slice().len());
        if user_data & SYNC == 0 && usize::try_from(result) != Ok(moved) {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("{result} of {moved} bytes moved"),
            ));
        }
        Ok(is_last.then_some((slot, started)))
    }

    /// Waits for everything in flight.
    pub(super) fn drain(&mut self, mut done: impl FnMut(usize, Duration)) -> io::Result<()> {
        while self.in_flight > 0 {
            self.wait(&mut done)?;
        }
        Ok(())
    }
}

impl Drop for BareRing {
    fn drop(&mut self) {
        // After a failure operations may be in flight. If they do not end, the kernel may still use their memory: it
        // is lost.
        for _ in 0..self.buffers.len() * 2 {
            if self.in_flight == 0 || self.uring.submit_and_wait(1).is_err() {
                break;
            }
            let ended: Vec<_> = self.uring.completion().map(|entry| entry.user_data()).collect();
            for user_data in ended {
                drop(self.complete(user_data, 0));
            }
        }
        if self.in_flight > 0 {
            std::mem::forget(std::mem::take(&mut self.buffers));
        }
    }
}
