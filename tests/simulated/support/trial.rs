//! Random work on an overlay, each answer compared with a plain map.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::ops::Bound;

use futures_util::FutureExt;
use op_engine::{Collection, Desc, Error, Overlay, Savepoint};
use op_engine_io::sim::Rng;

use super::check::{Checked, Trouble};
use super::model::{Change, Content, Tables, same};
use super::schema::{ByOwner, ByTag, Coins, Mempool, Names, Plain, States, Wallet};

/// What an overlay must show, and how it got there.
pub struct Trial {
    pub tables: Tables,
    /// The changes that have not been taken back.
    pub changes: Vec<Change>,
    saved: Vec<(Savepoint, Tables, usize)>,
    /// The deepest that savepoints were nested.
    pub depth_max: usize,
    /// Whether collections that are read at a height only with an error may be used.
    pub with_mempool: bool,
    pub used_wallet: bool,
    pub used_mempool: bool,
}

impl Trial {
    pub fn new(tables: Tables) -> Self {
        Self {
            tables,
            changes: Vec::new(),
            saved: Vec::new(),
            depth_max: 0,
            with_mempool: true,
            used_wallet: false,
            used_mempool: false,
        }
    }

    /// Whether two records have the same tag.
    pub fn contradicts(&self) -> bool {
        let mut tags: Vec<u64> = self.tables.names.values().map(|(tag, _)| *tag).collect();
        tags.sort_unstable();
        tags.windows(2).any(|pair| pair[0] == pair[1])
    }

    /// Does one thing, and compares.
    pub async fn step(&mut self, overlay: &mut Overlay, rng: &mut Rng) -> Checked {
        match rng.below(20) {
            0..=7 => self.change(overlay, rng),
            8..=12 => self.read(overlay, rng).await,
            13 | 14 => self.save(overlay),
            15 | 16 => self.end(overlay, rng),
            17 => self.scan(overlay, rng).await,
            18 => self.scan_indexes(overlay, rng).await,
            _ => self.find_by_tag(overlay, rng).await,
        }
    }

    fn change(&mut self, overlay: &mut Overlay, rng: &mut Rng) -> Checked {
        let value = |rng: &mut Rng| {
            let len = [0, 1, 8, 700][rng.index(4)];
            (rng.below(3) > 0).then(|| vec![rng.below(256) as u8; len])
        };
        let kinds = if self.with_mempool { 6 } else { 5 };
        let change = match rng.below(kinds) {
            0 => Change::Plain(plain_key(rng), value(rng)),
            1 => {
                let coin = (rng.below(3) > 0).then(|| (rng.below(12), rng.below(4) as u32));
                Change::Coin(pick(&self.tables.coins, rng).unwrap_or(rng.below(20)), coin)
            }
            2 => {
                let name = (rng.below(3) > 0).then(|| (rng.below(60), rng.below(5) as u32));
                Change::Name(rng.below(30) as u32, name)
            }
            3 => Change::State(state_key(rng), value(rng)),
            4 => Change::Wallet(rng.below(8) as u32, value(rng)),
            _ => Change::Mempool(rng.below(12), value(rng)),
        };
        self.used_wallet |= matches!(change, Change::Wallet(..));
        self.used_mempool |= matches!(change, Change::Mempool(..));
        apply(overlay, &change)?;
        self.tables.change(change.clone());
        self.changes.push(change);
        Ok(())
    }

    fn save(&mut self, overlay: &mut Overlay) -> Checked {
        self.saved.push((overlay.savepoint(), self.tables.clone(), self.changes.len()));
        self.depth_max = self.depth_max.max(self.saved.len());
        Ok(())
    }

    /// Ends a savepoint, usually the newest one.
    fn end(&mut self, overlay: &mut Overlay, rng: &mut Rng) -> Checked {
        let Some(newest) = self.saved.len().checked_sub(1) else { return Ok(()) };
        let at = if rng.below(5) == 0 { rng.index(newest + 1) } else { newest };
        let mut ended = self.saved.split_off(at);
        let (savepoint, tables, changes) = ended.remove(0);
        if rng.coin() {
            overlay.rollback(savepoint)?;
            self.tables = tables;
            self.changes.truncate(changes);
        } else {
            overlay.release(savepoint)?;
        }
        for (inner, ..) in ended {
            let before = overlay.len();
            let refused = if rng.coin() { overlay.rollback(inner) } else { overlay.release(inner) };
            if refused != Err(Error::SavepointGone) || overlay.len() != before {
                return Err(Trouble::Wrong(format!("a savepoint that has ended gave {refused:?}")));
            }
        }
        Ok(())
    }

    async fn read(&mut self, overlay: &mut Overlay, rng: &mut Rng) -> Checked {
        let tables = &self.tables;
        match rng.below(if self.with_mempool { 6 } else { 5 }) {
            0 => points::<Plain>(overlay, &tables.plain, || plain_key(rng)).await,
            1 => {
                let keys = |rng: &mut Rng| pick(&tables.coins, rng).unwrap_or(rng.below(20));
                points::<Coins>(overlay, &tables.coins, || keys(rng)).await
            }
            2 => points::<Names>(overlay, &tables.names, || rng.below(30) as u32).await,
            3 => points::<States>(overlay, &tables.states, || state_key(rng)).await,
            4 => {
                self.used_wallet = true;
                points::<Wallet>(overlay, &tables.wallet, || rng.below(8) as u32).await
            }
            _ => {
                self.used_mempool = true;
                points::<Mempool>(overlay, &tables.mempool, || rng.below(12)).await
            }
        }
    }

    async fn scan(&mut self, overlay: &mut Overlay, rng: &mut Rng) -> Checked {
        let (low, high) = (plain_key(rng), plain_key(rng));
        let (start, end) = match rng.below(4) {
            0 => (Bound::Unbounded, Bound::Unbounded),
            1 => (Bound::Included(&low), Bound::Unbounded),
            2 => (Bound::Included(&low), Bound::Excluded(&high)),
            _ => (Bound::Excluded(&low), Bound::Included(&high)),
        };
        let within = |key: &Vec<u8>| {
            let above = match start {
                Bound::Included(low) => key >= low,
                Bound::Excluded(low) => key > low,
                Bound::Unbounded => true,
            };
            above
                && match end {
                    Bound::Included(high) => key <= high,
                    Bound::Excluded(high) => key < high,
                    Bound::Unbounded => true,
                }
        };
        let mut wanted: Vec<_> = self
            .tables
            .plain
            .iter()
            .filter(|(key, _)| within(key))
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect();
        let limit = if rng.coin() { rng.index(5) } else { usize::MAX };
        let mut scan = overlay.scan::<Plain>().range(start, end).limit(limit);
        if rng.coin() {
            scan = scan.descending();
            wanted.reverse();
        }
        wanted.truncate(limit);
        same("a scan of plain", &scan.collect().await?, &wanted)?;

        let contract = rng.below(5) as u16;
        let rows = overlay.scan::<States>().prefix(&(contract,)).collect().await?;
        let wanted = self.tables.states.iter().filter(|((of, _), _)| *of == contract);
        let wanted: Vec<_> = wanted.map(|(key, value)| (*key, value.clone())).collect();
        Ok(same("the slots of a contract", &rows, &wanted)?)
    }

    async fn scan_indexes(&mut self, overlay: &mut Overlay, rng: &mut Rng) -> Checked {
        let content = Content::of(&self.tables);
        let down = rng.coin();
        let mut scan = overlay.scan_index::<ByOwner>();
        let owner = rng.below(4) as u32;
        let only = rng.coin();
        if only {
            scan = scan.prefix(&(owner,));
        }
        let limit = if rng.coin() { rng.index(6) } else { usize::MAX };
        let mut wanted: Vec<_> =
            content.by_owner.iter().filter(|row| !only || row.0.0 == owner).copied().collect();
        if down {
            scan = scan.descending();
            wanted.reverse();
        }
        wanted.truncate(limit);
        let rows = scan.limit(limit).collect().await?;
        let rows: Vec<_> =
            rows.into_iter().map(|((owner, Desc(amount)), id, (c,))| ((owner, amount), id, c)).collect();
        same("coins by owner", &rows, &wanted)?;

        let by_tag = overlay.scan_index::<ByTag>().collect().await;
        if self.contradicts() {
            return match by_tag {
                Err(Error::DuplicateKey { .. }) => Ok(()),
                other => Err(Trouble::Wrong(format!("names with the same tag give {other:?}"))),
            };
        }
        let rows: Vec<_> = by_tag?.into_iter().map(|(tag, key, ())| (tag, key)).collect();
        Ok(same("names by tag", &rows, &content.by_tag)?)
    }

    async fn find_by_tag(&mut self, overlay: &mut Overlay, rng: &mut Rng) -> Checked {
        let tag = rng.below(60);
        let owners: Vec<_> = self.tables.names.iter().filter(|(_, name)| name.0 == tag).collect();
        let got = overlay.get_by::<ByTag>(&tag).await;
        match (owners.as_slice(), got) {
            ([], Ok(None)) | ([_, _, ..], Err(Error::DuplicateKey { .. })) => Ok(()),
            ([(key, name)], Ok(Some(got))) if got == (**key, **name) => Ok(()),
            (owners, got) => Err(Trouble::Wrong(format!("tag {tag} of {owners:?} gives {got:?}"))),
        }
    }
}

/// Reads some keys in one of several ways; then all of them without leaving the thread.
async fn points<C: Collection>(
    overlay: &mut Overlay,
    wanted: &BTreeMap<C::Key, C::Value>,
    mut key: impl FnMut() -> C::Key,
) -> Checked
where
    C::Key: Ord + Clone + Debug,
    C::Value: PartialEq + Clone + Debug,
{
    let keys = [key(), key(), key(), key()];
    let wanted: Vec<_> = keys.iter().map(|key| wanted.get(key).cloned()).collect();
    match format!("{keys:?}").len() % 4 {
        0 => same(C::NAME, &[overlay.get::<C>(&keys[0]).await?], &wanted[..1])?,
        1 => same(C::NAME, &[overlay.exists::<C>(&keys[0]).await?], &[wanted[0].is_some()])?,
        2 => same(C::NAME, &overlay.get_many::<C>(&keys).await?, &wanted)?,
        _ => {}
    }
    overlay.warm::<C>(&keys).await?;
    for (key, wanted) in keys.iter().zip(&wanted) {
        let got = overlay.get::<C>(key).now_or_never().expect("a warm key is read on this thread")?;
        same(C::NAME, &[got], std::slice::from_ref(wanted))?;
        same(C::NAME, &[overlay.blocking().get::<C>(key)?], std::slice::from_ref(wanted))?;
        same(C::NAME, &[overlay.blocking().exists::<C>(key)?], &[wanted.is_some()])?;
    }
    Ok(())
}

/// Makes a change in an overlay.
pub fn apply(overlay: &mut Overlay, change: &Change) -> Result<(), Error> {
    fn put<C: Collection>(
        overlay: &mut Overlay,
        key: &C::Key,
        value: Option<&C::Value>,
    ) -> Result<(), Error> {
        match value {
            Some(value) => overlay.put::<C>(key, value),
            None => overlay.delete::<C>(key),
        }
    }
    match change {
        Change::Plain(key, value) => put::<Plain>(overlay, key, value.as_ref()),
        Change::Coin(key, value) => put::<Coins>(overlay, key, value.as_ref()),
        Change::Name(key, value) => put::<Names>(overlay, key, value.as_ref()),
        Change::State(key, value) => put::<States>(overlay, key, value.as_ref()),
        Change::Wallet(key, value) => put::<Wallet>(overlay, key, value.as_ref()),
        Change::Mempool(key, value) => put::<Mempool>(overlay, key, value.as_ref()),
    }
}

fn pick<V>(map: &BTreeMap<u64, V>, rng: &mut Rng) -> Option<u64> {
    if map.is_empty() || rng.below(3) == 0 {
        return None;
    }
    map.keys().nth(rng.index(map.len())).copied()
}

/// Keys over few letters: many are the beginning of another.
fn plain_key(rng: &mut Rng) -> Vec<u8> {
    (0..rng.index(5)).map(|_| [0, 1, 0xFF][rng.index(3)]).collect()
}

fn state_key(rng: &mut Rng) -> (u16, u32) {
    (rng.below(5) as u16, rng.below(12) as u32)
}
