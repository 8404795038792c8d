//! An object store as a cold target: S3 and what speaks like it.
//!
//! One thread of its own runs all requests; askers wait for a reply, not longer than their deadline. What the object
//! store's own client retries, it retries with growing pauses, within that deadline.
//!
//! Credentials come from the environment only (`AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_ENDPOINT_URL`,
//! `AWS_REGION`, `AWS_ALLOW_HTTP` and their kin). What they hold is cut out of every text that leaves this module.

mod client;
mod failure;
mod secrets;
mod service;
mod upload;
mod url;

pub(crate) use service::ObjectStoreTarget;
pub(crate) use upload::ObjectUpload;
pub use url::ObjectStoreUrl;
