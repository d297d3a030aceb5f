//! Small files of the state folder, written so that a crash at any instant leaves the old one or the new one.

use serde::{Serialize, de::DeserializeOwned};
use std::{
    fs,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};
use wire::{Fault, FaultKind};

/// Largest state file that is read, bytes; a LAN of 2,000 members needs 1 MiB.
const MAX_STATE_FILE: u64 = 16 << 20;

/// Writes `value` as JSON: temp file, fsync, rename, fsync of the folder. Mode 0600, as secrets may be in it.
pub(super) fn save<T: Serialize>(path: &Path, value: &T) -> Result<(), Fault> {
    let bytes = serde_json::to_vec_pretty(value).map_err(|e| cannot("encode", path, &io::Error::other(e)))?;
    write_atomic(path, &bytes).map_err(|e| cannot("write", path, &e))
}

/// Writes bytes in the same way.
pub(super) fn save_bytes(path: &Path, bytes: &[u8]) -> Result<(), Fault> {
    write_atomic(path, bytes).map_err(|e| cannot("write", path, &e))
}

/// Reads what [`save_bytes`] wrote; `None` if it was never written.
pub(super) fn load_bytes(path: &Path) -> Result<Option<Vec<u8>>, Fault> {
    match fs::metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(cannot("read", path, &e)),
        Ok(m) if m.len() > MAX_STATE_FILE => Err(cannot("read", path, &io::Error::other("it is too large"))),
        Ok(_) => fs::read(path).map(Some).map_err(|e| cannot("read", path, &e)),
    }
}

/// Maps whose keys JSON cannot have, as lists of pairs.
pub(super) mod pairs {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use std::collections::BTreeMap;

    pub(in crate::io::daemon) fn serialize<K: Serialize, V: Serialize, S: Serializer>(
        map: &BTreeMap<K, V>,
        s: S,
    ) -> Result<S::Ok, S::Error> {
        s.collect_seq(map)
    }

    pub(in crate::io::daemon) fn deserialize<'de, K, V, D>(d: D) -> Result<BTreeMap<K, V>, D::Error>
    where
        K: Deserialize<'de> + Ord,
        V: Deserialize<'de>,
        D: Deserializer<'de>,
    {
        Ok(Vec::<(K, V)>::deserialize(d)?.into_iter().collect())
    }
}

/// Reads what [`save`] wrote; `None` if it was never written.
pub(super) fn load<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, Fault> {
    let Some(bytes) = load_bytes(path)? else {
        return Ok(None);
    };
    serde_json::from_slice(&bytes).map(Some).map_err(|e| {
        Fault::new(
            FaultKind::Failed,
            format!("{} is not what this version of lanline wrote: {e}", path.display()),
        )
        .next("put back a copy of the file, or move it away to begin anew without what it held")
    })
}

fn write_atomic(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let dir = path.parent().ok_or_else(|| io::Error::other("no parent folder"))?;
    let mut tmp = PathBuf::from(path);
    tmp.as_mut_os_string().push(".new");
    let mut f = fs::OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(&tmp)?;
    f.write_all(bytes)?;
    f.sync_all()?;
    fs::rename(&tmp, path)?;
    fs::File::open(dir)?.sync_all()
}

fn cannot(verb: &str, path: &Path, e: &io::Error) -> Fault {
    let f = Fault::new(FaultKind::Failed, format!("cannot {verb} {}: {e}", path.display()));
    if e.kind() == io::ErrorKind::StorageFull {
        f.next("free some space on that file system; nothing was changed")
    } else {
        f
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unfinished_write_leaves_the_old_file() {
        let dir = tempfile::tempdir().unwrap();
        let p = dir.path().join("x.json");
        assert_eq!(load::<Vec<u32>>(&p).unwrap(), None);
        save(&p, &vec![1, 2]).unwrap();
        fs::write(dir.path().join("x.json.new"), b"[1, 2, 3, ").unwrap();
        assert_eq!(load::<Vec<u32>>(&p).unwrap(), Some(vec![1, 2]));
        save(&p, &vec![4]).unwrap();
        assert_eq!(load::<Vec<u32>>(&p).unwrap(), Some(vec![4]));
        fs::write(&p, b"nonsense").unwrap();
        assert!(load::<Vec<u32>>(&p).unwrap_err().what.contains("x.json"));
    }
}
