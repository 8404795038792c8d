//! The requests to an object store, each as one future.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey};
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path;
use object_store::{
    BackoffConfig, ClientConfigKey, GetOptions, GetRange, ObjectStore, ObjectStoreExt, PutPayload,
    RetryConfig,
};

use super::super::failure::Failure;
use super::super::fault::ColdFault;
use super::super::target::ColdLimits;
use super::failure;
use super::secrets::Secrets;
use super::url::ObjectStoreUrl;
use crate::env::{Dir, FileName};
use crate::error::{Error, Result};
use crate::num::{to_u64, to_usize};
use crate::real::sys;

/// How the names end of the notes that uploads leave about themselves until they are finished.
const NOTE_SUFFIX: &str = ".part";
/// The first pause before a request is repeated, and the longest one.
const PAUSE: Range<Duration> = Duration::from_millis(100)..Duration::from_secs(3);
/// How often a request is repeated at most.
const RETRIES_MAX: usize = 6;
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// A connection to one bucket.
pub(super) struct Client {
    url: ObjectStoreUrl,
    /// For requests that are short: gives up a connection that is silent sooner.
    reader: AmazonS3,
    writer: AmazonS3,
    secrets: Secrets,
    /// The notes of the uploads of this life.
    notes: Mutex<BTreeSet<String>>,
}

/// An upload in parts that the object store knows of.
#[derive(Debug)]
pub(super) struct Parts {
    object: Path,
    id: String,
    /// The name of the note that says so.
    note: Path,
    parts: Vec<PartId>,
    bytes: u64,
    /// What the object was before: its tag, if it was there.
    before: Option<String>,
}

/// What is known of an object.
#[derive(Debug, PartialEq, Eq)]
struct Known {
    bytes: u64,
    tag: Option<String>,
}

impl Client {
    /// Does not connect. Settings and credentials are those of the environment.
    pub(super) fn new(url: ObjectStoreUrl, limits: ColdLimits) -> Result<Self> {
        let secrets = Secrets::among(
            std::env::vars_os()
                .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?))),
        );
        let build = |limit: Duration| {
            let built = builder(&url, limit).build();
            built.map_err(|error| Error::Setting {
                name: "cold",
                value: url.to_string(),
                why: failure::of(&error, &secrets).what,
            })
        };
        let (reader, writer) = (build(limits.read)?, build(limits.change)?);
        Ok(Self { url, reader, writer, secrets, notes: Mutex::default() })
    }

    pub(super) fn url(&self) -> &ObjectStoreUrl {
        &self.url
    }

    fn fails(&self, error: &object_store::Error) -> Failure {
        failure::of(error, &self.secrets)
    }

    fn dir_path(&self, dir: Dir) -> Path {
        let dir = match dir {
            Dir::Root => None,
            Dir::Shard(_) => Some(dir.to_string()),
        };
        Path::from_iter(self.url.prefix().iter().cloned().chain(dir))
    }

    pub(super) fn path(&self, name: FileName) -> Path {
        self.dir_path(name.dir).join(name.leaf())
    }

    fn notes(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn look(&self, path: &Path) -> Result<Known, Failure> {
        let found = self.reader.head(path).await.map_err(|error| self.fails(&error))?;
        Ok(Known { bytes: found.size, tag: found.e_tag })
    }

    pub(super) async fn length(&self, name: FileName) -> Result<u64, Failure> {
        Ok(self.look(&self.path(name)).await?.bytes)
    }

    pub(super) async fn read(&self, name: FileName, offset: u64, bytes: u64) -> Result<Vec<u8>, Failure> {
        let path = self.path(name);
        let wanted = offset..offset.saturating_add(bytes);
        if bytes == 0 || wanted.end == u64::MAX {
            // Not a range that can be asked for.
            let len = self.look(&path).await?.bytes;
            return if wanted.end <= len { Ok(Vec::new()) } else { Err(Failure::short(len, offset, bytes)) };
        }
        let options = GetOptions { range: Some(GetRange::Bounded(wanted.clone())), ..GetOptions::default() };
        let answer = self.reader.get_opts(&path, options).await.map_err(|error| self.fails(&error))?;
        if answer.range != wanted {
            return Err(Failure::short(answer.meta.size, offset, bytes));
        }
        let mut found = Vec::new();
        let mut body = answer.into_stream();
        while let Some(piece) = body.next().await {
            let piece = piece.map_err(|error| failure::of_body(&error, &self.secrets))?;
            found.extend_from_slice(&piece);
            if to_u64(found.len()) > bytes {
                return Err(Failure::new(ColdFault::Short, "the answer is longer than what was asked for"));
            }
        }
        if to_u64(found.len()) < bytes {
            let what = format!("{} bytes of {bytes} arrived", found.len());
            return Err(Failure::new(ColdFault::Short, what));
        }
        Ok(found)
    }

    pub(super) async fn remove(&self, path: &Path) -> Result<(), Failure> {
        match self.writer.delete(path).await.map_err(|error| self.fails(&error)) {
            Err(Failure { fault: ColdFault::Missing, .. }) => Ok(()),
            removed => removed,
        }
    }

    /// The objects of a directory in order. Uploads in parts of earlier lives are given up.
    pub(super) async fn list(&self, dir: Dir) -> Result<Vec<FileName>, Failure> {
        let path = self.dir_path(dir);
        let found = self.reader.list_with_delimiter(Some(&path)).await.map_err(|error| self.fails(&error))?;
        let mut objects = Vec::new();
        for object in found.objects {
            let Some(leaf) = object.location.filename() else { continue };
            if let Some(name) = FileName::parse(dir, leaf) {
                objects.push(name);
            } else if let Some(name) = noted_object(dir, leaf)
                && !self.notes().contains(object.location.as_ref())
            {
                self.give_up_noted(name, &object.location, object.size).await?;
            }
        }
        objects.sort_unstable();
        Ok(objects)
    }

    /// Gives up an upload of which only its note is known.
    async fn give_up_noted(&self, name: FileName, note: &Path, bytes: u64) -> Result<(), Failure> {
        // What is longer is no note of ours.
        if bytes > 4096 {
            return Ok(());
        }
        let answer = self.reader.get(note).await.map_err(|error| self.fails(&error))?;
        let id = answer.bytes().await.map_err(|error| failure::of_body(&error, &self.secrets))?;
        let id = String::from_utf8_lossy(&id).into_owned();
        self.forget_parts(&self.path(name), &id).await?;
        self.remove(note).await
    }

    /// Lets the object store drop the parts of an upload. Not an error if it knows of none.
    async fn forget_parts(&self, object: &Path, id: &String) -> Result<(), Failure> {
        match self.writer.abort_multipart(object, id).await.map_err(|error| self.fails(&error)) {
            Err(Failure { fault: ColdFault::Missing, .. }) => Ok(()),
            gone => gone,
        }
    }

    /// Stores an object at once.
    pub(super) async fn put(&self, name: FileName, bytes: Vec<u8>) -> Result<(), Failure> {
        let put = self.writer.put(&self.path(name), PutPayload::from(bytes)).await;
        put.map(drop).map_err(|error| self.fails(&error))
    }

    /// Begins an upload in parts, and notes that it did: whoever finds the note later can give the upload up.
    pub(super) async fn begin(&self, name: FileName) -> Result<Parts, Failure> {
        let object = self.path(name);
        let before = match self.look(&object).await {
            Ok(known) => known.tag,
            Err(Failure { fault: ColdFault::Missing, .. }) => None,
            Err(failure) => return Err(failure),
        };
        let random = sys::random_u64().map_err(Failure::of_errno)?;
        let note = self.dir_path(name.dir).join(format!("{}.{random:016x}{NOTE_SUFFIX}", name.leaf()));
        let id = self.writer.create_multipart(&object).await.map_err(|error| self.fails(&error))?;
        self.notes().insert(note.to_string());
        let noted = self.writer.put(&note, PutPayload::from(id.clone().into_bytes())).await;
        let parts = Parts { object, id, note, parts: Vec::new(), bytes: 0, before };
        if let Err(error) = noted {
            let failure = self.fails(&error);
            self.give_up(parts).await;
            return Err(failure);
        }
        Ok(parts)
    }

    pub(super) async fn put_part(&self, parts: &mut Parts, bytes: Vec<u8>) -> Result<(), Failure> {
        let added = to_u64(bytes.len());
        let nth = parts.parts.len();
        let put = self.writer.put_part(&parts.object, &parts.id, nth, PutPayload::from(bytes)).await;
        parts.parts.push(put.map_err(|error| self.fails(&error))?);
        parts.bytes = parts.bytes.saturating_add(added);
        Ok(())
    }

    /// Makes the parts an object.
    pub(super) async fn complete(&self, parts: &Parts) -> Result<(), Failure> {
        let completed = self.writer.complete_multipart(&parts.object, &parts.id, parts.parts.clone()).await;
        let Err(error) = completed else { return Ok(()) };
        let failure = self.fails(&error);
        if failure.fault == ColdFault::Missing {
            // An answer that was lost makes the client ask again, for an upload that is complete and gone by then.
            let known = self.look(&parts.object).await?;
            if known.bytes == parts.bytes && known.tag.is_some() && known.tag != parts.before {
                return Ok(());
            }
            return Err(Failure { fault: ColdFault::Other, ..failure });
        }
        Err(failure)
    }

    /// Removes what an upload has left, if it can be. What cannot is when the directory is listed.
    pub(super) async fn give_up(&self, parts: Parts) {
        let gone = match self.forget_parts(&parts.object, &parts.id).await {
            Ok(()) => self.remove(&parts.note).await,
            failed => failed,
        };
        self.notes().remove(parts.note.as_ref());
        if let Err(failure) = gone {
            tracing::debug!(reason = failure.what, "could not give up an upload to the object store");
        }
    }

    /// Removes the note of an upload that is complete.
    pub(super) async fn settle(&self, parts: &Parts) {
        let removed = self.remove(&parts.note).await;
        self.notes().remove(parts.note.as_ref());
        if let Err(failure) = removed {
            tracing::debug!(reason = failure.what, "could not remove the note of an upload");
        }
    }
}

fn builder(url: &ObjectStoreUrl, limit: Duration) -> AmazonS3Builder {
    // A connection that is silent is given up in time for another to be tried before the deadline.
    let silence = limit / 3;
    let retry = RetryConfig {
        backoff: BackoffConfig { init_backoff: PAUSE.start, max_backoff: PAUSE.end, base: 2.0 },
        max_retries: RETRIES_MAX,
        retry_timeout: limit / 2,
    };
    let defaults = [
        (ClientConfigKey::ConnectTimeout, CONNECT_LIMIT.min(silence)),
        (ClientConfigKey::ReadTimeout, silence),
        (ClientConfigKey::Timeout, limit),
    ];
    let mut builder = AmazonS3Builder::from_env();
    for (key, value) in defaults {
        let key = AmazonS3ConfigKey::Client(key);
        if builder.get_config_value(&key).is_none()
            || key == AmazonS3ConfigKey::Client(ClientConfigKey::Timeout)
        {
            builder = builder.with_config(key, format!("{}ms", value.as_millis().max(1)));
        }
    }
    // Single deletions are what every server knows.
    builder.with_bucket_name(url.bucket()).with_retry(retry).with_disable_bulk_delete(true)
}

/// The object of whose upload a name is the note.
fn noted_object(dir: Dir, leaf: &str) -> Option<FileName> {
    let (object, _) = leaf.strip_suffix(NOTE_SUFFIX)?.rsplit_once('.')?;
    FileName::parse(dir, object)
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("url", &self.url).finish_non_exhaustive()
    }
}

impl Parts {
    /// How many bytes are in the parts.
    pub(super) fn len(&self) -> usize {
        to_usize(self.bytes)
    }
}
