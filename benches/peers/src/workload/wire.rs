//! Blocks as bytes, on their way from the runner to a worker.

use super::block::Block;
use crate::Result;

impl Block {
    /// The block as bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = self.height.to_le_bytes().to_vec();
        out.extend(self.hash);
        out.extend(self.parent);
        out.extend(self.header);
        let counts = [self.created.len(), self.spent.len(), self.slots.len(), self.transactions.len()];
        counts.iter().for_each(|count| out.extend((*count as u32).to_le_bytes()));
        for (key, value) in &self.created {
            out.extend(key);
            out.extend(value);
        }
        self.spent.iter().for_each(|key| out.extend(key));
        for (key, value) in &self.slots {
            out.extend(key);
            out.extend(value);
        }
        for (txid, body) in &self.transactions {
            out.extend(txid);
            out.extend((body.len() as u32).to_le_bytes());
            out.extend(body);
        }
        out
    }

    /// The block that `bytes` hold.
    ///
    /// # Errors
    /// If they end too early.
    pub fn decode(mut bytes: &[u8]) -> Result<Self> {
        let input = &mut bytes;
        let height = number(input)?;
        let (hash, parent, header) = (array(input)?, array(input)?, array(input)?);
        let [created, spent, slots, transactions] =
            [number(input)?, number(input)?, number(input)?, number(input)?];
        Ok(Self {
            height,
            hash,
            parent,
            header,
            created: (0..created).map(|_| Ok((array(input)?, array(input)?))).collect::<Result<_>>()?,
            spent: (0..spent).map(|_| array(input)).collect::<Result<_>>()?,
            slots: (0..slots).map(|_| Ok((array(input)?, array(input)?))).collect::<Result<_>>()?,
            transactions: (0..transactions).map(|_| transaction(input)).collect::<Result<_>>()?,
        })
    }
}

fn transaction(input: &mut &[u8]) -> Result<([u8; 32], Vec<u8>)> {
    let (txid, len) = (array(input)?, number(input)? as usize);
    let (body, rest) = input.split_at_checked(len).ok_or("a block ends inside a transaction")?;
    *input = rest;
    Ok((txid, body.to_vec()))
}

fn array<const N: usize>(input: &mut &[u8]) -> Result<[u8; N]> {
    let (head, rest) = input.split_first_chunk().ok_or("a block ends too early")?;
    *input = rest;
    Ok(*head)
}

fn number(input: &mut &[u8]) -> Result<u32> {
    array(input).map(u32::from_le_bytes)
}
