//! The file that keeps sequence numbers rising: one decimal number and a newline, replaced whole.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

/// The sequence floor cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FloorError {
    /// The file system said no.
    #[error("cannot use the sequence file {path}: {source}; check that the state folder is writable and not full")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Its content is not a number.
    #[error(
        "the sequence file {path} is damaged; delete it, and other nodes will hear this node again once its old adverts have lapsed (35 minutes at most)"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
    },
}

/// The floor; 0 if there is no file yet.
pub(super) fn read(path: &Path) -> Result<u64, FloorError> {
    match fs::read_to_string(path) {
        Ok(text) => text
            .trim()
            .parse()
            .map_err(|_| FloorError::Damaged { path: path.into() }),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(source) => Err(FloorError::Io {
            path: path.into(),
            source,
        }),
    }
}

/// Replaces the file: new file, fsync, rename, fsync of the folder. After any crash it is the old or the new floor.
pub(super) fn write(path: &Path, floor: u64) -> Result<(), FloorError> {
    let replace = || -> io::Result<()> {
        let fresh = path.with_extension("new");
        let mut file = File::create(&fresh)?;
        writeln!(file, "{floor}")?;
        file.sync_all()?;
        fs::rename(&fresh, path)?;
        let folder = path
            .parent()
            .filter(|p| !p.as_os_str().is_empty())
            .unwrap_or(Path::new("."));
        File::open(folder)?.sync_all()
    };
    replace().map_err(|source| FloorError::Io {
        path: path.into(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn survives_and_says_what_is_wrong() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("seq");
        assert_eq!(read(&path).unwrap(), 0);
        write(&path, 77).unwrap();
        write(&path, 78).unwrap();
        assert_eq!(read(&path).unwrap(), 78);
        fs::write(&path, "seventy").unwrap();
        assert!(matches!(read(&path), Err(FloorError::Damaged { .. })));
        assert!(matches!(
            write(&dir.path().join("none/seq"), 1),
            Err(FloorError::Io { .. })
        ));
    }
}
