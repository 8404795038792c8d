//! Runs the workload on one store after another, in rounds.

mod files;
mod machine;
mod memory_group;
mod process;
mod questions;
mod results;
mod turn;

use std::time::Instant;

use crate::Result;
use crate::arguments::Arguments;
use crate::workload::Chain;
use memory_group::Memory;
use results::Results;
use turn::Player;

/// With less, some store cannot do with what it is given.
const MEMORY_BYTES_MIN: u64 = 128 << 20;
const MIB: u64 = 1 << 20;

/// Runs everything and prints the table.
///
/// # Errors
/// If a store failed or answered wrongly; the table of the others is printed all the same.
pub fn run(arguments: &Arguments) -> Result<()> {
    let began = Instant::now();
    let say = |text: String| eprintln!("[{:>5.0} s] {text}", began.elapsed().as_secs_f64());
    std::fs::create_dir_all(&arguments.path)?;
    let (machine, tip) = (machine::describe(&arguments.path), tip_max(arguments));
    say(format!("making {} blocks", tip + 1));
    let chain = Chain::new(&arguments.shape, tip);
    let memory_bytes = ((chain.bytes() as f64 * arguments.memory_fraction) as u64).max(MEMORY_BYTES_MIN);
    let memory = Memory::detect();
    say(format!("data {} MiB, memory {} MiB, {memory}", chain.bytes() / MIB, memory_bytes / MIB));
    let player = |kind: &_| Player::new(arguments, &chain, &memory, memory_bytes, *kind);
    let mut players: Vec<Player> = arguments.stores.iter().map(player).collect();
    let mut results = Results::default();
    // Round 0 fills the stores.
    for round in 0..=arguments.rounds {
        for player in &mut players {
            let kind = player.kind();
            if results.has_failed(kind) {
                continue;
            }
            let played = if round == 0 {
                say(format!("{}: filling", kind.name()));
                player.fill()
            } else {
                say(format!("{}: round {round} of {}", kind.name(), arguments.rounds));
                player.play(round == arguments.rounds, &mut results)
            };
            if let Err(error) = played {
                say(format!("{}: {error}", kind.name()));
                results.fail(kind, error.to_string());
            }
        }
    }
    if !arguments.keep {
        std::fs::remove_dir_all(&arguments.path)?;
    }
    say("done".to_owned());
    println!("{machine}\n\n{}", legend(arguments, &chain, memory_bytes, &memory));
    println!("{}", results.table(&arguments.stores));
    if results.failures() > 0 { Err("not every store took part to the end".into()) } else { Ok(()) }
}

/// The highest block that a run can come to: a round goes on where the one before it has gone back to.
fn tip_max(arguments: &Arguments) -> u32 {
    let blocks = arguments.blocks * arguments.durabilities.len() as u32;
    let gained = blocks - 1 - turn::DEEP_BLOCKS.min(blocks - 1);
    arguments.shape.base_blocks - 1 + blocks + gained * (arguments.rounds as u32 - 1)
}

fn legend(arguments: &Arguments, chain: &Chain, memory_bytes: u64, memory: &Memory) -> String {
    let shape = &arguments.shape;
    format!(
        "Up to {} blocks of {} transactions for each ingest, cut after {} s (≈: figures of fewer blocks, reorgs scaled to \
         100 blocks), after {} blocks with {} coins and {} slots. {} MiB of keys and values. Memory of each store: {} MiB, \
         {memory}. {} reads of each kind. Medians of {} interleaved rounds; in brackets, how the figure stands to the \
         first column's. ↑ more is better, ↓ less is better.\n",
        arguments.blocks,
        shape.transactions,
        arguments.seconds_max,
        shape.base_blocks,
        shape.base_coins,
        shape.base_slots,
        chain.bytes() / MIB,
        memory_bytes / MIB,
        arguments.reads,
        arguments.rounds,
    )
}
