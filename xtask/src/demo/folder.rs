//! The folder for the files of a demo, which carries this process's number in its name.

use std::{
    env, fs, io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use super::namespace::runs;

/// What the name begins with, before the process id.
const PREFIX: &str = "peerwatch-demo-";

/// A folder, deleted with all that is in it on drop.
#[derive(Debug)]
pub(super) struct Folder(PathBuf);

impl Folder {
    /// Makes it, for this user only.
    ///
    /// # Errors
    ///
    /// When it is there already, or the place for temporary files can't be written.
    pub(super) fn create() -> Result<Self> {
        let path = env::temp_dir().join(format!("{PREFIX}{}", std::process::id()));
        let mut builder = fs::DirBuilder::new();
        builder
            .mode(0o700)
            .create(&path)
            .with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self(path))
    }

    /// Writes a file and says where it is.
    ///
    /// # Errors
    ///
    /// When it can't be written.
    pub(super) fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.0.join(name);
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("{} could not be removed: {error}", self.0.display());
        }
    }
}

/// Removes what killed demos left.
///
/// # Errors
///
/// When something can't be removed.
pub(super) fn remove_leftovers() -> Result<()> {
    for entry in fs::read_dir(env::temp_dir())? {
        let entry = entry?;
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.strip_prefix(PREFIX));
        let pid = pid.and_then(|pid| pid.parse::<u32>().ok());
        // Never through a link that somebody put there.
        if pid.is_some_and(|pid| !runs(pid)) && entry.file_type()?.is_dir() {
            match fs::remove_dir_all(entry.path()) {
                // Another demo that begins now.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                result => {
                    let path = entry.path();
                    result.with_context(|| format!("cannot remove {}", path.display()))?;
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_with_what_is_in_it() {
        let folder = Folder::create().unwrap();
        let path = folder.path().to_owned();
        assert!(Folder::create().is_err(), "one that is there is not ours");
        let file = folder.write("a", "b").unwrap();
        assert_eq!(fs::read_to_string(file).unwrap(), "b");
        drop(folder);
        assert!(!path.exists());
    }
}
