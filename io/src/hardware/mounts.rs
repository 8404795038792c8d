//! The mount table.

use std::path::{Path, PathBuf};

use super::sys_root::SysRoot;

/// One line of `/proc/self/mountinfo`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mount {
    /// The directory of the filesystem that is visible at the mount point.
    pub(super) root: PathBuf,
    pub(super) point: PathBuf,
    pub(super) filesystem: String,
    pub(super) source: String,
    /// The options of the filesystem, such as the controllers of a version 1 cgroup.
    pub(super) options: String,
}

/// All mounts that can be read, oldest first.
pub(super) fn mounts(root: &SysRoot) -> Vec<Mount> {
    root.text("/proc/self/mountinfo").unwrap_or_default().lines().filter_map(parse).collect()
}

/// The mount that a path lies on: the one with the longest mount point, the newest of those.
pub(super) fn mount_of<'a>(mounts: &'a [Mount], path: &Path) -> Option<&'a Mount> {
    mounts
        .iter()
        .filter(|mount| path.starts_with(&mount.point))
        .max_by_key(|mount| mount.point.components().count())
}

/// `ID PARENT MAJOR:MINOR ROOT POINT OPTIONS [TAG...] - TYPE SOURCE OPTIONS`
fn parse(line: &str) -> Option<Mount> {
    let (place, kind) = line.split_once(" - ")?;
    let mut place = place.split(' ').skip(3);
    let mut kind = kind.split(' ');
    Some(Mount {
        root: unescape(place.next()?).into(),
        point: unescape(place.next()?).into(),
        filesystem: unescape(kind.next()?),
        source: unescape(kind.next()?),
        options: kind.next().unwrap_or_default().to_owned(),
    })
}

/// Spaces, tabs, line ends and backslashes are written as three octal digits after a backslash.
fn unescape(text: &str) -> String {
    let mut parts = text.split('\\');
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let octal = part.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok()).filter(u8::is_ascii);
        match (octal, part.get(3..)) {
            (Some(byte), Some(rest)) => {
                plain.push(char::from(byte));
                plain.push_str(rest);
            }
            _ => {
                plain.push('\\');
                plain.push_str(part);
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::super::fixture::Fixture;
    use super::*;

    #[test]
    fn the_longest_and_newest_mount_point_wins() {
        let fixture = Fixture::new();
        fixture.file(
            "proc/self/mountinfo",
            "1 0 8:1 / / rw - ext4 /dev/sda1 rw\n\
             2 1 8:2 / /data rw - xfs /dev/sdb1 rw\n\
             nonsense\n\
             3 1 0:9 / /data rw master:1 propagate_from:2 - tmpfs none rw\n\
             4 1 8:3 / /my\\040disk rw - btrfs /dev/sdc rw\n",
        );
        let mounts = mounts(&fixture.root());
        let filesystem = |path: &str| mount_of(&mounts, Path::new(path)).unwrap().filesystem.as_str();
        assert_eq!(filesystem("/data/store"), "tmpfs");
        assert_eq!(filesystem("/database"), "ext4");
        assert_eq!(filesystem("/my disk/x"), "btrfs");
    }

    #[test]
    fn broken_escapes_stay_as_they_are() {
        assert_eq!(unescape("a\\040b\\134"), "a b\\");
        assert_eq!(unescape("\\4\\999\\é\\377"), "\\4\\999\\é\\377");
    }
}
