//! A cold target as a shard sees it.

use std::future::Future;

use crate::env::{Dir, FileName};
use crate::error::Result;

/// Where data that is seldom read is kept. Clones are handles to the same target.
///
/// Every error is [`crate::Error::Cold`], or [`crate::Error::Stopped`] when the world ends. After
/// [`crate::ColdFault::Unreachable`] and [`crate::ColdFault::TimedOut`] it is not known whether a change was made. An
/// operation whose future is dropped may still run to its end.
pub trait ColdStore: Clone + 'static {
    /// The uploads of this store.
    type Upload: ColdUpload;

    /// What it is, for messages and tables. Never holds a secret.
    fn target(&self) -> String;

    /// Exactly `bytes` bytes from `offset` on.
    ///
    /// Errors: [`crate::ColdFault::Short`] if the object ends first or the answer was cut off,
    /// [`crate::ColdFault::Missing`] if there is no such object.
    fn read(&self, name: FileName, offset: u64, bytes: u64) -> impl Future<Output = Result<Vec<u8>>>;

    /// The length of an object in bytes. Errors: [`crate::ColdFault::Missing`] if there is none.
    fn length(&self, name: FileName) -> impl Future<Output = Result<u64>>;

    /// Begins an object. One under the same name stays as it is until [`ColdUpload::finish`].
    fn upload(&self, name: FileName) -> impl Future<Output = Result<Self::Upload>>;

    /// Removes an object. Not an error if there is none. Durable when it resolves.
    fn remove(&self, name: FileName) -> impl Future<Output = Result<()>>;

    /// The finished objects of a directory in order of name. Remnants of uploads that were never finished, of earlier
    /// lives of the store, are removed. What the engine never names is left alone and not listed.
    fn list(&self, dir: Dir) -> impl Future<Output = Result<Vec<FileName>>>;
}

/// An object in the making. Not there for readers before [`ColdUpload::finish`] resolves; dropped, it never is.
///
/// After an error, or after the future of an append was dropped, nothing can be done with it but drop it.
pub trait ColdUpload: 'static {
    /// Adds bytes at the end: in order, any number of them.
    fn append(&mut self, bytes: Vec<u8>) -> impl Future<Output = Result<()>>;

    /// Makes the object durable under its name, in the place of an older one. All of it is when this resolves.
    fn finish(self) -> impl Future<Output = Result<()>>;
}
