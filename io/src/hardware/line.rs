//! Lines of a report that a person reads.

use std::fmt;

/// A value and where it comes from: one line of `op-engine detect`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// What it is.
    pub name: &'static str,
    /// Its value, with the unit.
    pub value: String,
    /// Where the value comes from, or why it was chosen.
    pub why: String,
}

impl Line {
    /// Drops what could control a terminal: paths and names come from outside.
    pub(super) fn new(name: &'static str, value: impl fmt::Display, why: impl AsRef<str>) -> Self {
        let printable = |text: &str| text.chars().filter(|character| !character.is_control()).collect();
        Self { name, value: printable(&value.to_string()), why: printable(why.as_ref()) }
    }

    /// A line for a value that may not be known.
    pub(super) fn known(name: &'static str, value: Option<impl fmt::Display>, why: impl AsRef<str>) -> Self {
        match value {
            Some(value) => Self::new(name, value, why),
            None => Self::new(name, "unknown", why),
        }
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name, self.value)?;
        if self.why.is_empty() { Ok(()) } else { write!(f, " ({})", self.why) }
    }
}

pub(super) fn write_lines(f: &mut fmt::Formatter<'_>, lines: &[Line]) -> fmt::Result {
    lines.iter().try_for_each(|line| writeln!(f, "{line}"))
}

/// A number of bytes in the largest binary unit that keeps it readable.
pub(super) struct Bytes(pub u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(u64, &str); 4] =
            [(1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
        for (unit_bytes, unit) in UNITS {
            if self.0 >= unit_bytes {
                let tenths = (self.0 % unit_bytes).saturating_mul(10) / unit_bytes;
                let whole = self.0 / unit_bytes;
                return if tenths == 0 {
                    write!(f, "{whole} {unit}")
                } else {
                    write!(f, "{whole}.{tenths} {unit}")
                };
            }
        }
        write!(f, "{} bytes", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_written_in_the_largest_unit() {
        assert_eq!(Bytes(0).to_string(), "0 bytes");
        assert_eq!(Bytes(1023).to_string(), "1023 bytes");
        assert_eq!(Bytes(8 << 20).to_string(), "8 MiB");
        assert_eq!(Bytes(3 << 29).to_string(), "1.5 GiB");
        assert_eq!(Bytes(u64::MAX).to_string(), "16777215.9 TiB");
    }

    #[test]
    fn a_line_without_a_reason_has_no_brackets() {
        assert_eq!(Line::new("shards", 2, "2 cores").to_string(), "shards: 2 (2 cores)");
        assert_eq!(Line::known("kernel", None::<u8>, "").to_string(), "kernel: unknown");
    }
}
