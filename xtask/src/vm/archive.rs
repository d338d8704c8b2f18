//! Writing an initial file system: a cpio archive in the format `newc`, as the kernel's
//! Documentation/driver-api/early-userspace/buffer-format.rst describes it.

use std::{
    collections::BTreeSet,
    io::Write,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

/// File types and permissions, as in `stat(2)`.
const FOLDER: u32 = 0o040_755;
const FILE: u32 = 0o100_644;
const PROGRAM: u32 = 0o100_755;
const LINK: u32 = 0o120_777;

/// An archive that is being written. Everything in it belongs to root.
#[derive(Debug)]
pub(super) struct Archive<W> {
    to: W,
    inode: u32,
    written: BTreeSet<PathBuf>,
}

impl<W: Write> Archive<W> {
    /// An empty one.
    pub(super) const fn new(to: W) -> Self {
        Self {
            to,
            inode: 0,
            written: BTreeSet::new(),
        }
    }

    /// Adds a folder with all above it, unless it is there. Paths are absolute, as the guest sees
    /// them.
    ///
    /// # Errors
    ///
    /// When writing fails.
    pub(super) fn folder(&mut self, path: &Path) -> Result<()> {
        // The kernel makes no folder by itself: those above come first.
        let above: Vec<_> = path.ancestors().collect();
        for path in above.into_iter().rev() {
            self.entry(path, FOLDER, &[])?;
        }
        Ok(())
    }

    /// Adds a file, unless its path is taken.
    ///
    /// # Errors
    ///
    /// When writing fails, or the file has more than 4 GiB.
    pub(super) fn file(&mut self, path: &Path, content: &[u8]) -> Result<()> {
        self.below_folder(path, FILE, content)
    }

    /// Adds a file that can be started, unless its path is taken.
    ///
    /// # Errors
    ///
    /// As [`Archive::file`].
    pub(super) fn program(&mut self, path: &Path, content: &[u8]) -> Result<()> {
        self.below_folder(path, PROGRAM, content)
    }

    /// Adds a symbolic link, unless its path is taken.
    ///
    /// # Errors
    ///
    /// As [`Archive::file`].
    pub(super) fn link(&mut self, path: &Path, target: &str) -> Result<()> {
        self.below_folder(path, LINK, target.as_bytes())
    }

    /// Writes the end.
    ///
    /// # Errors
    ///
    /// When writing fails.
    pub(super) fn finish(mut self) -> Result<W> {
        self.record(b"TRAILER!!!", 0, &[])?;
        self.to.flush()?;
        Ok(self.to)
    }

    fn below_folder(&mut self, path: &Path, mode: u32, content: &[u8]) -> Result<()> {
        self.folder(path.parent().context("a file without a folder")?)?;
        self.entry(path, mode, content)
    }

    fn entry(&mut self, path: &Path, mode: u32, content: &[u8]) -> Result<()> {
        // Names have no leading slash; the root is there already.
        let name = path.strip_prefix("/").context("a path in the guest")?;
        if name.as_os_str().is_empty() || !self.written.insert(path.to_owned()) {
            return Ok(());
        }
        self.inode += 1;
        self.record(name.as_os_str().as_encoded_bytes(), mode, content)
    }

    /// A header of 13 numbers, the name with its end, and the content; both padded to four bytes.
    fn record(&mut self, name: &[u8], mode: u32, content: &[u8]) -> Result<()> {
        let name_size = u32::try_from(name.len() + 1)?;
        let size = u32::try_from(content.len()).context("a file of more than 4 GiB")?;
        // ino mode uid gid nlink mtime filesize devmajor devminor rdevmajor rdevminor namesize check
        let numbers = [self.inode, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0];
        write!(self.to, "070701")?;
        for number in numbers {
            write!(self.to, "{number:08x}")?;
        }
        self.to.write_all(name)?;
        self.to.write_all(&[0])?;
        // The header has 110 bytes.
        self.pad(110 + name.len() + 1)?;
        self.to.write_all(content)?;
        self.pad(content.len())
    }

    fn pad(&mut self, length: usize) -> Result<()> {
        let missing = length.next_multiple_of(4) - length;
        self.to.write_all(&[0; 3][..missing])?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The names and modes of an archive, and the content of the file `find`.
    fn read(mut bytes: &[u8], find: &str) -> (Vec<(String, u32)>, Vec<u8>) {
        let mut names = Vec::new();
        let mut content = Vec::new();
        loop {
            assert_eq!(&bytes[..6], b"070701");
            let number = |index: usize| {
                let start = 6 + index * 8;
                let text = std::str::from_utf8(&bytes[start..start + 8]).unwrap();
                u32::from_str_radix(text, 16).unwrap()
            };
            let (mode, size, name_size) = (number(1), number(6) as usize, number(11) as usize);
            let name = std::str::from_utf8(&bytes[110..110 + name_size - 1]).unwrap();
            let data = (110 + name_size).next_multiple_of(4);
            if name == find {
                content = bytes[data..data + size].to_vec();
            }
            if name == "TRAILER!!!" {
                return (names, content);
            }
            names.push((name.to_owned(), mode));
            bytes = &bytes[(data + size).next_multiple_of(4)..];
        }
    }

    #[test]
    fn folders_come_before_what_is_in_them_and_nothing_comes_twice() {
        let mut archive = Archive::new(Vec::new());
        archive
            .program(Path::new("/usr/bin/tool"), b"12345")
            .unwrap();
        archive.file(Path::new("/usr/lib/one"), b"").unwrap();
        archive.file(Path::new("/usr/lib/one"), b"other").unwrap();
        archive.link(Path::new("/lib"), "usr/lib").unwrap();
        let (names, content) = read(&archive.finish().unwrap(), "usr/bin/tool");
        let expected = [
            ("usr", FOLDER),
            ("usr/bin", FOLDER),
            ("usr/bin/tool", PROGRAM),
            ("usr/lib", FOLDER),
            ("usr/lib/one", FILE),
            ("lib", LINK),
        ];
        assert_eq!(names, expected.map(|(name, mode)| (name.to_owned(), mode)));
        assert_eq!(content, b"12345");
    }
}
