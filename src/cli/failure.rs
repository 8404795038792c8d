//! Why a command fails, and what the process says and returns then.

use std::process::ExitCode;

use op_engine::chain::ChainError;
use op_engine::chain::block_files::BlockFileError;
use op_engine_shards::Error as StorageError;

/// Why a command fails.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The engine refuses.
    #[error(transparent)]
    Engine(#[from] op_engine::Error),
    /// The block files cannot be read.
    #[error(transparent)]
    BlockFiles(#[from] BlockFileError),
    /// The operating system refuses.
    #[error("could not {what}: {source}")]
    Os {
        /// What was being done.
        what: String,
        /// The reason.
        source: std::io::Error,
    },
    /// An argument cannot be used.
    #[error("{0}")]
    Usage(String),
    /// Anything else that a person should read.
    #[error("{0}")]
    Other(String),
}

/// The result of a command.
pub(crate) type Outcome<T = ()> = Result<T, Failure>;

impl From<op_engine_io::Error> for Failure {
    fn from(error: op_engine_io::Error) -> Self {
        Self::Engine(error.into())
    }
}

impl From<ChainError> for Failure {
    fn from(error: ChainError) -> Self {
        match error {
            ChainError::Engine(error) => Self::Engine(error),
            ChainError::BlockFile(error) => Self::BlockFiles(error),
            error => Self::Other(error.to_string()),
        }
    }
}

impl Failure {
    /// A refusal of the operating system.
    pub(crate) fn os(what: impl Into<String>, source: std::io::Error) -> Self {
        Self::Os { what: what.into(), source }
    }

    /// 1 for a failure, 2 for wrong usage.
    pub(crate) fn code(&self) -> ExitCode {
        match self {
            Self::Usage(_) => ExitCode::from(2),
            _ => ExitCode::FAILURE,
        }
    }

    /// What helps, where the message itself does not say it.
    pub(crate) fn remedy(&self) -> Option<&'static str> {
        use op_engine::Error;
        match self {
            Self::Engine(Error::Storage(StorageError::Io(error))) => match error {
                op_engine_io::Error::NotFound { .. } => Some("check the path"),
                op_engine_io::Error::Os { .. } => Some("check the device, permissions and the path"),
                _ => None,
            },
            Self::Engine(Error::NoSuchHeight { .. } | Error::ReorgAboveTip { .. }) => {
                Some("`op-engine tip` shows the heights that there are")
            }
            Self::Engine(Error::HistoryGone { .. }) => {
                Some("blocks, transactions and contract slots can be read at every height")
            }
            Self::Engine(Error::ReorgBelowHorizon { .. }) => {
                Some("the window is set when a store is ingested: --reorg-window")
            }
            Self::Engine(Error::EmptyChain) => Some("fill the store with `op-engine ingest`"),
            Self::Engine(Error::UnknownCollection { .. }) => {
                Some("this program knows the collections that `op-engine ingest` makes")
            }
            Self::Usage(_) => Some("see `op-engine help`"),
            Self::Os { .. } => Some("check the path and permissions"),
            _ => None,
        }
    }
}
