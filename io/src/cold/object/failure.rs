//! What an object store's failure means.

use std::error::Error as StdError;

use object_store::Error;
use object_store::client::{HttpError, HttpErrorKind};

use super::super::failure::Failure;
use super::super::fault::ColdFault;
use super::secrets::Secrets;

/// The text before the status in what the client says of an answer.
const STATUS_MARK: &str = "status code: ";
/// What servers call a lack of space.
const FULL_WORDS: [&str; 5] =
    ["QuotaExceeded", "InsufficientStorage", "StorageFull", "NotEnoughSpace", "CapacityExceeded"];

/// A failure of a request.
pub(super) fn of(error: &Error, secrets: &Secrets) -> Failure {
    let text = whole_text(error);
    Failure::new(fault(error, &text), secrets.cut_out(&text))
}

/// A failure while an answer came in that had begun as a good one.
pub(super) fn of_body(error: &Error, secrets: &Secrets) -> Failure {
    let failure = of(error, secrets);
    let fault = match failure.fault {
        ColdFault::Unreachable | ColdFault::Other => ColdFault::Short,
        other => other,
    };
    Failure { fault, ..failure }
}

/// What the error says, and its causes as far as it does not say that itself.
fn whole_text(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

fn fault(error: &Error, text: &str) -> ColdFault {
    if FULL_WORDS.iter().any(|word| text.contains(word)) {
        return ColdFault::Full;
    }
    match error {
        // A bucket that is not there is no object that is not there.
        Error::NotFound { .. } if text.contains("NoSuchBucket") => ColdFault::Unreachable,
        Error::NotFound { .. } => ColdFault::Missing,
        Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => ColdFault::Denied,
        _ => transport(error).or_else(|| status(text).map(of_status)).unwrap_or(ColdFault::Other),
    }
}

fn transport(error: &(dyn StdError + 'static)) -> Option<ColdFault> {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<HttpError>() {
            return Some(match error.kind() {
                HttpErrorKind::Timeout => ColdFault::TimedOut,
                _ => ColdFault::Unreachable,
            });
        }
        cause = error.source();
    }
    None
}

fn status(text: &str) -> Option<u16> {
    let (_, rest) = text.split_once(STATUS_MARK)?;
    rest.get(..3)?.parse().ok()
}

fn of_status(status: u16) -> ColdFault {
    match status {
        401 | 403 => ColdFault::Denied,
        404 => ColdFault::Missing,
        408 => ColdFault::TimedOut,
        416 => ColdFault::Short,
        507 => ColdFault::Full,
        429 | 500.. => ColdFault::Unreachable,
        _ => ColdFault::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn generic(source: impl Into<Box<dyn StdError + Send + Sync>>) -> Error {
        Error::Generic { store: "S3", source: source.into() }
    }

    #[test]
    fn the_kinds_of_failures_are_told_apart() {
        let http = |kind| generic(HttpError::new(kind, std::io::Error::other("reason")));
        let answer =
            |status| generic(format!("Server returned non-2xx status code: {status} Reason: <Code>"));
        let not_found = |text: &str| Error::NotFound { path: "a".to_owned(), source: text.into() };
        let cases = [
            (http(HttpErrorKind::Connect), ColdFault::Unreachable),
            (http(HttpErrorKind::Timeout), ColdFault::TimedOut),
            (answer(503), ColdFault::Unreachable),
            (answer(507), ColdFault::Full),
            (answer(416), ColdFault::Short),
            (answer(403), ColdFault::Denied),
            (answer(400), ColdFault::Other),
            (generic("<Code>XMinioStorageFull</Code>"), ColdFault::Full),
            (generic("anything"), ColdFault::Other),
            (not_found("NoSuchKey"), ColdFault::Missing),
            (not_found("NoSuchBucket"), ColdFault::Unreachable),
        ];
        for (error, fault) in cases {
            assert_eq!(of(&error, &Secrets::default()).fault, fault, "{error}");
        }
        let cut_off = http(HttpErrorKind::Interrupted);
        assert_eq!(of_body(&cut_off, &Secrets::default()).fault, ColdFault::Short);
    }
}
