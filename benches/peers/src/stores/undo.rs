//! What a peer must remember of a block to take it back.

use crate::workload::{
    Block, CoinKey, CoinValue, OldValues, ScriptKey, SlotKey, SlotValue, Txid, script_hash, script_key,
};
use crate::{Error, Result};

/// The opposite of a block.
///
/// | bytes | field |
/// |---|---|
/// | 4 | transactions that made coins |
/// | each: 32 + 1 + 32 n | txid, number of coins, their script hashes |
/// | 4 | spent coins |
/// | each: 36 + 60 | key, value |
/// | 4 | slots |
/// | each: 64 + 1 (+ 32) | key, whether it was there, old value |
#[derive(Debug, Default)]
pub struct Undo {
    /// Coins to delete.
    pub created: Vec<CoinKey>,
    /// Their entries in the script index.
    pub created_scripts: Vec<ScriptKey>,
    /// Transactions to delete.
    pub transactions: Vec<Txid>,
    /// Coins to restore.
    pub spent: Vec<(CoinKey, CoinValue)>,
    /// Slots to restore or delete.
    pub slots: Vec<(SlotKey, Option<SlotValue>)>,
}

/// The record of a block.
pub fn encode(block: &Block, old: &OldValues) -> Result<Vec<u8>> {
    let mut out = Vec::with_capacity(1 << 20);
    let makers: Vec<_> = block.created.chunk_by(|(a, _), (b, _)| a[..32] == b[..32]).collect();
    out.extend((makers.len() as u32).to_le_bytes());
    for coins in makers {
        out.extend(&coins[0].0[..32]);
        out.push(coins.len() as u8);
        coins.iter().for_each(|(_, value)| out.extend(script_hash(value)));
    }
    out.extend((block.spent.len() as u32).to_le_bytes());
    for (key, value) in block.spent.iter().zip(&old.coins) {
        out.extend(key);
        out.extend(value.as_ref().ok_or("a coin that is spent is not there")?);
    }
    out.extend((block.slots.len() as u32).to_le_bytes());
    for ((key, _), old) in block.slots.iter().zip(&old.slots) {
        out.extend(key);
        out.push(u8::from(old.is_some()));
        out.extend(old.iter().flatten());
    }
    Ok(out)
}

impl Undo {
    /// The record in `bytes`.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let (mut undo, mut input) = (Self::default(), Input(bytes));
        for _ in 0..input.number()? {
            let txid: Txid = input.array()?;
            undo.transactions.push(txid);
            let [coins] = input.array()?;
            for output in 0..u32::from(coins) {
                let mut key = [0; 36];
                key[..32].copy_from_slice(&txid);
                key[32..].copy_from_slice(&output.to_be_bytes());
                undo.created_scripts.push(script_key(&input.array()?, &key));
                undo.created.push(key);
            }
        }
        for _ in 0..input.number()? {
            undo.spent.push((input.array()?, input.array()?));
        }
        for _ in 0..input.number()? {
            let (key, [was_there]) = (input.array()?, input.array()?);
            let old = if was_there == 1 { Some(input.array()?) } else { None };
            undo.slots.push((key, old));
        }
        Ok(undo)
    }
}

struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (head, rest) =
            self.0.split_first_chunk().ok_or_else(|| Error::from("an undo record is cut off"))?;
        self.0 = rest;
        Ok(*head)
    }

    fn number(&mut self) -> Result<u32> {
        self.array().map(u32::from_le_bytes)
    }
}
