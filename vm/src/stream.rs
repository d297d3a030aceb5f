//! The stream in which QEMU gives a guest, read, and written anew as the source of a *postcopy*: devices first, then the
//! CPUs run, and memory follows page by page as they touch it. QEMU knows postcopy between two of itself (since 2.6); here
//! the first of the two is this node, and the memory is wherever it is.
//!
//! ```text
//! read:    header · configuration · RAM: blocks, pages of the small ones · devices · end · description
//! written: header · configuration · "a way back, please" · "postcopy" · RAM: blocks, the same pages
//!          · "drop all of the memory" · package( "listen" · devices · "run" ) · pages ... · end
//! ```
//!
//! Source: QEMU's docs/devel/migration.rst, migration/savevm.c and ram.c. What a stream says is not believed: a saved state comes
//! from another host. It is QEMU's to judge its devices, in its cage; here only what is needed is read, within bounds.

use std::ops::Range;

const MAGIC: u32 = 0x5145_564d;
const VERSION: u32 = 3;
const CONFIGURATION: u8 = 0x07;
const SUBSECTION: u8 = 0x05;
const START: u8 = 0x01;
const PART: u8 = 0x02;
const END: u8 = 0x03;
const COMMAND: u8 = 0x08;
const FOOTER: u8 = 0x7e;
const EOF: u8 = 0x00;
const DESCRIPTION: u8 = 0x06;
/// What QEMU 9 and later say before the devices; means nothing to one that listens already.
const SWITCHOVER: [u8; 5] = [COMMAND, 0, 11, 0, 0];

/// Flags in the low bits of a page's place.
const ZERO: u64 = 0x02;
const SIZES: u64 = 0x04;
const WHOLE: u64 = 0x08;
const EOS: u64 = 0x10;
const SAME: u64 = 0x20;
const FLAGS: u64 = 0xfff;

/// Bytes of a page.
pub const PAGE: usize = 4_096;
/// Most blocks of RAM that a machine has.
const MAX_BLOCKS: usize = 256;
/// Most bytes of a package (QEMU's MAX_VM_CMD_PACKAGED_SIZE).
const MAX_PACKAGE: usize = 1 << 24;

/// Why a stream is of no use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("what QEMU saved is not understood: {0}")]
pub struct StreamError(pub &'static str);

/// Where everything is in a stream that was saved with the memory left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Saved {
    machine: Range<usize>,
    /// Number of the RAM's section.
    section: u32,
    instance: u32,
    version: u32,
    /// Name and length of each block of RAM.
    blocks: Vec<(Vec<u8>, u64)>,
    /// The block that was left out.
    memory: usize,
    /// What came of the others, in sections as they came.
    pages: Vec<Range<usize>>,
    devices: Range<usize>,
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Result<&'a [u8], StreamError> {
        let end = self.at.checked_add(n).ok_or(StreamError("a length"))?;
        let out = self.bytes.get(self.at..end).ok_or(StreamError("it is cut short"))?;
        self.at = end;
        Ok(out)
    }

    fn u8(&mut self) -> Result<u8, StreamError> {
        Ok(self.take(1)?.first().copied().unwrap_or(0))
    }

    fn u32(&mut self) -> Result<u32, StreamError> {
        let b = self.take(4)?.first_chunk().ok_or(StreamError("it is cut short"))?;
        Ok(u32::from_be_bytes(*b))
    }

    fn u64(&mut self) -> Result<u64, StreamError> {
        let b = self.take(8)?.first_chunk().ok_or(StreamError("it is cut short"))?;
        Ok(u64::from_be_bytes(*b))
    }

    fn name(&mut self) -> Result<&'a [u8], StreamError> {
        let len = self.u8()?;
        self.take(usize::from(len))
    }
}

impl Saved {
    /// Reads a stream of a machine with so much RAM, which is not in it.
    pub fn read(bytes: &[u8], ram: u64) -> Result<Self, StreamError> {
        let mut r = Reader { bytes, at: 0 };
        if r.u32()? != MAGIC || r.u32()? != VERSION || r.u8()? != CONFIGURATION {
            return Err(StreamError("it does not begin as one"));
        }
        let len = r.u32()? as usize;
        let machine = r.at..r.at + r.take(len)?.len();
        capabilities(&mut r)?;
        if r.u8()? != START {
            return Err(StreamError("its memory is not first"));
        }
        let section = r.u32()?;
        if r.name()? != b"ram" {
            return Err(StreamError("its memory is not first"));
        }
        let (instance, version) = (r.u32()?, r.u32()?);
        let blocks = blocks(&mut r)?;
        let mut saved = Self {
            machine,
            section,
            instance,
            version,
            memory: 0,
            blocks,
            pages: Vec::new(),
            devices: 0..0,
        };
        let mut seen = vec![false; saved.blocks.len()];
        saved.end_of_section(&mut r)?;
        loop {
            let kind = r.u8()?;
            if !matches!(kind, PART | END) || r.u32()? != section {
                return Err(StreamError("another section stands between its memory's"));
            }
            let from = r.at;
            saved.records(&mut r, &mut seen)?;
            saved.pages.push(from..r.at);
            saved.footer(&mut r)?;
            if kind == END {
                break;
            }
        }
        if bytes.get(r.at..).is_some_and(|b| b.starts_with(&SWITCHOVER)) {
            r.at += SWITCHOVER.len();
        }
        let left_out = |(i, (_, len)): &(usize, &(Vec<u8>, u64))| *len == ram && !seen.get(*i).copied().unwrap_or(true);
        let mut out = saved.blocks.iter().enumerate().filter(left_out).map(|(i, _)| i);
        saved.memory = match (out.next(), out.next()) {
            (Some(i), None) => i,
            _ => return Err(StreamError("which of its memory was left out is not plain")),
        };
        saved.devices = r.at..devices_end(bytes, r.at)?;
        if saved.devices.len() + 16 > MAX_PACKAGE {
            return Err(StreamError("its devices take too much"));
        }
        Ok(saved)
    }

    fn end_of_section(&self, r: &mut Reader<'_>) -> Result<(), StreamError> {
        if r.u64()? & FLAGS != EOS {
            return Err(StreamError("the list of its memory does not end"));
        }
        self.footer(r)
    }

    fn footer(&self, r: &mut Reader<'_>) -> Result<(), StreamError> {
        if r.u8()? == FOOTER && r.u32()? == self.section {
            Ok(())
        } else {
            Err(StreamError("a section has no end"))
        }
    }

    /// Passes over the pages of a section.
    fn records(&self, r: &mut Reader<'_>, seen: &mut [bool]) -> Result<(), StreamError> {
        let mut block = None;
        loop {
            let place = r.u64()?;
            let (at, flags) = (place & !FLAGS, place & FLAGS);
            if flags == EOS {
                return Ok(());
            }
            if flags & SAME == 0 {
                let name = r.name()?;
                block = self.blocks.iter().position(|(n, _)| n == name);
            }
            let known = block.and_then(|b| Some((seen.get_mut(b)?, self.blocks.get(b)?)));
            let Some((seen, (_, len))) = known.filter(|(_, (_, len))| at < *len) else {
                return Err(StreamError("a page of no block"));
            };
            *seen |= *len > 0;
            match flags & !SAME {
                ZERO => r.take(1)?,
                WHOLE => r.take(PAGE)?,
                _ => return Err(StreamError("a page in a form that was not asked for")),
            };
        }
    }

    /// All that comes before the first page that the guest waits for. `bytes`: the stream that was read.
    pub fn prelude(&self, bytes: &[u8]) -> Result<Vec<u8>, StreamError> {
        let part = |r: &Range<usize>| bytes.get(r.clone()).ok_or(StreamError("another stream"));
        let mut out = Vec::with_capacity(self.devices.len() + (1 << 20));
        out.extend(MAGIC.to_be_bytes());
        out.extend(VERSION.to_be_bytes());
        out.push(CONFIGURATION);
        let machine = part(&self.machine)?;
        out.extend((machine.len() as u32).to_be_bytes());
        out.extend_from_slice(machine);
        command(&mut out, 1, &[]); // a way back
        let pages = [(PAGE as u64).to_be_bytes(); 2].concat();
        command(&mut out, 3, &pages); // it is a postcopy
        self.ram(&mut out, bytes)?;
        let (name, len) = self.blocks.get(self.memory).ok_or(StreamError("no memory"))?;
        let mut all = vec![0, name.len() as u8];
        all.extend_from_slice(name);
        all.push(0);
        all.extend(0u64.to_be_bytes());
        all.extend(len.to_be_bytes());
        command(&mut out, 6, &all); // what is there of the memory is nothing
        let mut package = Vec::with_capacity(self.devices.len() + 16);
        command(&mut package, 4, &[]); // listen
        package.extend_from_slice(part(&self.devices)?);
        command(&mut package, 5, &[]); // run
        command(&mut out, 7, &(package.len() as u32).to_be_bytes());
        out.extend(package);
        Ok(out)
    }

    fn ram(&self, out: &mut Vec<u8>, bytes: &[u8]) -> Result<(), StreamError> {
        out.push(START);
        out.extend(self.section.to_be_bytes());
        out.push(3);
        out.extend(b"ram");
        out.extend(self.instance.to_be_bytes());
        out.extend(self.version.to_be_bytes());
        let total: u64 = self.blocks.iter().map(|(_, len)| len).sum();
        out.extend((total | SIZES).to_be_bytes());
        for (name, len) in &self.blocks {
            out.push(name.len() as u8);
            out.extend_from_slice(name);
            out.extend(len.to_be_bytes());
        }
        out.extend(EOS.to_be_bytes());
        self.close(out);
        for range in &self.pages {
            out.push(PART);
            out.extend(self.section.to_be_bytes());
            out.extend_from_slice(bytes.get(range.clone()).ok_or(StreamError("another stream"))?);
            self.close(out);
        }
        Ok(())
    }

    fn close(&self, out: &mut Vec<u8>) {
        out.push(FOOTER);
        out.extend(self.section.to_be_bytes());
    }

    /// Pages of the memory, each with its place; one that is all zeros costs a few bytes.
    pub fn pages<'a>(&self, pages: impl IntoIterator<Item = (u64, &'a [u8])>) -> Vec<u8> {
        let mut out = vec![PART];
        out.extend(self.section.to_be_bytes());
        let name = self.blocks.get(self.memory).map_or(&[][..], |(n, _)| n);
        for (at, page) in pages {
            let zero = page.iter().all(|b| *b == 0);
            out.extend((at | if zero { ZERO } else { WHOLE }).to_be_bytes());
            out.push(name.len() as u8);
            out.extend_from_slice(name);
            if zero {
                out.push(0);
            } else {
                out.extend_from_slice(page);
            }
        }
        out.extend(EOS.to_be_bytes());
        self.close(&mut out);
        out
    }

    /// The end: every page that is not all zeros was given.
    pub fn end(&self) -> Vec<u8> {
        let mut out = vec![END];
        out.extend(self.section.to_be_bytes());
        out.extend(EOS.to_be_bytes());
        self.close(&mut out);
        out.push(EOF);
        out
    }

    /// Whether a block's name is the memory's.
    pub fn is_memory(&self, name: &[u8]) -> bool {
        self.blocks.get(self.memory).is_some_and(|(n, _)| n == name)
    }
}

fn command(out: &mut Vec<u8>, number: u16, with: &[u8]) {
    out.push(COMMAND);
    out.extend(number.to_be_bytes());
    out.extend((with.len() as u16).to_be_bytes());
    out.extend_from_slice(with);
}

/// Passes over what the configuration says of the capabilities that the stream was saved with.
fn capabilities(r: &mut Reader<'_>) -> Result<(), StreamError> {
    while r.bytes.get(r.at) == Some(&SUBSECTION) {
        r.take(1)?;
        if r.name()? != b"configuration/capabilities" {
            return Err(StreamError("its configuration holds something unknown"));
        }
        r.u32()?;
        for _ in 0..r.u32()?.min(MAX_BLOCKS as u32) {
            r.name()?;
        }
    }
    Ok(())
}

/// The blocks of RAM: their names, lengths and, since memory was left out, their places.
fn blocks(r: &mut Reader<'_>) -> Result<Vec<(Vec<u8>, u64)>, StreamError> {
    let head = r.u64()?;
    if head & FLAGS != SIZES {
        return Err(StreamError("the sizes of its memory are missing"));
    }
    let (mut left, mut out) = (head & !FLAGS, Vec::new());
    while left > 0 {
        let name = r.name()?.to_vec();
        let len = r.u64()?;
        let _place = r.u64()?;
        left = left.checked_sub(len).ok_or(StreamError("its sizes do not add up"))?;
        out.push((name, len));
        if out.len() > MAX_BLOCKS || len == 0 {
            return Err(StreamError("its sizes do not add up"));
        }
    }
    Ok(out)
}

/// Where the devices end: before the end mark, and the description that follows it.
fn devices_end(bytes: &[u8], from: usize) -> Result<usize, StreamError> {
    let rest = bytes.get(from..).unwrap_or_default();
    if let Some(text) = rest.iter().rposition(|b| *b == b'}').map(|end| from + end + 1)
        && text == bytes.len()
    {
        // The description is the only thing whose length leads to the very end.
        for (i, w) in rest.windows(6).enumerate().rev() {
            if let [EOF, DESCRIPTION, a, b, c, d] = *w
                && u32::from_be_bytes([a, b, c, d]) as usize == rest.len() - i - 6
                && rest.get(i + 6) == Some(&b'{')
            {
                return Ok(from + i);
            }
        }
    }
    match rest.split_last() {
        Some((&EOF, before)) if !before.is_empty() => Ok(from + before.len()),
        _ => Err(StreamError("its devices do not end")),
    }
}

/// What QEMU says on the way back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// It waits for this page of the memory.
    Wants(u64),
    /// It has everything; another number than zero: it failed.
    Over(u32),
    /// Something that needs no answer.
    Other,
}

/// Reads QEMU's side, cut anywhere.
#[derive(Debug, Default)]
pub struct Way {
    input: Vec<u8>,
    /// The block that the last request named was the memory.
    memory: bool,
}

impl Way {
    /// Takes bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.input.extend_from_slice(bytes);
    }

    /// The next thing that it said, if all of it is here.
    pub fn poll(&mut self, of: &Saved) -> Result<Option<Said>, StreamError> {
        let Some(&[a, b, c, d]) = self.input.first_chunk() else {
            return Ok(None);
        };
        let (kind, len) = (u16::from_be_bytes([a, b]), usize::from(u16::from_be_bytes([c, d])));
        if len > 1_024 {
            return Err(StreamError("its answer is too long"));
        }
        if self.input.len() < 4 + len {
            return Ok(None);
        }
        let message: Vec<u8> = self.input.drain(..4 + len).skip(4).collect();
        let mut r = Reader { bytes: &message, at: 0 };
        match kind {
            1 => Ok(Some(Said::Over(r.u32()?))),
            3 | 4 => {
                let (at, _len) = (r.u64()?, r.u32()?);
                if kind == 3 {
                    self.memory = of.is_memory(r.name()?);
                }
                // All of the other blocks was given before.
                Ok(Some(if self.memory {
                    Said::Wants(at & !FLAGS)
                } else {
                    return Err(StreamError("it waits for a page that it has"));
                }))
            }
            _ => Ok(Some(Said::Other)),
        }
    }
}

#[cfg(test)]
#[path = "tests/stream.rs"]
mod tests;
