//! Streams as QEMU 7.2 writes them, by a writer of the tests' own, and any bytes at all.

use super::*;
use proptest::prelude::*;

const RAM: u64 = 1 << 20;

fn name(out: &mut Vec<u8>, n: &str) {
    out.push(n.len() as u8);
    out.extend(n.as_bytes());
}

/// A stream with the memory `ram0` left out, a block `rom` of two pages, and devices that hold `devices`.
fn stream(devices: &[u8], description: bool) -> Vec<u8> {
    let mut s = Vec::new();
    s.extend(*b"QEVM");
    s.extend([0, 0, 0, 3, 7, 0, 0, 0, 10]);
    s.extend(b"pc-q35-7.2");
    s.push(5);
    name(&mut s, "configuration/capabilities");
    s.extend([0, 0, 0, 1, 0, 0, 0, 1]);
    name(&mut s, "x-ignore-shared");
    s.extend([1, 0, 0, 0, 2]);
    name(&mut s, "ram");
    s.extend([0, 0, 0, 0, 0, 0, 0, 4]);
    s.extend(((RAM + 8_192) | 4).to_be_bytes());
    for (n, len) in [("ram0", RAM), ("rom", 8_192)] {
        name(&mut s, n);
        s.extend(len.to_be_bytes());
        s.extend(0u64.to_be_bytes());
    }
    s.extend(16u64.to_be_bytes());
    s.extend([0x7e, 0, 0, 0, 2]);
    s.extend([3, 0, 0, 0, 2]);
    s.extend(8u64.to_be_bytes());
    name(&mut s, "rom");
    s.extend([7; 4_096]);
    s.extend((4_096u64 | 2 | 32).to_be_bytes());
    s.push(0);
    s.extend(16u64.to_be_bytes());
    s.extend([0x7e, 0, 0, 0, 2]);
    s.extend(devices);
    s.push(0);
    if description {
        let text = br#"{"page_size": 4096, "devices": []}"#;
        s.push(6);
        s.extend((text.len() as u32).to_be_bytes());
        s.extend(text);
    }
    s
}

#[test]
fn what_is_written_has_all_that_was_read_but_the_memory() {
    // A device whose bytes look like an end and a description.
    let devices = [4, 0, 0, 0, 9, 0, 6, 0, 0, 0, 2, b'{', b'}', 1];
    for description in [true, false] {
        let s = stream(&devices, description);
        let saved = Saved::read(&s, RAM).unwrap();
        assert!(saved.is_memory(b"ram0"));
        let out = saved.prelude(&s).unwrap();
        assert!(!out.windows(12).any(|w| w == b"capabilities"));
        assert!(
            out.windows(4_096).any(|w| w == [7; 4_096]),
            "the pages of the small block"
        );
        let package = [&[8, 0, 4, 0, 0][..], &devices, &[8, 0, 5, 0, 0]].concat();
        assert!(out.ends_with(&package), "{description}");
    }
    let s = stream(&devices, true);
    assert!(Saved::read(&s, RAM / 2).is_err(), "another size of memory");
    assert!(Saved::read(&s[..200], RAM).is_err());
}

#[test]
fn requests_are_read_however_they_are_cut() {
    let s = stream(&[4], true);
    let saved = Saved::read(&s, RAM).unwrap();
    let mut said = vec![0, 2, 0, 4, 0, 0, 0, 1, 0, 3, 0, 17];
    said.extend(0x3000u64.to_be_bytes());
    said.extend(4_096u32.to_be_bytes());
    name(&mut said, "ram0");
    said.extend([0, 4, 0, 12]);
    said.extend(0x5000u64.to_be_bytes());
    said.extend(4_096u32.to_be_bytes());
    said.extend([0, 1, 0, 4, 0, 0, 0, 0]);
    let mut way = Way::default();
    let mut all = Vec::new();
    for b in said {
        way.push(&[b]);
        all.extend(way.poll(&saved).unwrap());
    }
    assert_eq!(
        all,
        [Said::Other, Said::Wants(0x3000), Said::Wants(0x5000), Said::Over(0)]
    );
    way.push(&[0, 3, 0, 16]);
    way.push(&[0; 12]);
    way.push(&[3, b'r', b'o', b'm']);
    assert!(way.poll(&saved).is_err());
}

proptest! {
    #[test]
    fn bent_bytes_are_refused_or_read_and_never_more(at in 0usize..500, with: u8, cut in 0usize..6_000) {
        let mut s = stream(&[4, 0, 0, 0, 9], true);
        if let Some(b) = s.get_mut(at) {
            *b = with;
        }
        s.truncate(cut.max(1));
        if let Ok(saved) = Saved::read(&s, RAM) {
            prop_assert!(saved.prelude(&s).unwrap().len() < s.len() + 4_096);
        }
    }
}
