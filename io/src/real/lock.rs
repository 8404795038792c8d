//! The store's lock: one process at a time.
//!
//! A killed process's writes can still land after the kernel has dropped its locks, if they went through a ring. So
//! the locked descriptor is registered in every ring: the kernel keeps the open file, and with it the lock, until the
//! ring's last operation has ended. The next owner may find the lock taken for as long as a slow device needs, and
//! tries again for a while.

use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::directory::{LOCK_NAME, Root, path_error};
use super::sys;
use crate::error::{Error, FileOp, Result};

const RETRY_EVERY: Duration = Duration::from_millis(10);

/// The lock, held. Shared by the world and all its hosts, and released when the last of them has gone, hence after
/// every ring is drained.
#[derive(Debug)]
pub(super) struct Lock {
    fd: OwnedFd,
}

impl Lock {
    /// Takes the lock, waiting for at most `wait`.
    pub(super) fn take(root: &Root, wait: Duration) -> Result<Arc<Self>> {
        let path = root.path().join(LOCK_NAME);
        let failed = |errno| path_error(FileOp::Lock, &path, &std::io::Error::from_raw_os_error(errno));
        let fd = sys::open_at(root.fd(), LOCK_NAME, libc::O_RDWR | libc::O_CREAT, 0o600).map_err(failed)?;
        let started = Instant::now();
        loop {
            match sys::try_lock(fd.as_fd()) {
                Ok(()) => return Ok(Arc::new(Self { fd })),
                Err(libc::EWOULDBLOCK) if started.elapsed() < wait => std::thread::sleep(RETRY_EVERY),
                Err(libc::EWOULDBLOCK) => return Err(Error::Locked { path: root.path().to_owned() }),
                Err(errno) => return Err(failed(errno)),
            }
        }
    }

    /// The descriptor, for the rings.
    pub(super) fn fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing would not do: the kernel tears closed rings down in the background, and they hold the file as well.
        if let Err(errno) = sys::unlock(self.fd.as_fd()) {
            tracing::warn!(errno, "could not release the store's lock before closing it");
        }
    }
}
