//! A stretch of keys and the way to go through it.

use std::cmp::Ordering;
use std::ops::Bound;

/// The order in which entries come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Keys ascending; of one key, the newest version first.
    Forward,
    /// Exactly the reverse: keys descending; of one key, the oldest version first.
    Backward,
}

/// A stretch of keys. Whatever the direction, `start` is the low end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRange {
    /// The low end.
    pub start: Bound<Vec<u8>>,
    /// The high end.
    pub end: Bound<Vec<u8>>,
}

impl KeyRange {
    /// Every key.
    #[must_use]
    pub fn all() -> Self {
        Self { start: Bound::Unbounded, end: Bound::Unbounded }
    }

    /// From a key on, or from the first one.
    #[must_use]
    pub fn from(key: Option<Vec<u8>>) -> Self {
        Self { start: key.map_or(Bound::Unbounded, Bound::Included), end: Bound::Unbounded }
    }

    /// Leaves out what is below a key.
    pub fn raise_start(&mut self, key: &[u8]) {
        if above_start(key, self.start()) {
            self.start = Bound::Included(key.to_vec());
        }
    }

    /// Keeps what also lies between these bounds.
    pub fn narrow(&mut self, start: Bound<Vec<u8>>, end: Bound<Vec<u8>>) {
        let raises = match (&start, &self.start) {
            (Bound::Unbounded, _) => false,
            (_, Bound::Unbounded) => true,
            (Bound::Included(new), Bound::Included(old) | Bound::Excluded(old))
            | (Bound::Excluded(new), Bound::Excluded(old)) => new > old,
            (Bound::Excluded(new), Bound::Included(old)) => new >= old,
        };
        let lowers = match (&end, &self.end) {
            (Bound::Unbounded, _) => false,
            (_, Bound::Unbounded) => true,
            (Bound::Included(new), Bound::Included(old) | Bound::Excluded(old))
            | (Bound::Excluded(new), Bound::Excluded(old)) => new < old,
            (Bound::Excluded(new), Bound::Included(old)) => new <= old,
        };
        if raises {
            self.start = start;
        }
        if lowers {
            self.end = end;
        }
    }

    /// Keeps what comes after a key, in this direction.
    pub fn go_on_after(&mut self, key: &[u8], direction: Direction) {
        match direction {
            Direction::Forward => self.narrow(Bound::Excluded(key.to_vec()), Bound::Unbounded),
            Direction::Backward => self.narrow(Bound::Unbounded, Bound::Excluded(key.to_vec())),
        }
    }

    /// Whether no key can lie in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        is_empty_range(self.start(), self.end())
    }

    /// The low end, borrowed.
    #[must_use]
    pub fn start(&self) -> Bound<&[u8]> {
        borrowed(&self.start)
    }

    /// The high end, borrowed.
    #[must_use]
    pub fn end(&self) -> Bound<&[u8]> {
        borrowed(&self.end)
    }

    /// Whether a key is not past the end that a reader reaches last.
    #[must_use]
    pub fn reaches(&self, key: &[u8], direction: Direction) -> bool {
        match direction {
            Direction::Forward => below_end(key, self.end()),
            Direction::Backward => above_start(key, self.start()),
        }
    }

    /// Whether a key lies in the range.
    #[must_use]
    pub fn contains(&self, key: &[u8]) -> bool {
        above_start(key, self.start()) && below_end(key, self.end())
    }
}

/// Whether no key can lie between two bounds.
#[must_use]
pub fn is_empty_range(start: Bound<&[u8]>, end: Bound<&[u8]>) -> bool {
    match (start, end) {
        (Bound::Unbounded, _) | (_, Bound::Unbounded) => false,
        (Bound::Included(low), Bound::Included(high)) => low > high,
        (Bound::Included(low) | Bound::Excluded(low), Bound::Included(high) | Bound::Excluded(high)) => {
            low >= high
        }
    }
}

/// Compares two entries in the order in which files hold them: keys ascending, then newest first.
#[must_use]
pub fn internal_order(
    (key, seq): (&[u8], crate::ids::Seq),
    (other_key, other_seq): (&[u8], crate::ids::Seq),
) -> Ordering {
    key.cmp(other_key).then(other_seq.cmp(&seq))
}

fn borrowed(bound: &Bound<Vec<u8>>) -> Bound<&[u8]> {
    bound.as_ref().map(Vec::as_slice)
}

fn above_start(key: &[u8], start: Bound<&[u8]>) -> bool {
    match start {
        Bound::Unbounded => true,
        Bound::Included(low) => key >= low,
        Bound::Excluded(low) => key > low,
    }
}

fn below_end(key: &[u8], end: Bound<&[u8]>) -> bool {
    match end {
        Bound::Unbounded => true,
        Bound::Included(high) => key <= high,
        Bound::Excluded(high) => key < high,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn emptiness_follows_from_the_bounds() {
        let (a, b) = (b"a".as_slice(), b"b".as_slice());
        assert!(!is_empty_range(Bound::Included(a), Bound::Included(a)));
        assert!(is_empty_range(Bound::Included(a), Bound::Excluded(a)));
        assert!(is_empty_range(Bound::Excluded(a), Bound::Included(a)));
        assert!(is_empty_range(Bound::Included(b), Bound::Included(a)));
        assert!(!is_empty_range(Bound::Excluded(a), Bound::Excluded(b)));
        assert!(!is_empty_range(Bound::Unbounded, Bound::Excluded(a)));
    }

    #[test]
    fn a_range_is_narrowed_to_what_lies_in_both() {
        let ends = |key: u8| [Bound::Included(vec![key]), Bound::Excluded(vec![key])];
        let bounds: Vec<_> = [1, 2, 3].into_iter().flat_map(ends).chain([Bound::Unbounded]).collect();
        let ranges = || {
            let with_end = |start: &Bound<Vec<u8>>| {
                let start = start.clone();
                bounds.iter().map(move |end| KeyRange { start: start.clone(), end: end.clone() })
            };
            bounds.iter().flat_map(with_end)
        };
        for (a, b) in ranges().flat_map(|a| ranges().map(move |b| (a.clone(), b))) {
            let mut both = a.clone();
            both.narrow(b.start.clone(), b.end.clone());
            for key in 0..5 {
                assert_eq!(both.contains(&[key]), a.contains(&[key]) && b.contains(&[key]), "{a:?} {b:?}");
            }
            let mut after = a.clone();
            after.go_on_after(&[2], Direction::Forward);
            let mut before = a.clone();
            before.go_on_after(&[2], Direction::Backward);
            for key in 0..5 {
                assert_eq!(after.contains(&[key]), a.contains(&[key]) && key > 2);
                assert_eq!(before.contains(&[key]), a.contains(&[key]) && key < 2);
            }
        }
    }

    #[test]
    fn ends_bound_a_range() {
        let range = KeyRange { start: Bound::Excluded(b"b".to_vec()), end: Bound::Included(b"d".to_vec()) };
        assert!(
            !range.contains(b"b") && range.contains(b"c") && range.contains(b"d") && !range.contains(b"da")
        );
        assert!(range.reaches(b"a", Direction::Forward) && !range.reaches(b"e", Direction::Forward));
        assert!(range.reaches(b"e", Direction::Backward) && !range.reaches(b"b", Direction::Backward));
    }
}
