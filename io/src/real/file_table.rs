//! The free places in a ring's table of registered files.

/// Place 0 belongs to the store's lock, for the whole life of the ring: a killed process keeps its lock until the
/// kernel has finished the writes of its rings, because each ring holds the locked file.
pub(super) const LOCK_PLACE: u32 = 0;

/// Which places are free.
#[derive(Debug, Default)]
pub(super) struct FileTable {
    free: Vec<u32>,
}

impl FileTable {
    /// A table of `places`, of which the first is the lock's.
    pub(super) fn new(places: u32) -> Self {
        Self { free: (LOCK_PLACE + 1..places).rev().collect() }
    }

    pub(super) fn take(&mut self) -> Option<u32> {
        self.free.pop()
    }

    pub(super) fn give_back(&mut self, place: u32) {
        debug_assert!(place != LOCK_PLACE && !self.free.contains(&place));
        self.free.push(place);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_of_the_lock_is_never_lent() {
        let mut table = FileTable::new(3);
        assert_eq!((table.take(), table.take(), table.take()), (Some(1), Some(2), None));
        table.give_back(1);
        assert_eq!(table.take(), Some(1));
    }
}
