//! A seed for cloud-init in a guest: its documents as a small ISO 9660 file system, volume `cidata`.
//! <https://docs.cloud-init.io/en/latest/reference/datasources/nocloud.html>
//!
//! Written with the Joliet extension, whose names have small letters and hyphens: ECMA-119, and the Joliet
//! specification of 1995. Read-only, a few files in one folder, no dates: the same documents give the same bytes.

use wire::{
    fault::plain,
    ids::{GuestId, Name},
    mac::MacAddr,
};

/// A sector of a CD, bytes.
const SECTOR: usize = 2_048;
/// First sectors: sixteen of the system, two descriptors and the end of the set.
const PATHS: u32 = 19;
/// Two path tables (little and big endian) for each of the two trees.
const ROOT: u32 = PATHS + 4;
/// The two root folders, a sector each.
const FILES: u32 = ROOT + 2;
const LABEL: &str = "cidata";

/// The seed of one guest.
pub fn seed(id: GuestId, name: &Name, mac: Option<MacAddr>, user_data: &[u8]) -> Vec<u8> {
    let meta = format!("instance-id: {id}\nlocal-hostname: {}\n", plain(name.as_str()));
    let mut files: Vec<(&str, &str, Vec<u8>)> = vec![
        ("META.;1", "meta-data", meta.into_bytes()),
        ("USER.;1", "user-data", user_data.to_vec()),
    ];
    if let Some(mac) = mac {
        let network = format!(
            "version: 2\nethernets:\n  lan:\n    match: {{ macaddress: \"{mac}\" }}\n    dhcp4: true\n    dhcp6: true\n"
        );
        files.insert(1, ("NETWORK.;1", "network-config", network.into_bytes()));
    }
    iso(&files)
}

fn sectors(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(SECTOR)).unwrap_or(u32::MAX)
}

/// A number in both byte orders, as ECMA-119 has it.
fn both(out: &mut Vec<u8>, n: u32) {
    out.extend(n.to_le_bytes());
    out.extend(n.to_be_bytes());
}

fn both16(out: &mut Vec<u8>, n: u16) {
    out.extend(n.to_le_bytes());
    out.extend(n.to_be_bytes());
}

fn ucs2(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_be_bytes).collect()
}

/// A record of a folder (ECMA-119 §9.1).
fn record(name: &[u8], at: u32, len: u32, folder: bool) -> Vec<u8> {
    let mut r = vec![0, 0];
    both(&mut r, at);
    both(&mut r, len);
    r.extend([0; 7]);
    r.extend([if folder { 2 } else { 0 }, 0, 0]);
    both16(&mut r, 1);
    r.push(u8::try_from(name.len()).unwrap_or(u8::MAX));
    r.extend(name);
    if r.len() % 2 == 1 {
        r.push(0);
    }
    r[0] = u8::try_from(r.len()).unwrap_or(u8::MAX);
    r
}

fn padded(text: &[u8], len: usize, with: &[u8]) -> Vec<u8> {
    text.iter()
        .copied()
        .chain(with.iter().copied().cycle())
        .take(len)
        .collect()
}

/// A volume descriptor (ECMA-119 §8.4, §8.5).
fn descriptor(joliet: bool, total: u32, paths: u32, root: u32) -> Vec<u8> {
    let blank: &[u8] = if joliet { &[0, b' '] } else { b" " };
    let label = if joliet { ucs2(LABEL) } else { LABEL.into() };
    let mut d = vec![if joliet { 2 } else { 1 }];
    d.extend(b"CD001\x01\x00");
    d.extend(padded(&[], 32, blank));
    d.extend(padded(&label, 32, blank));
    d.extend([0; 8]);
    both(&mut d, total);
    d.extend(padded(if joliet { b"%/E" } else { &[] }, 32, &[0]));
    both16(&mut d, 1);
    both16(&mut d, 1);
    both16(&mut d, u16::try_from(SECTOR).unwrap_or(0));
    both(&mut d, 10);
    d.extend(paths.to_le_bytes());
    d.extend(0u32.to_le_bytes());
    d.extend((paths + 1).to_be_bytes());
    d.extend(0u32.to_be_bytes());
    d.extend(record(&[0], root, u32::try_from(SECTOR).unwrap_or(0), true));
    d.extend(padded(&[], 128 * 4 + 37 * 3, blank));
    for _ in 0..4 {
        d.extend(b"0000000000000000\x00");
    }
    d.push(1);
    d.resize(SECTOR, 0);
    d
}

fn path_table(root: u32, big: bool) -> Vec<u8> {
    let mut t = vec![1, 0];
    t.extend(if big { root.to_be_bytes() } else { root.to_le_bytes() });
    t.extend(if big { 1u16.to_be_bytes() } else { 1u16.to_le_bytes() });
    t.extend([0, 0]);
    t.resize(SECTOR, 0);
    t
}

fn iso(files: &[(&str, &str, Vec<u8>)]) -> Vec<u8> {
    let size = u32::try_from(SECTOR).unwrap_or(0);
    let mut at = FILES;
    let places: Vec<u32> = files
        .iter()
        .map(|(_, _, data)| {
            let here = at;
            at += sectors(data.len());
            here
        })
        .collect();
    let total = at;
    let mut out = vec![0; 16 * SECTOR];
    for joliet in [false, true] {
        let n = u32::from(joliet);
        out.extend(descriptor(joliet, total, PATHS + 2 * n, ROOT + n));
    }
    let mut end = b"\xffCD001\x01".to_vec();
    end.resize(SECTOR, 0);
    out.extend(end);
    for root in [ROOT, ROOT + 1] {
        out.extend(path_table(root, false));
        out.extend(path_table(root, true));
    }
    for joliet in [false, true] {
        let root = ROOT + u32::from(joliet);
        let mut folder = record(&[0], root, size, true);
        folder.extend(record(&[1], root, size, true));
        for ((short, long, data), place) in files.iter().zip(&places) {
            let name = if joliet { ucs2(long) } else { short.as_bytes().to_vec() };
            folder.extend(record(
                &name,
                *place,
                u32::try_from(data.len()).unwrap_or(u32::MAX),
                false,
            ));
        }
        folder.resize(SECTOR, 0);
        out.extend(folder);
    }
    for (_, _, data) in files {
        let whole = out.len() + sectors(data.len()) as usize * SECTOR;
        out.extend(data);
        out.resize(whole, 0);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documents_are_where_the_folders_say() {
        let id = GuestId([7; 16]);
        let user = vec![b'u'; 5_000];
        let iso = seed(id, &"web".parse().unwrap(), Some(MacAddr([2, 0, 0, 0, 0, 1])), &user);
        assert_eq!(iso.len() % SECTOR, 0);
        assert_eq!(&iso[16 * SECTOR + 1..][..5], b"CD001");
        assert_eq!(&iso[16 * SECTOR + 40..][..8], b"cidata  ");
        let total = u32::from_le_bytes(iso[16 * SECTOR + 80..][..4].try_into().unwrap());
        assert_eq!(total as usize * SECTOR, iso.len());
        // Walks the Joliet tree as a kernel does: descriptor, root, records.
        let joliet = &iso[17 * SECTOR..];
        assert_eq!(&joliet[88..91], b"%/E");
        let root = u32::from_le_bytes(joliet[158..162].try_into().unwrap()) as usize;
        let mut folder = &iso[root * SECTOR..][..SECTOR];
        let mut found = std::collections::BTreeMap::new();
        while folder[0] > 0 {
            let (r, rest) = folder.split_at(usize::from(folder[0]));
            folder = rest;
            let name: Vec<u16> = r[33..33 + usize::from(r[32])]
                .chunks(2)
                .filter(|c| c.len() == 2)
                .map(|c| u16::from_be_bytes([c[0], c[1]]))
                .collect();
            let at = u32::from_le_bytes(r[2..6].try_into().unwrap()) as usize * SECTOR;
            let len = u32::from_le_bytes(r[10..14].try_into().unwrap()) as usize;
            found.insert(String::from_utf16(&name).unwrap(), iso[at..at + len].to_vec());
        }
        assert_eq!(found["user-data"], user);
        let meta = String::from_utf8(found["meta-data"].clone()).unwrap();
        assert!(meta.contains(&format!("instance-id: {id}\n")) && meta.contains("local-hostname: web\n"));
        assert!(
            String::from_utf8(found["network-config"].clone())
                .unwrap()
                .contains("02:00:00:00:00:01")
        );
    }
}
