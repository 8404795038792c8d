//! A node's storage on a plain key-value store: script index and undo records are kept by hand.

use super::key_value::{Change, KeyValue, Space};
use super::undo::{self, Undo};
use super::{Store, Table, Visit, VisitRow, WINDOW_BLOCKS};
use crate::Result;
use crate::workload::{Block, OldValues, ScriptKey, script_hash, script_key};

const TIP: &[u8] = b"tip";

/// A node's storage on some key-value store.
pub struct Peer<K>(pub K);

impl<K: KeyValue> Peer<K> {
    fn number(&mut self, key: &[u8]) -> Result<Option<u32>> {
        let mut found = None;
        self.0.get(Space::Meta, key, &mut |_, value| {
            found = value.and_then(|value| value.try_into().ok()).map(u32::from_be_bytes);
        })?;
        Ok(found)
    }

    fn undo_keys(&mut self, height: u32) -> Result<Vec<[u8; 8]>> {
        let parts = self.number(&height.to_be_bytes())?.unwrap_or(0);
        Ok((0..parts).map(|part| part_key(height, part)).collect())
    }

    fn undo_record(&mut self, keys: &[[u8; 8]]) -> Result<Vec<u8>> {
        let keys: Vec<&[u8]> = keys.iter().map(|key| &key[..]).collect();
        let (mut record, mut missing) = (Vec::with_capacity(1 << 20), keys.is_empty());
        self.0.get_many(Space::Undo, &keys, &mut |_, part| match part {
            Some(part) => record.extend(part),
            None => missing = true,
        })?;
        if missing { Err("an undo record is missing".into()) } else { Ok(record) }
    }

    fn take_back(&mut self, height: u32, durable: bool) -> Result<()> {
        let parts = self.undo_keys(height)?;
        let undo = Undo::decode(&self.undo_record(&parts)?)?;
        let scripts: Vec<ScriptKey> =
            undo.spent.iter().map(|(key, value)| script_key(&script_hash(value), key)).collect();
        let (at, below) = (height.to_be_bytes(), height.wrapping_sub(1).to_be_bytes());
        let mut batch = Batch::default();
        batch.delete_all(Table::Coins, undo.created.iter().map(|key| &key[..]));
        batch.delete_all(Table::Scripts, undo.created_scripts.iter().map(|key| &key[..]));
        batch.delete_all(Table::Transactions, undo.transactions.iter().map(|key| &key[..]));
        batch.put_all(Table::Coins, undo.spent.iter().map(|(key, value)| (&key[..], &value[..])));
        batch.put_all(Table::Scripts, scripts.iter().map(|key| (&key[..], &[][..])));
        for (key, old) in &undo.slots {
            batch.change(Space::Data(Table::Slots), key, old.as_ref().map(|value| &value[..]));
        }
        batch.delete_all(Table::Ids, [&at[..]].into_iter());
        batch.delete_all(Table::Headers, [&at[..]].into_iter());
        parts.iter().for_each(|key| batch.change(Space::Undo, key, None));
        batch.change(Space::Meta, &at, None);
        batch.change(Space::Meta, TIP, Some(&below));
        batch.apply(&mut self.0, durable)
    }
}

impl<K: KeyValue> Store for Peer<K> {
    fn tip(&mut self) -> Result<Option<u32>> {
        self.number(TIP)
    }

    fn get(&mut self, table: Table, key: &[u8], visit: &mut Visit) -> Result<()> {
        self.0.get(Space::Data(table), key, visit)
    }

    fn get_many(&mut self, table: Table, keys: &[&[u8]], visit: &mut Visit) -> Result<()> {
        self.0.get_many(Space::Data(table), keys, visit)
    }

    fn commit(&mut self, block: &Block, old: &OldValues, durable: bool) -> Result<()> {
        let index = |key, value| script_key(&script_hash(value), key);
        let made: Vec<ScriptKey> = block.created.iter().map(|(key, value)| index(key, value)).collect();
        let spent = block.spent.iter().zip(old.coins.iter().flatten());
        let gone: Vec<ScriptKey> = spent.map(|(key, value)| index(key, value)).collect();
        let (ids, undo) = (block.ids(), undo::encode(block, old)?);
        let parts: Vec<_> = undo
            .chunks(K::VALUE_BYTES_MAX)
            .zip(0..)
            .map(|(part, number)| (part_key(block.height, number), part))
            .collect();
        let (at, count) = (block.height.to_be_bytes(), (parts.len() as u32).to_be_bytes());
        let expired = block.height.checked_sub(WINDOW_BLOCKS);
        let expired_parts = expired.map_or(Ok(Vec::new()), |height| self.undo_keys(height))?;
        let expired_at = expired.map(u32::to_be_bytes);

        let mut batch = Batch::default();
        batch.put_all(Table::Coins, block.created.iter().map(|(key, value)| (&key[..], &value[..])));
        batch.delete_all(Table::Coins, block.spent.iter().map(|key| &key[..]));
        batch.put_all(Table::Scripts, made.iter().map(|key| (&key[..], &[][..])));
        batch.delete_all(Table::Scripts, gone.iter().map(|key| &key[..]));
        batch.put_all(Table::Slots, block.slots.iter().map(|(key, value)| (&key[..], &value[..])));
        batch.put_all(Table::Transactions, block.transactions.iter().map(|(id, body)| (&id[..], &body[..])));
        batch.put_all(Table::Ids, [(&at[..], &ids[..])].into_iter());
        batch.put_all(Table::Headers, [(&at[..], &block.header[..])].into_iter());
        parts.iter().for_each(|(key, part)| batch.change(Space::Undo, key, Some(part)));
        expired_parts.iter().for_each(|key| batch.change(Space::Undo, key, None));
        batch.change(Space::Meta, &at, Some(&count));
        expired_at.iter().for_each(|at| batch.change(Space::Meta, at, None));
        batch.change(Space::Meta, TIP, Some(&at));
        batch.apply(&mut self.0, durable)
    }

    fn roll_back(&mut self, height: u32) -> Result<()> {
        let tip = self.tip()?.ok_or("the store is empty")?;
        for block in (height + 1..=tip).rev() {
            self.take_back(block, block == height + 1)?;
        }
        Ok(())
    }

    fn scan(&mut self, table: Table, visit: &mut VisitRow) -> Result<()> {
        self.0.scan(Space::Data(table), visit)
    }

    fn settle(&mut self) -> Result<()> {
        self.0.settle()
    }

    fn close(self: Box<Self>) -> Result<()> {
        self.0.close()
    }
}

/// Changes that are applied together.
#[derive(Default)]
struct Batch<'a>(Vec<Change<'a>>);

impl<'a> Batch<'a> {
    fn change(&mut self, space: Space, key: &'a [u8], value: Option<&'a [u8]>) {
        self.0.push(Change { space, key, value });
    }

    fn put_all(&mut self, table: Table, rows: impl Iterator<Item = (&'a [u8], &'a [u8])>) {
        rows.for_each(|(key, value)| self.change(Space::Data(table), key, Some(value)));
    }

    fn delete_all(&mut self, table: Table, keys: impl Iterator<Item = &'a [u8]>) {
        keys.for_each(|key| self.change(Space::Data(table), key, None));
    }

    fn apply<K: KeyValue>(mut self, to: &mut K, durable: bool) -> Result<()> {
        if K::SORTED {
            self.0.sort_by_key(|change| (change.space, change.key));
        }
        to.apply(&self.0, durable)
    }
}

fn part_key(height: u32, part: u32) -> [u8; 8] {
    let mut key = [0; 8];
    key[..4].copy_from_slice(&height.to_be_bytes());
    key[4..].copy_from_slice(&part.to_be_bytes());
    key
}
