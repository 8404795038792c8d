//! The files in which the kernel describes the machine.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;

/// Enough for the mount table of a busy container host; other files are far smaller.
const FILE_BYTES_MAX: u64 = 4 << 20;
/// More entries than any directory that is listed here has: NUMA nodes, devices below a mapped one.
const ENTRIES_MAX: usize = 4096;
/// Longer than any name that a vendor gives.
const LABEL_CHARS_MAX: usize = 128;

/// The directory that stands for `/` when `/sys` and `/proc` are read: the real one, or a copy made by a test.
///
/// Every method answers `None` for what is missing, unreadable or malformed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SysRoot(PathBuf);

impl Default for SysRoot {
    fn default() -> Self {
        Self(PathBuf::from("/"))
    }
}

impl SysRoot {
    /// A tree that holds `sys` and `proc`.
    #[must_use]
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self(root.into())
    }

    /// The place of an absolute path below this root. Parts that would leave the root are dropped.
    pub(super) fn place(&self, path: &Path) -> PathBuf {
        let mut place = self.0.clone();
        place.extend(path.components().filter(|part| matches!(part, Component::Normal(_))));
        place
    }

    /// The text of a file, without white space at its ends.
    pub(super) fn text(&self, path: impl AsRef<Path>) -> Option<String> {
        let place = self.place(path.as_ref());
        // Reading a pipe or a device could block for ever.
        if !fs::metadata(&place).ok()?.is_file() {
            return None;
        }
        let mut bytes = Vec::new();
        File::open(place).ok()?.take(FILE_BYTES_MAX).read_to_end(&mut bytes).ok()?;
        Some(String::from_utf8_lossy(&bytes).trim().to_owned())
    }

    /// The text of a file unless it is empty.
    pub(super) fn filled_text(&self, path: impl AsRef<Path>) -> Option<String> {
        self.text(path).filter(|text| !text.is_empty())
    }

    /// The text of a file for people: one line of printable characters.
    pub(super) fn label(&self, path: impl AsRef<Path>) -> Option<String> {
        label(&self.text(path)?)
    }

    /// The value in a file.
    pub(super) fn value<T: FromStr>(&self, path: impl AsRef<Path>) -> Option<T> {
        self.text(path)?.parse().ok()
    }

    /// A flag written as 0 or 1.
    pub(super) fn flag(&self, path: impl AsRef<Path>) -> Option<bool> {
        match self.value::<u8>(path)? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }

    /// The names in a directory, sorted.
    pub(super) fn names(&self, path: impl AsRef<Path>) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.place(path.as_ref())) else { return Vec::new() };
        let mut names: Vec<String> = entries
            .take(ENTRIES_MAX)
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .collect();
        names.sort();
        names
    }

    /// Whether there is something at a path.
    pub(super) fn exists(&self, path: impl AsRef<Path>) -> bool {
        self.place(path.as_ref()).exists()
    }

    /// The absolute path, below this root, that symbolic links lead to.
    pub(super) fn resolve(&self, path: impl AsRef<Path>) -> Option<PathBuf> {
        let root = fs::canonicalize(&self.0).ok()?;
        let target = fs::canonicalize(self.place(path.as_ref())).ok()?;
        Some(Path::new("/").join(target.strip_prefix(root).ok()?))
    }
}

/// A text of foreign origin, safe to print: at most 128 characters, none of which controls a terminal.
pub(super) fn label(text: &str) -> Option<String> {
    let clean: String =
        text.chars().filter(|character| !character.is_control()).take(LABEL_CHARS_MAX).collect();
    let clean = clean.trim();
    (!clean.is_empty()).then(|| clean.to_owned())
}

#[cfg(test)]
mod tests {
    use super::super::fixture::Fixture;
    use super::*;

    #[test]
    fn no_path_leaves_the_root() {
        let fixture = Fixture::new();
        fixture.file("a", "1\n");
        assert_eq!(fixture.root().value::<u8>("/../../a"), Some(1));
        fixture.link("out", "/");
        assert_eq!(fixture.root().resolve("/out"), None);
    }

    #[test]
    fn labels_cannot_control_a_terminal() {
        assert_eq!(label(" a\u{1b}[31m\nb ").as_deref(), Some("a[31mb"));
        assert_eq!(label("\u{7}"), None);
    }

    #[test]
    fn directories_and_malformed_files_are_nothing() {
        let fixture = Fixture::new();
        fixture.file("sys/flag", "2");
        fixture.file("sys/empty", " \n");
        assert_eq!(fixture.root().text("/sys"), None);
        assert_eq!(fixture.root().flag("/sys/flag"), None);
        assert_eq!(fixture.root().filled_text("/sys/empty"), None);
        assert_eq!(fixture.root().names("/sys"), ["empty", "flag"]);
        assert!(fixture.root().names("/missing").is_empty());
    }
}
