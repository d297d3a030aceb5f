//! The node's key file: 32 secret bytes as one line of base32, mode 0600.

use super::files;
use std::{
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};
use wire::NodeKey;

/// Longest key file that is read, bytes.
const MAX_FILE: u64 = 256;
const PREFIX: &str = "lanline-key-1 ";

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file cannot be read or written.
    #[error("cannot use the key file {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Others could read the secret.
    #[error("the key file {path} can be read by others (mode {mode:o}); run: chmod 600 {path}", path = path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// Not a key file. It is never overwritten: the key is the node's identity.
    #[error(
        "{path} is not a lanline key file; restore it from a copy, or move it away to get a new identity",
        path = path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
    },
}

/// Reads the node's key, or makes one and stores it (0600, whole or not at all). Refuses a file that others can read.
pub fn load_or_make_key(path: &Path) -> Result<NodeKey, KeyError> {
    let io_error = |source| KeyError::Io {
        path: path.to_owned(),
        source,
    };
    match std::fs::metadata(path) {
        Ok(meta) => read(path, &meta),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let key = NodeKey::from_secret(&rand::random());
            let text = format!("{PREFIX}{}\n", data_encoding::BASE32_NOPAD.encode(&key.secret()));
            // If another process makes a key at the same moment, one of the two wins and both use it.
            match files::create_private(path, text.as_bytes()) {
                Ok(()) => Ok(key),
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                    read(path, &std::fs::metadata(path).map_err(io_error)?)
                }
                Err(e) => Err(io_error(e)),
            }
        }
        Err(e) => Err(io_error(e)),
    }
}

fn read(path: &Path, meta: &std::fs::Metadata) -> Result<NodeKey, KeyError> {
    let mode = meta.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(KeyError::Open {
            path: path.to_owned(),
            mode,
        });
    }
    let bytes = files::read_bounded(path, MAX_FILE).map_err(|source| KeyError::Io {
        path: path.to_owned(),
        source,
    })?;
    std::str::from_utf8(&bytes)
        .ok()
        .and_then(|s| s.trim_end().strip_prefix(PREFIX))
        .and_then(|s| data_encoding::BASE32_NOPAD.decode(s.as_bytes()).ok())
        .and_then(|b| <[u8; 32]>::try_from(b).ok())
        .map(|secret| NodeKey::from_secret(&secret))
        .ok_or_else(|| KeyError::Damaged { path: path.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_key_is_made_once_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node.key");
        let a = load_or_make_key(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(load_or_make_key(&path).unwrap().node_id(), a.node_id());
        assert_eq!(
            std::fs::read_dir(dir.path()).unwrap().count(),
            1,
            "no temporary file is left"
        );
    }

    #[test]
    fn a_key_that_others_can_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node.key");
        load_or_make_key(&path).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(
            load_or_make_key(&path),
            Err(KeyError::Open { mode: 0o640, .. })
        ));
    }

    #[test]
    fn a_damaged_key_is_never_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("node.key");
        for text in ["", "lanline-key-1 AAAA", "lanline-key-1 \u{fffd}", "x"] {
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
            assert!(
                matches!(load_or_make_key(&path), Err(KeyError::Damaged { .. })),
                "{text}"
            );
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        }
    }
}
