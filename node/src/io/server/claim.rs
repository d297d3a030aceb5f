//! One node a state folder: the lock that says so, and the socket that only its owner can open.

use crate::defaults::{CONTROL_SOCKET, LOCK_FILE};
use rustix::{
    fs::{CWD, FlockOperation, Mode, flock},
    io::Errno,
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType},
};
use std::{
    fs::{File, OpenOptions},
    io::{Read, Seek, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};
use wire::{Fault, FaultKind};

/// The right to be the node of a state folder, held until it is dropped or the process ends.
///
/// The lock of `DIR/lock` is the authority; the number in it is only for people. It is not inherited by children.
#[derive(Debug)]
pub struct Claim {
    state: PathBuf,
    /// Held for its lock.
    _lock: File,
}

/// Makes the state folder (0700) if there is none, and takes its lock.
///
/// Errors: `Failed` if a node has it, with its process id; `Failed` or `Missing` if the folder cannot be used.
pub fn claim(state: &Path) -> Result<Claim, Fault> {
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(state);
    made.map_err(|e| folder_fault(state, &e))?;
    let path = state.join(LOCK_FILE);
    let mut lock = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(|e| folder_fault(state, &e))?;
    match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => return Err(already(state, &mut lock)),
        Err(e) => return Err(folder_fault(state, &e.into())),
    }
    let note = || -> std::io::Result<()> {
        let mut f = &lock;
        f.set_len(0)?;
        f.rewind()?;
        writeln!(f, "{}", std::process::id())
    };
    note().map_err(|e| folder_fault(state, &e))?;
    Ok(Claim {
        state: state.to_path_buf(),
        _lock: lock,
    })
}

fn already(state: &Path, lock: &mut File) -> Fault {
    let mut pid = String::new();
    let read = lock.take(32).read_to_string(&mut pid);
    let pid = pid.trim();
    let who = if read.is_ok() && !pid.is_empty() {
        format!(" (pid {pid})")
    } else {
        String::new()
    };
    Fault::new(
        FaultKind::Failed,
        format!("a node already runs on this state folder{who}: {}", state.display()),
    )
    .next("end it with: lanline down, or give another folder: lanline up --state DIR")
}

fn folder_fault(state: &Path, e: &std::io::Error) -> Fault {
    let kind = match e.kind() {
        std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem => FaultKind::Missing,
        _ => FaultKind::Failed,
    };
    Fault::new(
        kind,
        format!("the state folder {} cannot be used: {e}", state.display()),
    )
    .next("give one that you may write: lanline up --state DIR")
}

/// Does no node hold the lock of this state folder? True also where there is no lock file.
///
/// Takes the lock for a moment, shared, so that two who ask do not see each other.
pub fn is_free(state: &Path) -> bool {
    let Ok(lock) = File::open(state.join(LOCK_FILE)) else {
        return true;
    };
    flock(&lock, FlockOperation::NonBlockingLockShared).is_ok()
}

/// The control socket, listening.
#[derive(Debug)]
pub struct ControlSocket {
    pub(super) listener: std::os::unix::net::UnixListener,
    pub(super) file: SocketFile,
}

/// The socket's name in the state folder; removed when it is dropped.
#[derive(Debug)]
pub(super) struct SocketFile(PathBuf);

impl Claim {
    /// The state folder.
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// Listens on `DIR/control.sock` (0600) in place of whatever dead socket is there.
    ///
    /// It appears under its name only when its mode is set and it listens, so nobody can connect too early. The claim
    /// stays with the caller, who keeps it until all else has ended: `lanline down` waits for its lock.
    ///
    /// Errors: `Usage` if the path is too long for a socket; `Refused` if something answers there although the folder
    /// is not locked; `Failed` for the rest.
    pub fn bind(&self) -> Result<ControlSocket, Fault> {
        let path = self.state.join(CONTROL_SOCKET);
        if std::os::unix::net::UnixStream::connect(&path).is_ok() {
            let what = format!("something that does not hold the lock answers at {}", path.display());
            return Err(Fault::new(FaultKind::Refused, what).next("end it, then start the node again"));
        }
        let fresh = self.state.join(format!("{CONTROL_SOCKET}.new"));
        let listener = listen(&fresh)
            .and_then(|l| rustix::fs::rename(&fresh, &path).map(|()| l))
            .map_err(|e| match e {
                Errno::NAMETOOLONG => {
                    let what = format!(
                        "{} is too long for a socket: at most 107 bytes are possible",
                        fresh.display()
                    );
                    Fault::new(FaultKind::Usage, what).next("give a shorter folder: lanline up --state DIR")
                }
                e => Fault::new(FaultKind::Failed, format!("{} cannot be made: {e}", path.display())),
            })?;
        Ok(ControlSocket {
            listener,
            file: SocketFile(path),
        })
    }
}

fn listen(path: &Path) -> Result<std::os::unix::net::UnixListener, Errno> {
    let address = SocketAddrUnix::new(path)?;
    match rustix::fs::unlink(path) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(e) => return Err(e),
    }
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::bind(&socket, &address)?;
    rustix::fs::chmodat(CWD, path, Mode::RUSR | Mode::WUSR, rustix::fs::AtFlags::empty())?;
    rustix::net::listen(&socket, 128)?;
    Ok(socket.into())
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if let Err(e) = std::fs::remove_file(&self.0) {
            tracing::debug!(error = %e, "the control socket was gone already");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn one_node_a_folder() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("deep/state");
        assert!(is_free(&state));
        let first = claim(&state).unwrap();
        assert!(!is_free(&state));
        assert_eq!(std::fs::metadata(&state).unwrap().permissions().mode() & 0o777, 0o700);
        let f = claim(&state).unwrap_err();
        assert_eq!(f.kind, FaultKind::Failed);
        assert!(f.what.contains(&format!("(pid {})", std::process::id())), "{}", f.what);
        drop(first);
        claim(&state).unwrap();
    }

    #[test]
    fn a_dead_socket_is_replaced_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(CONTROL_SOCKET);
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "std leaves the dead socket");
        let held = claim(dir.path()).unwrap();
        let socket = held.bind().unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        std::os::unix::net::UnixStream::connect(&path).unwrap();
        drop(socket);
        assert!(!path.exists());
        drop(held);
        let _live = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let f = claim(dir.path()).unwrap().bind().unwrap_err();
        assert!(f.kind == FaultKind::Refused && f.what.contains("answers"), "{}", f.what);
    }

    #[test]
    fn a_long_path_and_a_file_in_the_way_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let f = claim(&dir.path().join("x".repeat(120))).unwrap().bind().unwrap_err();
        assert!(f.kind == FaultKind::Usage && f.what.contains("107"), "{}", f.what);
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        let f = claim(&file).unwrap_err();
        assert!(f.kind == FaultKind::Failed && f.next.is_some(), "{f}");
    }
}
