//! Continuation tokens: where a scan goes on, as bytes that a user may keep, send away and get back.
//!
//! | bytes | field | why |
//! |---|---|---|
//! | 1 | version, 1 | |
//! | 4 | number of the collection or index | told apart from another query of the same collection |
//! | 8 | fingerprint of range and direction | a token of another query is refused |
//! | 8 | number of the commit whose state was read | a snapshot goes on in the same state only |
//! | 8 | number of the commit that brought its newest block; 0 if there was none | numbers are not used again, so a block that was reorganised away is recognised |
//! | 8 | height of that block; 0 if there was none | to find it |
//! | 1 | 1 = before the first row, 2 = after a key | |
//! | n | that key | |
//! | 8 | seal: `SipHash` of all that precedes, with the store's key | damaged, invented and foreign tokens are refused |
//!
//! Numbers are little-endian. Nothing in a token is secret, but for the seal nothing in it can be chosen either.

use std::fmt;
use std::str::FromStr;

use op_engine_shards::bytes::{ByteReader, ByteWriter, Malformed};
use op_engine_shards::ops::KEY_BYTES_MAX;
use op_engine_shards::{CollectionId, Height, Seq};

use crate::error::{Error, Result};
use crate::placement::Placement;

const VERSION: u8 = 1;
const SEAL_BYTES: usize = 8;
const BYTES_MAX: usize = 1 + 4 + 4 * 8 + 1 + KEY_BYTES_MAX + SEAL_BYTES;

/// Why a scan cannot go on from a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// It is longer than any token.
    #[error("it has {bytes} bytes, more than the {max} that a token can have")]
    TooLong {
        /// Its length in bytes.
        bytes: usize,
        /// The longest possible one.
        max: usize,
    },
    /// Another build has made it.
    #[error("it has version {found}, this build reads version 1")]
    UnknownVersion {
        /// Its version.
        found: u8,
    },
    /// It is not as it was given out, or another store has given it out.
    #[error("it is damaged, or of another store")]
    Damaged,
    /// It belongs to a scan of another collection or index.
    #[error("it is of a scan of another collection or index")]
    OtherCollection,
    /// It belongs to a scan of another range, or in the other direction.
    #[error("it is of a scan of another range or direction")]
    OtherQuery,
    /// The snapshot does not show the state that the scan has seen.
    #[error(
        "it is of a scan that saw the state after commit {scanned}, but the snapshot shows commit {shown}"
    )]
    OtherState {
        /// The commit that the scan saw last.
        scanned: Seq,
        /// The commit that the snapshot shows last.
        shown: Seq,
    },
    /// The newest block that the scan has seen is not in the chain any more.
    #[error("block {height}, the newest that the scan has seen, was reorganised away")]
    Reorganised {
        /// The height of the block.
        height: Height,
    },
}

/// Where a scan goes on: [`Scan::token`](super::Scan::token) gives it, [`Scan::resume`](super::Scan::resume) takes it.
///
/// Opaque bytes, which need not be kept secret and cannot be made up. As text they are hexadecimal digits.
///
/// ```
/// # use op_engine::{Error, Token};
/// let damaged: Result<Token, Error> = "01ab".parse();
/// assert!(matches!(damaged, Err(Error::Token { .. })));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Token {
    bytes: Vec<u8>,
}

impl Token {
    /// The token that these bytes are.
    ///
    /// # Errors
    /// [`Error::Token`] if they cannot be one. Whether one of this store and of the query is known when it is used.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let token = Self { bytes: bytes.to_vec() };
        token.parse()?;
        Ok(token)
    }

    /// Its bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn parse(&self) -> Result<Place, TokenError> {
        if self.bytes.len() > BYTES_MAX {
            return Err(TokenError::TooLong { bytes: self.bytes.len(), max: BYTES_MAX });
        }
        match self.bytes.first() {
            Some(&VERSION) => {}
            Some(&found) => return Err(TokenError::UnknownVersion { found }),
            None => return Err(TokenError::Damaged),
        }
        let body = self.bytes.len().checked_sub(SEAL_BYTES).and_then(|len| self.bytes.get(..len));
        body.and_then(|body| Place::decode(body).ok()).ok_or(TokenError::Damaged)
    }

    /// What is in it, if this store has given it out.
    pub(super) fn open(&self, placement: &Placement) -> Result<Place, TokenError> {
        let place = self.parse()?;
        if place.seal(placement) == *self { Ok(place) } else { Err(TokenError::Damaged) }
    }
}

/// As hexadecimal digits.
impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// From hexadecimal digits.
impl FromStr for Token {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let digits = text.len();
        if digits > 2 * BYTES_MAX {
            return Err(TokenError::TooLong { bytes: digits.div_ceil(2), max: BYTES_MAX }.into());
        }
        let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        let byte = |pair: &[u8]| match pair {
            [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
            _ => None,
        };
        let bytes: Option<Vec<u8>> = text.as_bytes().chunks(2).map(byte).collect();
        Self::from_bytes(&bytes.ok_or(TokenError::Damaged)?)
    }
}

/// The state that a scan has seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seen {
    /// The last commit.
    pub(super) view: Seq,
    /// The newest block: its height, and the commit that brought it.
    pub(super) block: Option<(Height, Seq)>,
}

/// What is in a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) collection: CollectionId,
    pub(super) fingerprint: u64,
    pub(super) seen: Seen,
    /// The key of the last row; `None` before the first.
    pub(super) after: Option<Vec<u8>>,
}

impl Place {
    pub(super) fn seal(&self, placement: &Placement) -> Token {
        let mut out = ByteWriter::new();
        self.encode(&mut out);
        let seal = placement.seal(out.as_slice());
        out.u64(seal);
        Token { bytes: out.into_vec() }
    }

    fn encode(&self, out: &mut ByteWriter) {
        let (height, block) = self.seen.block.unwrap_or_default();
        out.u8(VERSION);
        out.u32(self.collection.0);
        out.u64(self.fingerprint);
        out.u64(self.seen.view.0);
        out.u64(block.0);
        out.u64(height.0);
        out.u8(if self.after.is_some() { 2 } else { 1 });
        out.raw(self.after.as_deref().unwrap_or_default());
    }

    fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut input = ByteReader::new(bytes);
        if input.u8()? != VERSION {
            return Err(Malformed("a token has an unknown version"));
        }
        let collection = CollectionId(input.u32()?);
        let fingerprint = input.u64()?;
        let view = Seq(input.u64()?);
        let (block, height) = (Seq(input.u64()?), Height(input.u64()?));
        let block = match (block, height) {
            (Seq(0), Height(0)) => None,
            (Seq(0), _) => return Err(Malformed("a token has a height without a block")),
            (block, height) => Some((height, block)),
        };
        let after = match (input.u8()?, input.rest()) {
            (1, []) => None,
            (2, key) if key.len() <= KEY_BYTES_MAX => Some(key.to_vec()),
            _ => return Err(Malformed("a token has an impossible key")),
        };
        Ok(Self { collection, fingerprint, seen: Seen { view, block }, after })
    }
}

/// Feeds the decoders with any bytes: what is in a token, and text.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn tokens(bytes: &[u8]) {
    let placement = Placement::new([7; 16], 3);
    if let Ok(place) = Place::decode(bytes) {
        let token = place.seal(&placement);
        assert_eq!(token.bytes.strip_suffix(&placement.seal(bytes).to_le_bytes()), Some(bytes), "one form");
        assert_eq!(Token::from_bytes(token.as_bytes()).as_ref(), Ok(&token), "a token is one");
        assert_eq!(token.to_string().parse().as_ref(), Ok(&token), "a token is what its digits are");
        assert_eq!(token.open(&placement), Ok(place), "a token holds what was put in");
    }
    let texts = String::from_utf8_lossy(bytes).parse::<Token>();
    for token in [Token::from_bytes(bytes), texts].into_iter().flatten() {
        let _: Result<Place, TokenError> = token.open(&placement);
    }
}

/// Inputs for [`tokens`] to begin with.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn token_seeds() -> Vec<Vec<u8>> {
    let first = Place {
        collection: CollectionId(3),
        fingerprint: 9,
        seen: Seen { view: Seq(5), block: None },
        after: None,
    };
    let seen = Seen { view: Seq(70), block: Some((Height(8), Seq(66))) };
    let later = Place { seen, after: Some(b"key".to_vec()), ..first.clone() };
    let token = later.seal(&Placement::new([7; 16], 3));
    let body = |place: Place| {
        let mut out = ByteWriter::new();
        place.encode(&mut out);
        out.into_vec()
    };
    vec![body(first), body(later), token.to_string().into_bytes(), token.bytes]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn placement(key: u8) -> Placement {
        Placement::new([key; 16], 3)
    }

    fn places() -> impl Strategy<Value = Place> {
        let block = prop::option::of((any::<u64>(), 1u64..));
        let after = prop::option::of(prop::collection::vec(any::<u8>(), 0..80));
        (any::<u32>(), any::<u64>(), any::<u64>(), block, after).prop_map(
            |(collection, fingerprint, view, block, after)| Place {
                collection: CollectionId(collection),
                fingerprint,
                seen: Seen { view: Seq(view), block: block.map(|(height, seq)| (Height(height), Seq(seq))) },
                after,
            },
        )
    }

    proptest! {
        #[test]
        fn tokens_hold_what_was_put_in(place in places()) {
            let token = place.seal(&placement(1));
            let opened = token.open(&placement(1));
            prop_assert_eq!(opened.as_ref(), Ok(&place));
            prop_assert_eq!(&Token::from_bytes(token.as_bytes()).unwrap(), &token);
            prop_assert_eq!(&token.to_string().parse::<Token>().unwrap(), &token);
            prop_assert_eq!(&token.to_string().to_uppercase().parse::<Token>().unwrap(), &token);
            prop_assert_eq!(token.open(&placement(2)), Err(TokenError::Damaged));
        }

        #[test]
        fn a_changed_byte_is_noticed(place in places(), at in any::<prop::sample::Index>(), flip in 1u8..) {
            let mut bytes = place.seal(&placement(1)).bytes;
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
            let opened = Token::from_bytes(&bytes).map(|token| token.open(&placement(1)));
            prop_assert!(!matches!(opened, Ok(Ok(_))));
            let mut longer = place.seal(&placement(1)).bytes;
            longer.insert(at, flip);
            let opened = Token::from_bytes(&longer).map(|token| token.open(&placement(1)));
            prop_assert!(!matches!(opened, Ok(Ok(_))));
            let shorter = Token::from_bytes(&place.seal(&placement(1)).bytes[..at]);
            prop_assert!(!matches!(shorter.map(|token| token.open(&placement(1))), Ok(Ok(_))));
        }

        #[test]
        fn any_bytes_are_a_token_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200), text in ".{0,80}") {
            let opened = Token::from_bytes(&bytes).map(|token| token.open(&placement(1)));
            prop_assert!(!matches!(opened, Ok(Ok(_))));
            let parsed = text.parse::<Token>().map(|token| token.open(&placement(1)));
            prop_assert!(!matches!(parsed, Ok(Ok(_))));
        }
    }

    #[test]
    fn what_is_wrong_is_told_apart() {
        let why = |bytes: &[u8]| match Token::from_bytes(bytes) {
            Err(Error::Token { why }) => Some(why),
            _ => None,
        };
        assert_eq!(why(&[1; 4000]), Some(TokenError::TooLong { bytes: 4000, max: BYTES_MAX }));
        assert_eq!(why(&[7; 60]), Some(TokenError::UnknownVersion { found: 7 }));
        assert_eq!(why(&[0; 60]), Some(TokenError::UnknownVersion { found: 0 }));
        assert_eq!(why(&[]), Some(TokenError::Damaged));
        assert_eq!(why(&[1; 20]), Some(TokenError::Damaged));
    }
}
