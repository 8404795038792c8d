//! How values look on a terminal.

use std::fmt;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::time::Duration;

use comfy_table::{CellAlignment, ContentArrangement, LineStyle, Table, TableStyle};
use op_engine_io::num::to_usize;

use super::failure::{Failure, Outcome};

/// Columns of a table when nobody looks at it on a terminal.
const COLUMNS: u16 = 80;

/// The standard output. A reader that goes away, as `head` does, is no failure: what follows is dropped.
pub(crate) struct Out {
    stream: BufWriter<io::Stdout>,
    closed: bool,
}

impl Out {
    pub(crate) fn new() -> Self {
        Self { stream: BufWriter::new(io::stdout()), closed: false }
    }

    /// Whether nobody reads any more.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed
    }

    /// Prints a line.
    pub(crate) fn line(&mut self, line: impl fmt::Display) -> Outcome {
        if self.closed {
            return Ok(());
        }
        let written = writeln!(self.stream, "{line}");
        self.note(written)
    }

    /// Prints a table below a heading.
    pub(crate) fn table(&mut self, heading: &str, table: &Table) -> Outcome {
        if !heading.is_empty() {
            self.line(heading)?;
        }
        for line in table.to_string().lines() {
            self.line(line.trim_end())?;
        }
        self.line("")
    }

    /// Makes what was printed visible.
    pub(crate) fn flush(&mut self) -> Outcome {
        if self.closed {
            return Ok(());
        }
        let flushed = self.stream.flush();
        self.note(flushed)
    }

    fn note(&mut self, written: io::Result<()>) -> Outcome {
        match written {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.closed = true;
                Ok(())
            }
            written => written.map_err(|error| Failure::os("write to the standard output", error)),
        }
    }
}

/// Prints a line to the standard error.
pub(crate) fn tell(line: impl fmt::Display) {
    // Nobody is left who could be told of a failure here.
    drop(writeln!(io::stderr(), "{line}"));
}

/// An empty table with these columns. Those whose heading ends in `>` are aligned to the right.
pub(crate) fn table(columns: &[&str]) -> Table {
    let mut table = Table::new();
    let rule = LineStyle::none().fill('─').junction('─');
    table.load_style(TableStyle::new().header_separator(rule));
    table.set_content_arrangement(ContentArrangement::Dynamic);
    if !io::stdout().is_terminal() {
        table.set_width(COLUMNS);
    }
    table.set_header(columns.iter().map(|column| column.trim_end_matches('>')));
    for (at, _) in columns.iter().enumerate().filter(|(_, column)| column.ends_with('>')) {
        if let Some(column) = table.column_mut(at) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// The same for tables that are read in a wide window or a file: only a terminal breaks their lines.
pub(crate) fn wide_table(columns: &[&str]) -> Table {
    let mut table = table(columns);
    if !io::stdout().is_terminal() {
        table.set_content_arrangement(ContentArrangement::Disabled);
    }
    table
}

/// A number with separators between thousands.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut shown = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            shown.push(',');
        }
        shown.push(digit);
    }
    shown
}

/// A number and what is counted.
pub(crate) fn plural(number: u64, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{} {noun}s", count(number)) }
}

/// Bytes in the largest binary unit that keeps them readable.
pub(crate) fn bytes(bytes: u64) -> String {
    const UNITS: [(u32, &str); 4] = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
    for (shift, unit) in UNITS {
        if bytes >> shift > 0 {
            let tenths = u128::from(bytes) * 10 / (1 << shift);
            return format!("{}.{} {unit}", tenths / 10, tenths % 10);
        }
    }
    plural(bytes, "byte")
}

/// A time in a unit that keeps it readable.
pub(crate) fn time(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    if time >= Duration::from_secs(120) {
        let seconds = time.as_secs();
        let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
        if hours > 0 { format!("{hours} h {minutes} min") } else { format!("{minutes} min {seconds} s") }
    } else if seconds >= 1.0 {
        format!("{seconds:.2} s")
    } else if seconds >= 0.001 {
        format!("{:.2} ms", seconds * 1e3)
    } else {
        format!("{:.0} us", seconds * 1e6)
    }
}

/// How many of something there were in each second.
pub(crate) fn rate(number: u64, time: Duration) -> String {
    let millis = time.as_millis().max(1);
    let per_second = u128::from(number) * 1000 / millis;
    count(u64::try_from(per_second).unwrap_or(u64::MAX))
}

/// Bytes as hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// At most so many characters, the cut marked.
pub(crate) fn shortened(text: &str, characters_max: usize) -> String {
    let length = text.chars().count();
    if length <= characters_max {
        return text.to_owned();
    }
    let kept: String = text.chars().take(characters_max.saturating_sub(3)).collect();
    format!("{kept}...")
}

/// Satoshis as bitcoins.
pub(crate) fn bitcoins(satoshis: u64) -> String {
    format!("{}.{:08}", count(satoshis / 100_000_000), satoshis % 100_000_000)
}

/// How much of a whole a part is.
pub(crate) fn percent(part: u64, whole: u64) -> String {
    if whole == 0 {
        return "-".to_owned();
    }
    let tenths = u128::from(part) * 1000 / u128::from(whole);
    format!("{}.{} %", tenths / 10, tenths % 10)
}

/// Bytes given as hexadecimal digits.
pub(crate) fn parse_hex(text: &str) -> Result<Vec<u8>, String> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    if let Some(wrong) = digits.chars().find(|character| !character.is_ascii_hexdigit()) {
        return Err(format!("{wrong:?} is not a hexadecimal digit"));
    }
    if !digits.len().is_multiple_of(2) {
        return Err(format!(
            "{} hexadecimal digits are not whole bytes: two are needed for each",
            digits.len()
        ));
    }
    let mut bytes = Vec::with_capacity(digits.len() / 2);
    let mut characters = digits.chars();
    while let (Some(high), Some(low)) = (characters.next(), characters.next()) {
        let digit = |character: char| {
            let digit = character.to_digit(16).and_then(|digit| u8::try_from(digit).ok());
            digit.ok_or_else(|| format!("{character:?} is not a hexadecimal digit"))
        };
        bytes.push(digit(high)? << 4 | digit(low)?);
    }
    Ok(bytes)
}

/// A hash as Bitcoin shows it: reversed.
pub(crate) fn parse_hash(text: &str) -> Result<[u8; 32], String> {
    let mut bytes = parse_hex(text)?;
    bytes.reverse();
    let length = bytes.len();
    <[u8; 32]>::try_from(bytes)
        .map_err(|_| format!("a hash has 64 hexadecimal digits, this has {}", length * 2))
}

/// A hash as Bitcoin shows it: reversed.
pub(crate) fn hash(hash: &[u8; 32]) -> String {
    let mut bytes = *hash;
    bytes.reverse();
    hex(&bytes)
}

/// A size such as `512M` or `2GiB`, in bytes.
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    let split = text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let shift = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kib" => 10,
        "m" | "mib" => 20,
        "g" | "gib" => 30,
        "t" | "tib" => 40,
        unit => return Err(format!("{unit} is not a unit: use K, M, G or T")),
    };
    let number: u64 = number.parse().map_err(|_| "a size begins with a number, as in 512M".to_owned())?;
    number.checked_mul(1 << shift).ok_or_else(|| format!("{text} is more than can be counted"))
}

/// A length that indexes memory.
pub(crate) fn limit(rows: u64) -> usize {
    to_usize(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_readable() {
        assert_eq!([0, 999, 1000, 1_234_567].map(count), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([0, 1, 1536, 5 << 30].map(bytes), ["0 bytes", "1 byte", "1.5 KiB", "5.0 GiB"]);
        assert_eq!(bitcoins(123_456_700_000_001), "1,234,567.00000001");
        assert_eq!(time(Duration::from_micros(12)), "12 us");
        assert_eq!(time(Duration::from_millis(1500)), "1.50 s");
        assert_eq!(time(Duration::from_secs(7300)), "2 h 1 min");
        assert_eq!(rate(10, Duration::ZERO), "10,000");
        assert_eq!(percent(1, 3), "33.3 %");
    }

    #[test]
    fn hexadecimal_digits_are_parsed_or_refused() {
        assert_eq!(parse_hex("0x00ff"), Ok(vec![0, 255]));
        assert_eq!(parse_hex(""), Ok(Vec::new()));
        assert!(parse_hex("abc").is_err() && parse_hex("zz").is_err() && parse_hex("é").is_err());
        let mut first = [0; 32];
        first[0] = 1;
        assert_eq!(parse_hash(&format!("{}01", "00".repeat(31))), Ok(first));
        assert_eq!(hash(&first), format!("{}01", "00".repeat(31)));
        assert!(parse_hash("00").is_err());
    }

    #[test]
    fn sizes_are_parsed_or_refused() {
        assert_eq!(parse_size("512M"), Ok(512 << 20));
        assert_eq!(parse_size("2 GiB"), Ok(2 << 30));
        assert!(parse_size("M").is_err() && parse_size("1X").is_err() && parse_size("99999999999T").is_err());
    }
}
