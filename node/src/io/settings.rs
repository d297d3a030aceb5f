//! Reads the environment, the settings file and the machine's name for [`crate::config`].

use crate::{
    api::ConfigView,
    config::{self, Config, FILE_NAME, Flags, Sources, UpOptions},
    defaults,
};
use std::{
    collections::BTreeMap,
    io::{ErrorKind, Read},
    path::{Path, PathBuf},
};
use wire::{Fault, FaultKind};

/// The environment as text; a variable that is not UTF-8 is as good as none.
pub fn environment() -> BTreeMap<String, String> {
    std::env::vars_os()
        .filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)))
        .collect()
}

/// The state folder of this process, absolute.
pub fn state_folder(flag: Option<PathBuf>) -> Result<PathBuf, Fault> {
    let folder = config::state_folder(flag, &environment(), rustix::process::geteuid().is_root())?;
    std::path::absolute(&folder)
        .map_err(|e| Fault::new(FaultKind::Usage, format!("state folder {}: {e}", folder.display())))
}

/// Settings of a node with this state folder.
///
/// `file`: what `--config` named, which must exist; else [`FILE_NAME`] in the state folder is read if it is there.
pub fn load(state: &Path, file: Option<&Path>, flags: Flags) -> Result<(Config, ConfigView), Fault> {
    let path = file.map_or_else(|| state.join(FILE_NAME), Path::to_path_buf);
    let text = match read_bounded(&path) {
        Ok(text) => Some(text),
        Err(e) if e.kind() == ErrorKind::NotFound && file.is_none() => None,
        Err(e) => {
            return Err(
                Fault::new(FaultKind::Usage, format!("settings file {}: {e}", path.display()))
                    .next("give a readable file: lanline up --config FILE"),
            );
        }
    };
    config::resolve(&Sources {
        flags,
        env: environment(),
        file: text.as_deref().map(|t| (path.as_path(), t)),
        host_name: rustix::system::uname().nodename().to_str().ok().map(ToOwned::to_owned),
    })
}

/// All that `lanline up` starts with.
pub fn up_options(state: Option<PathBuf>, file: Option<&Path>, flags: Flags) -> Result<UpOptions, Fault> {
    let state = state_folder(state)?;
    let (config, view) = load(&state, file, flags)?;
    Ok(UpOptions { state, config, view })
}

fn read_bounded(path: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    std::fs::File::open(path)?
        .take(defaults::MAX_SETTINGS_FILE + 1)
        .read_to_string(&mut text)?;
    if text.len() as u64 > defaults::MAX_SETTINGS_FILE {
        return Err(std::io::Error::other(format!(
            "longer than {} bytes",
            defaults::MAX_SETTINGS_FILE
        )));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_of_the_state_folder_is_read_and_a_named_one_must_exist() {
        let dir = tempfile::tempdir().unwrap();
        let (_, view) = load(dir.path(), None, Flags::default()).unwrap();
        assert_eq!(view.file, None);
        std::fs::write(dir.path().join(FILE_NAME), "[store]\nquota = '3M'\n").unwrap();
        let (config, view) = load(dir.path(), None, Flags::default()).unwrap();
        assert_eq!(config.store_quota, wire::ByteSize(3 << 20));
        assert!(view.file.is_some_and(|f| f.ends_with(FILE_NAME)));
        let f = load(dir.path(), Some(&dir.path().join("none.toml")), Flags::default()).unwrap_err();
        assert!(f.kind == FaultKind::Usage && f.what.contains("none.toml"), "{}", f.what);
        let long = vec![b'#'; usize::try_from(defaults::MAX_SETTINGS_FILE).unwrap() + 1];
        std::fs::write(dir.path().join(FILE_NAME), long).unwrap();
        assert!(
            load(dir.path(), None, Flags::default())
                .unwrap_err()
                .what
                .contains("longer than")
        );
    }
}
