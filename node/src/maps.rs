//! Which parts of a process's memory can be given back to the kernel and are still there when they are needed again.

/// Memory of the program's own files that nothing wrote to: first address, and bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clean {
    /// First address.
    pub at: usize,
    /// Bytes.
    pub len: usize,
    /// Bytes of them that are resident.
    pub resident: u64,
}

/// Reads `/proc/PID/smaps` (proc_pid_smaps(5)): private mappings of files that are never written, and of which no page is a copy
/// of the process's own, as a page that the dynamic linker relocated is. What cannot be read is left out.
pub fn clean(smaps: &str) -> Vec<Clean> {
    let mut out = Vec::new();
    let mut last: Option<Clean> = None;
    for line in smaps.lines() {
        let mut words = line.split_ascii_whitespace();
        let (Some(first), Some(second)) = (words.next(), words.next()) else {
            continue;
        };
        match first {
            "Rss:" => {
                if let (Some(m), Ok(kb)) = (&mut last, second.parse::<u64>()) {
                    m.resident = kb.saturating_mul(1024);
                }
            }
            "Anonymous:" => {
                let whole = last.take().filter(|m| second == "0" && m.resident > 0);
                out.extend(whole);
            }
            _ => {
                if let Some((from, to)) = first.split_once('-') {
                    let path = words.nth(3).unwrap_or_default();
                    let is_file = path.starts_with('/') && second.ends_with('p') && !second.contains('w');
                    last = range(from, to).filter(|_| is_file);
                }
            }
        }
    }
    out
}

fn range(from: &str, to: &str) -> Option<Clean> {
    let at = usize::from_str_radix(from, 16).ok()?;
    let end = usize::from_str_radix(to, 16).ok()?;
    let len = end.checked_sub(at)?;
    Some(Clean { at, len, resident: 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &str = "\
55e0a0000000-55e0a0a00000 r--p 00000000 fe:00 12 /usr/bin/lanline
Size:              10240 kB
Rss:                4096 kB
Anonymous:             0 kB
VmFlags: rd mr mw me sd
55e0a0a00000-55e0a2000000 r-xp 00a00000 fe:00 12 /usr/bin/lanline
Rss:               20000 kB
Anonymous:             0 kB
55e0a2000000-55e0a2100000 r--p 02000000 fe:00 12 /usr/bin/lanline
Rss:                1000 kB
Anonymous:          1000 kB
55e0a2100000-55e0a2110000 rw-p 02100000 fe:00 12 /usr/bin/lanline
Rss:                  64 kB
Anonymous:             0 kB
7f0000000000-7f0000021000 rw-p 00000000 00:00 0
Rss:                 132 kB
Anonymous:           132 kB
7f0000100000-7f0000200000 r--s 00000000 fe:00 13 /var/shared
Rss:                   8 kB
Anonymous:             0 kB
7f0000300000-7f0000400000 r-xp 00000000 fe:00 14 /usr/lib/never touched.so
Rss:                   0 kB
Anonymous:             0 kB
7fff00000000-7fff00002000 r-xp 00000000 00:00 0 [vdso]
Rss:                   8 kB
Anonymous:             0 kB
";

    #[test]
    fn only_what_is_read_again_from_its_file_is_clean() {
        let clean = clean(SMAPS);
        let sizes: Vec<_> = clean.iter().map(|m| (m.at, m.len, m.resident)).collect();
        assert_eq!(
            sizes,
            [
                (0x55e0a0000000, 0xa00000, 4096 << 10),
                (0x55e0a0a00000, 0x1600000, 20_000 << 10)
            ]
        );
    }

    #[test]
    fn nonsense_is_left_out() {
        for text in [
            "",
            "x-y r-xp 0 0 1 /a\nRss: 1 kB\nAnonymous: 0 kB",
            "2-1 r-xp 0 0 1 /a\nRss: 1\nAnonymous: 0",
            "Anonymous: 0 kB",
        ] {
            assert_eq!(clean(text), [], "{text:?}");
        }
    }
}
