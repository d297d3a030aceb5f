//! What the layers of an image add up to, without a byte of their contents.
//!
//! Entries come in the order of the layers. A later layer adds, replaces, and hides what is below it (`.wh.NAME`,
//! `.wh..wh..opq`). Folders above an entry are looked up as a container's root would: a link is followed, and never out.
//!
//! Invariant: at most [`OCI_ENTRIES`] entries with [`OCI_TEXT_BYTES`] of names were taken, no deeper than [`OCI_DEPTH`];
//! no step takes longer than there are entries, and none is taken twice in a layer.

use super::{OciError, components, shown, too_many_entries, too_much_text};
use crate::defaults::{OCI_DEPTH, OCI_ENTRIES, OCI_PATH_BYTES, OCI_TEXT_BYTES};
use std::collections::{BTreeMap, BTreeSet, btree_map};

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A folder.
    Folder,
    /// A file of so many bytes.
    File(u64),
    /// A symbolic link.
    Link(Vec<u8>),
    /// Another name of a file.
    Hard(Vec<u8>),
    /// A named pipe.
    Pipe,
    /// Anything else: devices, parts of sparse or split files.
    Other(&'static str),
}

/// Who may do what with it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Meta {
    /// Permissions, 12 bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Seconds since 1970.
    pub mtime: u32,
    /// Extended attributes.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Where in the layers the bytes of a file are: the layer, and which entry in it.
pub type Added = (usize, u64);

type Id = usize;

#[derive(Debug)]
enum Body {
    Folder(BTreeMap<Vec<u8>, Name>),
    File(u64, Added),
    Link(Vec<u8>),
    Pipe,
}

/// A name in a folder.
#[derive(Debug, Clone, Copy)]
struct Name {
    id: Id,
    /// The layer that gave it last.
    layer: usize,
}

#[derive(Debug)]
struct Inode {
    meta: Meta,
    body: Body,
}

/// One name of the finished tree.
#[derive(Debug, PartialEq, Eq)]
pub enum Shown<'a> {
    /// A folder.
    Folder(&'a Meta),
    /// A file of these many bytes, which are at that place in the layers.
    File(&'a Meta, u64, Added),
    /// A symbolic link.
    Link(&'a Meta, &'a [u8]),
    /// A named pipe.
    Pipe(&'a Meta),
    /// Another name of what was shown under this path.
    Again(&'a [u8]),
}

/// Is told each name: its path and what it is.
pub type Visit<'v> = dyn FnMut(&[u8], Shown<'_>) -> Result<(), OciError> + 'v;

/// See the module.
#[derive(Debug)]
pub struct Tree {
    inodes: Vec<Inode>,
    taken: usize,
    /// Bytes of names, targets and attributes taken.
    text: usize,
    /// What was hidden in this layer, by folder and name; an empty name: all.
    hidden: (usize, BTreeSet<(Id, Vec<u8>)>),
}

/// What is left to show of a folder: how long its path is, and its names.
type Open<'a> = (usize, btree_map::Iter<'a, Vec<u8>, Name>);

/// How far a path is there: the folder reached, what is missing below, and how deep the folder lies.
type Reached = (Id, Vec<Vec<u8>>, usize);

const ROOT: Id = 0;
/// Links that are followed on one path; Linux follows 40.
const MAX_LINKS: usize = 40;
const HIDE: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
const AUFS: &[u8] = b".wh..wh.";

impl Default for Tree {
    fn default() -> Self {
        let root = Inode {
            meta: Meta {
                mode: 0o755,
                ..Meta::default()
            },
            body: Body::Folder(BTreeMap::new()),
        };
        Self {
            inodes: vec![root],
            taken: 0,
            text: 0,
            hidden: (0, BTreeSet::new()),
        }
    }
}

impl Tree {
    /// The next entry of a layer; `place`: which one it is there.
    pub fn handle_entry(&mut self, place: Added, path: &[u8], kind: Kind, meta: Meta) -> Result<(), OciError> {
        self.taken += 1;
        if self.taken > OCI_ENTRIES {
            return Err(too_many_entries());
        }
        let target = match &kind {
            Kind::Link(to) | Kind::Hard(to) => to.len(),
            _ => 0,
        };
        let attributes: usize = meta.xattrs.iter().map(|(n, v)| n.len() + v.len()).sum();
        self.text += path.len() + target + attributes;
        if self.text > OCI_TEXT_BYTES {
            return Err(too_much_text());
        }
        if self.hidden.0 != place.0 {
            self.hidden = (place.0, BTreeSet::new());
        }
        self.entry(place, path, kind, meta).map_err(|why| OciError::Entry {
            layer: place.0 + 1,
            path: shown(path),
            why,
        })
    }

    fn entry(&mut self, place: Added, path: &[u8], kind: Kind, meta: Meta) -> Result<(), &'static str> {
        let layer = place.0;
        let parts = components(path)?;
        let Some((name, folders)) = parts.split_last() else {
            return match kind {
                Kind::Folder => {
                    self.inodes[ROOT].meta = meta;
                    Ok(())
                }
                _ => Err("the root is not a folder"),
            };
        };
        if *name == OPAQUE {
            if let Some(folder) = self.find(folders)? {
                self.once(folder, b"")?;
                self.hide_below(folder, layer);
            }
            return Ok(());
        }
        if name.starts_with(AUFS) {
            return Ok(()); // what AUFS kept for itself
        }
        if let Some(hidden) = name.strip_prefix(HIDE) {
            if let Some(folder) = self.find(folders)? {
                self.once(folder, hidden)?;
                self.hide(folder, hidden, layer);
            }
            return Ok(());
        }
        let body = match kind {
            Kind::Folder => Body::Folder(BTreeMap::new()),
            Kind::File(bytes) => Body::File(bytes, place),
            Kind::Link(to) if to.is_empty() || to.len() > OCI_PATH_BYTES || to.contains(&0) => {
                return Err("its target is no path");
            }
            Kind::Link(to) => Body::Link(to),
            Kind::Pipe => Body::Pipe,
            Kind::Hard(to) => return self.hard_link(layer, folders, name, &to),
            Kind::Other(what) => return Err(what),
        };
        let folder = self.make(folders, layer)?;
        let old = self.child(folder, name);
        if let (Some(old), Body::Folder(_)) = (old, &body)
            && matches!(self.inodes[old.id].body, Body::Folder(_))
        {
            self.inodes[old.id].meta = meta;
            self.put(folder, name, Name { id: old.id, layer });
            return Ok(());
        }
        if old.is_some_and(|o| o.layer == layer) {
            return Err("it comes twice in one layer");
        }
        let id = self.inodes.len();
        self.inodes.push(Inode { meta, body });
        self.put(folder, name, Name { id, layer });
        Ok(())
    }

    fn hard_link(&mut self, layer: usize, folders: &[&[u8]], name: &[u8], to: &[u8]) -> Result<(), &'static str> {
        let target = components(to).map_err(|_| "it links to what is not inside the image")?;
        let none = "it links to what is not a file of the image";
        let (last, above) = target.split_last().ok_or(none)?;
        let id = self.find(above)?.and_then(|f| self.child(f, last)).ok_or(none)?.id;
        if !matches!(self.inodes[id].body, Body::File(..) | Body::Link(_)) {
            return Err(none);
        }
        let folder = self.make(folders, layer)?;
        if self.child(folder, name).is_some_and(|o| o.layer == layer) {
            return Err("it comes twice in one layer");
        }
        // A second name of a link is another link, as 'mke2fs' has it.
        let copy = match &self.inodes[id].body {
            Body::Link(to) => Some((self.inodes[id].meta.clone(), to.clone())),
            _ => None,
        };
        let id = match copy {
            None => id,
            Some((meta, to)) => {
                self.inodes.push(Inode {
                    meta,
                    body: Body::Link(to),
                });
                self.inodes.len() - 1
            }
        };
        self.put(folder, name, Name { id, layer });
        Ok(())
    }

    fn once(&mut self, folder: Id, name: &[u8]) -> Result<(), &'static str> {
        match self.hidden.1.insert((folder, name.to_vec())) {
            true => Ok(()),
            false => Err("it comes twice in one layer"),
        }
    }

    fn child(&self, folder: Id, name: &[u8]) -> Option<Name> {
        match &self.inodes[folder].body {
            Body::Folder(names) => names.get(name).copied(),
            _ => None,
        }
    }

    fn put(&mut self, folder: Id, name: &[u8], to: Name) {
        if let Body::Folder(names) = &mut self.inodes[folder].body {
            names.insert(name.to_vec(), to);
        }
    }

    /// The folder at a path, links followed; none: there is nothing.
    fn find(&self, path: &[&[u8]]) -> Result<Option<Id>, &'static str> {
        self.walk(path).map(|(id, rest, _)| rest.is_empty().then_some(id))
    }

    /// The folder at a path, links followed; folders that are missing are made.
    fn make(&mut self, path: &[&[u8]], layer: usize) -> Result<Id, &'static str> {
        let (mut id, rest, depth) = self.walk(path)?;
        if depth + rest.len() >= OCI_DEPTH {
            return Err("it lies in too many folders");
        }
        for name in rest {
            self.taken += 1;
            let new = self.inodes.len();
            self.inodes.push(Inode {
                meta: Meta {
                    mode: 0o755,
                    ..Meta::default()
                },
                body: Body::Folder(BTreeMap::new()),
            });
            self.put(id, &name, Name { id: new, layer });
            id = new;
        }
        Ok(id)
    }

    /// Follows a path from the root as far as it exists.
    fn walk(&self, path: &[&[u8]]) -> Result<Reached, &'static str> {
        let mut above = vec![ROOT];
        let mut left: Vec<Vec<u8>> = path.iter().rev().map(|p| p.to_vec()).collect();
        let mut links = 0;
        while let Some(name) = left.pop() {
            let here = above.last().copied().unwrap_or(ROOT);
            if name == b".." {
                // As at a root: up from it is itself.
                above.truncate(above.len().max(2) - 1);
                continue;
            }
            let Some(found) = self.child(here, &name) else {
                left.push(name);
                left.reverse();
                return match left.iter().any(|p| p == b"..") {
                    true => Err("a link in its path leads nowhere"),
                    false => Ok((here, left, above.len() - 1)),
                };
            };
            match &self.inodes[found.id].body {
                Body::Folder(_) => above.push(found.id),
                Body::Link(to) => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err("links in its path go round");
                    }
                    if to.starts_with(b"/") {
                        above.truncate(1);
                    }
                    let steps = to.split(|b| *b == b'/').filter(|p| !p.is_empty() && *p != b".");
                    let steps: Vec<Vec<u8>> = steps.map(<[u8]>::to_vec).collect();
                    left.extend(steps.into_iter().rev());
                    if left.len() > OCI_PATH_BYTES {
                        return Err("links in its path go round");
                    }
                }
                Body::File(..) | Body::Pipe => return Err("what should be its folder is a file"),
            }
        }
        Ok((above.last().copied().unwrap_or(ROOT), vec![], above.len() - 1))
    }

    /// A name of lower layers goes; what this layer put into it stays.
    fn hide(&mut self, folder: Id, name: &[u8], layer: usize) {
        let Some(child) = self.child(folder, name) else { return };
        let stays = match &self.inodes[child.id].body {
            Body::Folder(_) => self.hide_below(child.id, layer) || child.layer == layer,
            _ => child.layer == layer,
        };
        if !stays && let Body::Folder(names) = &mut self.inodes[folder].body {
            names.remove(name);
        }
    }

    /// All that lower layers put into a folder goes; whether anything is left. As deep as paths are, which is bounded.
    fn hide_below(&mut self, folder: Id, layer: usize) -> bool {
        let names: Vec<Vec<u8>> = match &self.inodes[folder].body {
            Body::Folder(names) => names.keys().cloned().collect(),
            _ => return false,
        };
        for name in names {
            self.hide(folder, &name, layer);
        }
        matches!(&self.inodes[folder].body, Body::Folder(names) if !names.is_empty())
    }

    /// Every name, folders before what is in them, in order of bytes. A path has no slash in front; the root's is empty.
    /// Errors: paths that grew too long by links.
    pub fn show(&self, each: &mut Visit<'_>) -> Result<(), OciError> {
        let mut names = vec![0u32; self.inodes.len()];
        for inode in &self.inodes {
            if let Body::Folder(of) = &inode.body {
                of.values().for_each(|n| names[n.id] += 1);
            }
        }
        let mut first: BTreeMap<Id, Vec<u8>> = BTreeMap::new();
        let (mut path, mut open, mut text): (Vec<u8>, Vec<Open<'_>>, usize) = (vec![], vec![], 0);
        if let Body::Folder(of) = &self.inodes[ROOT].body {
            each(b"", Shown::Folder(&self.inodes[ROOT].meta))?;
            open.push((0, of.iter()));
        }
        while let Some((length, of)) = open.last_mut() {
            path.truncate(*length);
            let Some((name, Name { id, .. })) = of.next() else {
                open.pop();
                continue;
            };
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(name);
            text += path.len();
            if text > OCI_TEXT_BYTES {
                return Err(too_much_text());
            }
            if let Err(why) = components(&path) {
                return Err(OciError::Malformed(format!("{}: {why}", shown(&path))));
            }
            if let Some(known) = first.get(id) {
                each(&path, Shown::Again(known))?;
                continue;
            }
            let inode = &self.inodes[*id];
            match &inode.body {
                Body::Folder(of) => {
                    each(&path, Shown::Folder(&inode.meta))?;
                    open.push((path.len(), of.iter()));
                    continue;
                }
                Body::File(bytes, place) => each(&path, Shown::File(&inode.meta, *bytes, *place))?,
                Body::Link(to) => each(&path, Shown::Link(&inode.meta, to))?,
                Body::Pipe => each(&path, Shown::Pipe(&inode.meta))?,
            }
            if names[*id] > 1 {
                first.insert(*id, path.clone());
            }
        }
        Ok(())
    }
}
