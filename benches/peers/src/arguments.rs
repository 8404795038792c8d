//! The arguments of the program.

use std::path::PathBuf;

use crate::stores::Kind;
use crate::workload::Shape;
use crate::{Error, Result};

/// What `--help` prints.
pub const USAGE: &str = "\
op-engine-peers [OPTIONS]     the same node-like workload on several stores, one after another

  --quick                     a small run, under 2 minutes; options after it change it further
  --blocks N                  blocks of each measured ingest [100]
  --seconds N                 an ingest that takes longer is cut: its figures are marked [6]
  --transactions N            transactions of a block [2000]
  --coins N                   coins before the first measured block [1000000]
  --slots N                   contract slots before the first measured block [500000]
  --reads N                   random reads of each kind [20000]
  --rounds N                  interleaved rounds, of which medians are taken [3]
  --stores A,B                of op-engine,rocksdb,fjall,redb,lmdb [all]
  --durability D              durable at each block, each hundred, or both: block|hundred|both [both]
  --memory-fraction F         memory of a store as a part of the data [0.25]
  --path DIR                  where the stores are made, and removed again [op-engine-peers-data]
  --seed N                    another chain [1]
  --keep                      leave the stores in place";

/// When commits are durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Durability {
    /// Every hundredth block.
    Hundred,
    /// Every block.
    Block,
}

impl Durability {
    /// As tables say it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Hundred => "each 100 blocks",
            Self::Block => "each block",
        }
    }
}

/// What is to be run.
#[derive(Debug, Clone)]
pub struct Arguments {
    /// The chain.
    pub shape: Shape,
    /// Blocks of each measured ingest.
    pub blocks: u32,
    /// A measured ingest that takes longer is cut.
    pub seconds_max: u64,
    /// Reads of each kind.
    pub reads: usize,
    /// Interleaved rounds.
    pub rounds: usize,
    /// The stores, in the order of their turns.
    pub stores: Vec<Kind>,
    /// The measured ingests, in their order.
    pub durabilities: Vec<Durability>,
    /// Memory of a store as a part of the data.
    pub memory_fraction: f64,
    /// Where the stores are made.
    pub path: PathBuf,
    /// Whether they are left there.
    pub keep: bool,
}

impl Default for Arguments {
    fn default() -> Self {
        Self {
            shape: Shape {
                seed: 1,
                base_blocks: 300,
                base_coins: 1_000_000,
                base_slots: 500_000,
                transactions: 2000,
            },
            blocks: 100,
            seconds_max: 6,
            reads: 20_000,
            rounds: 3,
            stores: Kind::ALL.to_vec(),
            durabilities: vec![Durability::Hundred, Durability::Block],
            memory_fraction: 0.25,
            path: "op-engine-peers-data".into(),
            keep: false,
        }
    }
}

impl Arguments {
    /// From the command line; `None` if help is asked for.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn parse(mut words: impl Iterator<Item = String>) -> Result<Option<Self>> {
        let mut arguments = Self::default();
        while let Some(name) = words.next() {
            match name.as_str() {
                "--help" | "-h" => return Ok(None),
                "--quick" => arguments.quick(),
                "--keep" => arguments.keep = true,
                _ => {
                    let value = words.next().ok_or_else(|| format!("{name} needs a value"))?;
                    arguments.set(&name, &value).map_err(|error| format!("{name} {value}: {error}"))?;
                }
            }
        }
        Ok(Some(arguments))
    }

    fn quick(&mut self) {
        self.shape.base_coins = 200_000;
        self.shape.base_slots = 100_000;
        (self.blocks, self.reads, self.rounds, self.seconds_max) = (40, 5_000, 1, 3);
    }

    fn set(&mut self, name: &str, value: &str) -> Result<()> {
        match name {
            "--blocks" => self.blocks = positive(value)?,
            "--seconds" => self.seconds_max = value.parse()?,
            "--transactions" => self.shape.transactions = positive(value)? as usize,
            "--coins" => self.shape.base_coins = positive(value)? as usize,
            "--slots" => self.shape.base_slots = positive(value)? as usize,
            "--reads" => self.reads = positive(value)? as usize,
            "--rounds" => self.rounds = positive(value)? as usize,
            "--stores" => self.stores = value.split(',').map(Kind::parse).collect::<Result<_>>()?,
            "--memory-fraction" => self.memory_fraction = value.parse()?,
            "--path" => self.path = value.into(),
            "--seed" => self.shape.seed = value.parse()?,
            "--durability" => {
                self.durabilities = match value {
                    "block" => vec![Durability::Block],
                    "hundred" => vec![Durability::Hundred],
                    "both" => vec![Durability::Hundred, Durability::Block],
                    _ => return Err("block, hundred or both is expected".into()),
                }
            }
            _ => return Err("there is no such option".into()),
        }
        Ok(())
    }
}

fn positive(value: &str) -> Result<u32> {
    match value.parse()? {
        0 => Err(Error::from("at least 1 is needed")),
        number => Ok(number),
    }
}
