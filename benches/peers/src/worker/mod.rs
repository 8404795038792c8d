//! A process that holds one store and does what it is told.
//!
//! A command is a line of words on standard input, the last of which is the number of bytes that follow it. The answer
//! is a line on standard output: `ok` and values, or `failed` and the reason. The process ends when its input does.

mod commands;
mod meter;

use std::io::{BufRead, BufReader, Read, Write};
use std::path::PathBuf;

use crate::Result;
use crate::stores::{Kind, Settings};
use commands::Commands;
pub use commands::read_old;

/// How a worker is started: its arguments after the word `worker`.
#[derive(Debug, Clone)]
pub struct Assignment {
    /// Which store.
    pub kind: Kind,
    /// Where it is.
    pub path: PathBuf,
    /// How it is opened.
    pub settings: Settings,
}

impl Assignment {
    /// As arguments.
    #[must_use]
    pub fn arguments(&self) -> [String; 4] {
        let Settings { memory_bytes, every_block_durable } = self.settings;
        [
            self.kind.name().to_owned(),
            self.path.display().to_string(),
            memory_bytes.to_string(),
            every_block_durable.to_string(),
        ]
    }

    /// From arguments.
    ///
    /// # Errors
    /// If they are not what [`Assignment::arguments`] gives.
    pub fn parse(arguments: &[String]) -> Result<Self> {
        let [kind, path, memory_bytes, every_block_durable] = arguments else {
            return Err("a worker needs store, path, memory and durability".into());
        };
        let settings = Settings {
            memory_bytes: memory_bytes.parse()?,
            every_block_durable: every_block_durable.parse()?,
        };
        Ok(Self { kind: Kind::parse(kind)?, path: path.into(), settings })
    }
}

/// Serves commands until the input ends.
///
/// # Errors
/// If input or output fail. A failed command is an answer.
pub fn run(assignment: Assignment) -> Result<()> {
    let mut input = BufReader::with_capacity(1 << 20, std::io::stdin());
    let mut commands = Commands::new(assignment);
    let (mut line, mut payload) = (String::new(), Vec::new());
    loop {
        line.clear();
        if input.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let words: Vec<&str> = line.split_whitespace().collect();
        let bytes: usize = words.last().ok_or("an empty command")?.parse()?;
        payload.resize(bytes, 0);
        input.read_exact(&mut payload)?;
        let answer = match commands.run(&words[..words.len() - 1], &payload) {
            Ok(values) => format!("ok {values}"),
            Err(error) => format!("failed {}", error.to_string().replace('\n', " ")),
        };
        let mut output = std::io::stdout().lock();
        writeln!(output, "{answer}")?;
        output.flush()?;
    }
}
