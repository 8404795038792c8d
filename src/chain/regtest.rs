//! A regtest chain made up from a seed: blocks for tests and demonstrations, without a node.
//!
//! The blocks are real as far as an index can see: proof of work at regtest difficulty, merkle roots, witness
//! commitments, heights in the coinbases (BIP 34), subsidies and fees, transactions of the common script types that
//! spend outputs which exist, some of them made in the same block. What is not real are the signatures: they have
//! the right form and random content, so a node would refuse the blocks.
//!
//! The same options give the same chain.

mod random;
mod wallet;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;

use bitcoin::absolute::LockTime;
use bitcoin::block::{Header, Version};
use bitcoin::blockdata::constants::genesis_block;
use bitcoin::blockdata::script::Builder;
use bitcoin::consensus::serialize;
use bitcoin::hashes::Hash;
use bitcoin::p2p::Magic;
use bitcoin::transaction::Version as TransactionVersion;
use bitcoin::{
    Amount, Block, BlockHash, CompactTarget, Network, OutPoint, ScriptBuf, Sequence, Transaction, TxIn,
    TxMerkleNode, TxOut, Txid, Witness, merkle_tree,
};
use op_engine_io::num::{to_u64, to_usize};

use super::ChainBlock;
use super::block_files::{BlockFileError, BlockFileWriter};
use random::Random;
use wallet::{Owner, Wallet};

/// The easiest target there is: two hashes on average.
const BITS: u32 = 0x207f_ffff;
const SUBSIDY: u64 = 50 * 100_000_000;
const HALVING_BLOCKS: u64 = 150;
const SECONDS_PER_BLOCK: u64 = 600;
/// No output is made with less.
const OUTPUT_SATOSHIS_MIN: u64 = 1_000;

/// What the blocks of a [`RegtestChain`] are like.
#[derive(Debug, Clone)]
pub struct RegtestOptions {
    /// The same seed gives the same chain.
    pub seed: u64,
    /// How many transactions a block has, the coinbase included, once there are coins to spend.
    pub transactions_per_block: usize,
    /// How many keys own the coins: at five script types each, the addresses in use are five times as many.
    pub keys: usize,
    /// After how many blocks the output of a coinbase may be spent. The network's rule is 100; with less, short chains
    /// have transactions too.
    pub coinbase_maturity: u64,
}

impl Default for RegtestOptions {
    fn default() -> Self {
        Self { seed: 1, transactions_per_block: 20, keys: 200, coinbase_maturity: 100 }
    }
}

/// An unspent output of a [`RegtestChain`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Coin {
    /// The output.
    pub output: TxOut,
    /// The height of the block that made it.
    pub height: u64,
    /// Whether a coinbase made it.
    pub coinbase: bool,
    owner: Owner,
}

/// Makes the blocks of a chain, and of branches from it.
#[derive(Debug)]
pub struct RegtestChain {
    options: RegtestOptions,
    random: Random,
    wallet: Wallet,
    /// Every block in the order in which it was mined, those of abandoned branches too.
    mined: Vec<Arc<ChainBlock>>,
    /// How many blocks were ever mined. It makes coinbases of competing branches differ.
    mined_count: u64,
    /// The chain up to the tip, without what was forgotten.
    active: VecDeque<Layer>,
    /// The coinbase output of every height of the chain; none at genesis, whose output cannot be spent.
    coinbases: Vec<Option<OutPoint>>,
    coins: BTreeMap<OutPoint, Coin>,
    /// The coins that may be spent, in no order.
    spendable: Vec<OutPoint>,
}

/// A block of the chain and how to undo it.
#[derive(Debug)]
struct Layer {
    block: Arc<ChainBlock>,
    created: Vec<OutPoint>,
    spent: Vec<(OutPoint, Coin)>,
}

/// What the transactions of a block under construction did.
#[derive(Debug, Default)]
struct Draft {
    transactions: Vec<Transaction>,
    txids: Vec<Txid>,
    created: Vec<OutPoint>,
    spent: Vec<(OutPoint, Coin)>,
    fees: u64,
}

impl RegtestChain {
    /// The chain that has the genesis block only.
    #[must_use]
    pub fn new(options: RegtestOptions) -> Self {
        let mut random = Random::new(options.seed);
        let wallet = Wallet::new(options.keys, &mut random);
        let block = genesis_block(Network::Regtest);
        let txids = block.txdata.iter().map(Transaction::compute_txid).collect();
        let genesis = Arc::new(chain_block(0, block, txids));
        let layer = Layer { block: Arc::clone(&genesis), created: Vec::new(), spent: Vec::new() };
        Self {
            options,
            random,
            wallet,
            mined: vec![genesis],
            mined_count: 1,
            active: VecDeque::from([layer]),
            coinbases: vec![None],
            coins: BTreeMap::new(),
            spendable: Vec::new(),
        }
    }

    /// The magic of the network.
    #[must_use]
    pub fn magic() -> [u8; 4] {
        Magic::REGTEST.to_bytes()
    }

    /// The height of the tip.
    #[must_use]
    pub fn height(&self) -> u64 {
        // There is a coinbase for every height from 0 on.
        to_u64(self.coinbases.len()).saturating_sub(1)
    }

    /// The tip.
    #[must_use]
    pub fn tip(&self) -> Option<&Arc<ChainBlock>> {
        self.active.back().map(|layer| &layer.block)
    }

    /// The chain's block at `height`, unless it was forgotten.
    #[must_use]
    pub fn block_at(&self, height: u64) -> Option<&Arc<ChainBlock>> {
        let first = self.active.front()?.block.height;
        self.active.get(to_usize(height.checked_sub(first)?)).map(|layer| &layer.block)
    }

    /// Every block in the order in which it was mined, those of abandoned branches too.
    #[must_use]
    pub fn mined(&self) -> &[Arc<ChainBlock>] {
        &self.mined
    }

    /// The unspent outputs at the tip. As in a node, outputs that can never be spent (`OP_RETURN`, and the one of the
    /// genesis block) are not among them.
    #[must_use]
    pub fn utxos(&self) -> &BTreeMap<OutPoint, Coin> {
        &self.coins
    }

    /// Changes how many transactions the next blocks have, the coinbase included.
    pub fn set_transactions_per_block(&mut self, transactions: usize) {
        self.options.transactions_per_block = transactions;
    }

    /// Mines one block on the tip.
    pub fn mine(&mut self) -> Arc<ChainBlock> {
        let height = self.height() + 1;
        if let Some(mature) = height.checked_sub(self.options.coinbase_maturity)
            && let Some(Some(coinbase)) = self.coinbases.get(to_usize(mature))
        {
            self.spendable.push(*coinbase);
        }
        let mut draft = Draft::default();
        while draft.transactions.len() + 1 < self.options.transactions_per_block {
            let Some(inputs) = self.take_inputs(&mut draft) else { break };
            let transaction = self.transaction(&inputs, &mut draft);
            self.include(transaction, height, &mut draft);
        }
        self.finish_block(height, draft)
    }

    /// Mines `count` blocks on the tip.
    pub fn mine_blocks(&mut self, count: u64) {
        for _ in 0..count {
            self.mine();
        }
    }

    /// Goes back to `height`: the next blocks compete with those above it, which stay among [`mined`](Self::mined).
    /// Returns whether it could: not above the tip or below what was forgotten.
    pub fn fork_from(&mut self, height: u64) -> bool {
        if self.block_at(height).is_none() {
            return false;
        }
        while self.height() > height {
            let Some(layer) = self.active.pop_back() else { break };
            self.coinbases.pop();
            self.coins.extend(layer.spent);
            // A coin that was made and spent in the block goes again.
            for made in layer.created {
                self.coins.remove(&made);
            }
        }
        let maturity = self.options.coinbase_maturity;
        let mature = |coin: &Coin| !coin.coinbase || coin.height + maturity <= height;
        self.spendable = self.coins.iter().filter(|(_, coin)| mature(coin)).map(|(at, _)| *at).collect();
        true
    }

    /// Frees the memory of the blocks below `height`. They can no longer be written, or be forked from.
    pub fn forget_below(&mut self, height: u64) {
        self.mined.retain(|block| block.height >= height);
        while self.active.len() > 1 && self.active.front().is_some_and(|layer| layer.block.height < height) {
            self.active.pop_front();
        }
    }

    /// Writes every block in the order in which it was mined into block files below `dir`, as a node does.
    ///
    /// # Errors
    /// If the operating system refuses.
    pub fn write_block_files(
        &self,
        dir: impl Into<PathBuf>,
        xor_key: Option<[u8; 8]>,
    ) -> Result<(), BlockFileError> {
        let mut writer = BlockFileWriter::create(dir, Self::magic(), xor_key)?;
        for block in &self.mined {
            writer.append(&block.raw)?;
        }
        writer.finish()
    }

    /// Takes some coins out of the set; `None` if there are none to spend.
    fn take_inputs(&mut self, draft: &mut Draft) -> Option<Vec<(OutPoint, Coin)>> {
        let wanted = match self.random.below(10) {
            _ if self.is_short_of_coins() => 1,
            0..6 => 1,
            6..8 => 2,
            8 => 3,
            _ => 5,
        };
        let mut inputs = Vec::with_capacity(wanted);
        while inputs.len() < wanted && !self.spendable.is_empty() {
            let picked = self.random.below(self.spendable.len());
            let outpoint = self.spendable.swap_remove(picked);
            if let Some(coin) = self.coins.remove(&outpoint) {
                draft.spent.push((outpoint, coin.clone()));
                inputs.push((outpoint, coin));
            }
        }
        (!inputs.is_empty()).then_some(inputs)
    }

    fn is_short_of_coins(&self) -> bool {
        self.spendable.len() < self.options.transactions_per_block
    }

    /// Spends `inputs` into some outputs.
    fn transaction(&mut self, inputs: &[(OutPoint, Coin)], draft: &mut Draft) -> (Transaction, Vec<Owner>) {
        let mut input = Vec::with_capacity(inputs.len());
        for (outpoint, coin) in inputs {
            let (script_sig, witness) = self.wallet.spend(coin.owner, &mut self.random);
            let sequence = Sequence::ENABLE_RBF_NO_LOCKTIME;
            input.push(TxIn { previous_output: *outpoint, script_sig, sequence, witness });
        }
        let total = inputs.iter().map(|(_, coin)| coin.output.value.to_sat()).sum::<u64>();
        let fee = if total > 20 * OUTPUT_SATOSHIS_MIN { 200 + to_u64(self.random.below(2_000)) } else { 0 };
        draft.fees += fee;

        let wanted = match self.random.below(20) {
            any if self.is_short_of_coins() => 8 + any,
            0..3 => 1,
            3..17 => 2,
            17..19 => 3,
            _ => 4,
        };
        let mut output = Vec::with_capacity(wanted + 1);
        let mut owners = Vec::with_capacity(wanted);
        let mut rest = total - fee;
        for left in (1..=to_u64(wanted)).rev() {
            let share = rest / left / 2 + to_u64(self.random.below(to_usize(rest / left).max(1)));
            let value = if left == 1 || rest < share + OUTPUT_SATOSHIS_MIN { rest } else { share };
            if value < OUTPUT_SATOSHIS_MIN && left > 1 {
                continue;
            }
            let owner = self.wallet.owner(&mut self.random);
            output.push(TxOut { value: Amount::from_sat(value), script_pubkey: self.wallet.script(owner) });
            owners.push(owner);
            rest -= value;
            if rest == 0 {
                break;
            }
        }
        if self.random.below(25) == 0 {
            let script_pubkey = wallet::data_script(&mut self.random);
            output.push(TxOut { value: Amount::ZERO, script_pubkey });
        }
        let lock_time = LockTime::ZERO;
        (Transaction { version: TransactionVersion::TWO, lock_time, input, output }, owners)
    }

    /// Adds a transaction to the draft and its outputs to the coins.
    fn include(&mut self, (transaction, owners): (Transaction, Vec<Owner>), height: u64, draft: &mut Draft) {
        let txid = transaction.compute_txid();
        // Outputs that carry data come last and have no owner.
        for ((vout, output), owner) in (0..).zip(&transaction.output).zip(owners) {
            let outpoint = OutPoint { txid, vout };
            self.coins.insert(outpoint, Coin { output: output.clone(), height, coinbase: false, owner });
            self.spendable.push(outpoint);
            draft.created.push(outpoint);
        }
        draft.txids.push(txid);
        draft.transactions.push(transaction);
    }

    /// Puts the coinbase before the transactions, finds the proof of work and makes the block the tip.
    fn finish_block(&mut self, height: u64, mut draft: Draft) -> Arc<ChainBlock> {
        let owner = self.wallet.owner(&mut self.random);
        let coinbase = self.coinbase(height, owner, &draft);
        let outpoint = OutPoint { txid: coinbase.compute_txid(), vout: 0 };
        if let Some(output) = coinbase.output.first() {
            self.coins.insert(outpoint, Coin { output: output.clone(), height, coinbase: true, owner });
            draft.created.push(outpoint);
        }
        draft.txids.insert(0, outpoint.txid);
        draft.transactions.insert(0, coinbase);

        let parent = self.tip().map_or_else(BlockHash::all_zeros, |tip| BlockHash::from_byte_array(tip.hash));
        let header = self.header(height, parent, &draft.txids);
        let block = chain_block(height, Block { header, txdata: draft.transactions }, draft.txids);
        let block = Arc::new(block);
        self.mined.push(Arc::clone(&block));
        self.mined_count += 1;
        self.coinbases.push(Some(outpoint));
        let layer = Layer { block: Arc::clone(&block), created: draft.created, spent: draft.spent };
        self.active.push_back(layer);
        block
    }

    fn coinbase(&self, height: u64, owner: Owner, draft: &Draft) -> Transaction {
        let reserved = [0; 32];
        let wtxids = std::iter::once([0; 32])
            .chain(draft.transactions.iter().map(|transaction| transaction.compute_wtxid().to_byte_array()));
        let root = merkle_tree::calculate_root(wtxids.map(bitcoin::WitnessMerkleNode::from_byte_array));
        let commitment = root.map(|root| Block::compute_witness_commitment(&root, &reserved));
        let mut commitment_script = vec![0x6a, 0x24, 0xaa, 0x21, 0xa9, 0xed];
        commitment_script.extend(commitment.iter().flat_map(|commitment| commitment.to_byte_array()));

        let halvings = u32::try_from(height / HALVING_BLOCKS).unwrap_or(u32::MAX);
        let subsidy = SUBSIDY.checked_shr(halvings).unwrap_or(0);
        let script_sig = Builder::new()
            .push_int(i64::try_from(height).unwrap_or(i64::MAX))
            .push_slice(self.mined_count.to_le_bytes())
            .into_script();
        Transaction {
            version: TransactionVersion::TWO,
            lock_time: LockTime::ZERO,
            input: vec![TxIn {
                previous_output: OutPoint::null(),
                script_sig,
                sequence: Sequence::MAX,
                witness: Witness::from_slice(&[reserved]),
            }],
            output: vec![
                TxOut {
                    value: Amount::from_sat(subsidy + draft.fees),
                    script_pubkey: self.wallet.script(owner),
                },
                TxOut { value: Amount::ZERO, script_pubkey: ScriptBuf::from_bytes(commitment_script) },
            ],
        }
    }

    fn header(&self, height: u64, parent: BlockHash, txids: &[Txid]) -> Header {
        let genesis_time = u64::from(genesis_block(Network::Regtest).header.time);
        let merkle_root = merkle_tree::calculate_root(txids.iter().copied().map(TxMerkleNode::from));
        let mut header = Header {
            version: Version::NO_SOFT_FORK_SIGNALLING,
            prev_blockhash: parent,
            merkle_root: merkle_root.unwrap_or_else(TxMerkleNode::all_zeros),
            time: u32::try_from(genesis_time + height * SECONDS_PER_BLOCK).unwrap_or(u32::MAX),
            bits: CompactTarget::from_consensus(BITS),
            nonce: 0,
        };
        while !header.target().is_met_by(header.block_hash()) {
            header.nonce += 1;
        }
        header
    }
}

fn chain_block(height: u64, block: Block, txids: Vec<Txid>) -> ChainBlock {
    ChainBlock {
        height,
        hash: block.block_hash().to_byte_array(),
        parent: block.header.prev_blockhash.to_byte_array(),
        raw: serialize(&block),
        txids: txids.iter().map(|txid| txid.to_byte_array()).collect(),
        block,
    }
}
