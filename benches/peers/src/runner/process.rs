//! A worker, seen from the runner.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use super::memory_group::{Memory, MemoryGroup};
use crate::worker::Assignment;
use crate::{Error, Result};

const EXIT_MAX: Duration = Duration::from_secs(60);

/// A running worker. It is killed when this is dropped.
pub struct Process {
    child: Child,
    /// None once it has been told to end.
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    /// Removed when the process has ended.
    _group: Option<MemoryGroup>,
}

impl Process {
    /// Starts a worker with its own limit of memory.
    ///
    /// # Errors
    /// If it cannot be started or limited.
    pub fn start(assignment: &Assignment, memory: &Memory) -> Result<Self> {
        let group = memory.group(assignment.settings.memory_bytes)?;
        let mut child = Command::new(std::env::current_exe()?)
            .arg("worker")
            // Else glibc keeps freed memory in an arena for each of a store's threads.
            .env("MALLOC_ARENA_MAX", "2")
            .args(assignment.arguments())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let missing = || Error::from("a worker has no pipes");
        let input = child.stdin.take().ok_or_else(missing)?;
        let output = BufReader::new(child.stdout.take().ok_or_else(missing)?);
        let process = Self { child, input: Some(input), output, _group: group };
        if let Some(group) = &process._group {
            group.add(process.child.id())?;
        }
        Ok(process)
    }

    /// Gives a command and waits for the values of its answer.
    ///
    /// # Errors
    /// If it failed, or the worker is gone.
    pub fn ask(&mut self, command: &str, payload: &[u8]) -> Result<Vec<String>> {
        let input = self.input.as_mut().ok_or("the worker was told to end")?;
        let sent = writeln!(input, "{command} {}", payload.len()).and_then(|()| input.write_all(payload));
        let mut line = String::new();
        if sent.is_err() || self.output.read_line(&mut line)? == 0 {
            let status = self.child.wait()?;
            return Err(format!("the worker ended during `{command}`: {status}").into());
        }
        match line.split_once(' ') {
            Some(("ok", values)) => Ok(values.split_whitespace().map(str::to_owned).collect()),
            _ => Err(format!("`{command}`: {}", line.trim()).into()),
        }
    }

    /// As [`Process::ask`], for numbers.
    ///
    /// # Errors
    /// As there, and if an answer is no number.
    pub fn numbers<const N: usize>(&mut self, command: &str, payload: &[u8]) -> Result<[f64; N]> {
        let values = self.ask(command, payload)?;
        let values = values.iter().map(|it| Ok(it.parse()?)).collect::<Result<Vec<f64>>>()?;
        values.try_into().map_err(|_| format!("`{command}` has another number of values").into())
    }

    /// Ends it with SIGKILL.
    ///
    /// # Errors
    /// If that fails.
    pub fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Closes the store and waits for the end of the process.
    ///
    /// # Errors
    /// If closing fails.
    pub fn close(mut self) -> Result<()> {
        self.ask("close", &[])?;
        self.input = None;
        let began = Instant::now();
        while self.child.try_wait()?.is_none() {
            if began.elapsed() > EXIT_MAX {
                return Err("a worker does not end".into());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
