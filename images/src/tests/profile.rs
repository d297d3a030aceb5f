use super::*;
use proptest::prelude::*;

fn touch(piece: u32, after: u16) -> Touch {
    Touch { piece, pages: 1, after }
}

fn of(pieces: &[u32]) -> Profile {
    Profile::new(pieces.iter().zip(0..).map(|(p, t)| touch(*p, t)), 10_000)
}

fn order(p: &Profile) -> Vec<u32> {
    p.pieces().collect()
}

#[test]
fn a_boot_is_recorded_by_first_touch_until_it_is_ready_or_over() {
    let now = Instant::now();
    let at = |ms| now + Duration::from_millis(ms);
    let mut r = Recorder::new(now);
    r.handle_read(at(8), 7, 0b1);
    r.handle_read(at(12), 3, 0b10);
    r.handle_read(at(16), 7, 0b100);
    r.handle_read(at(20), 10, 1);
    assert_eq!(r.poll_event(10), None, "the boot goes on");
    r.handle_ready();
    r.handle_read(at(24), 4, 1);
    let p = r.poll_event(10).unwrap();
    assert_eq!(
        order(&p),
        [7, 3],
        "nothing after it was ready, nothing beyond the image"
    );
    assert_eq!((p.touches[0].pages, p.touches[0].after), (0b101, 2));
    assert_eq!(r.poll_timeout(), None);

    let mut r = Recorder::new(now);
    r.handle_read(at(1), 1, 1);
    assert_eq!(r.poll_timeout(), Some(now + RECORD_FOR));
    r.handle_read(now + RECORD_FOR, 2, 1);
    assert_eq!(order(&r.poll_event(10).unwrap()), [1]);
}

#[test]
fn a_recorder_keeps_no_more_than_its_bound() {
    let now = Instant::now();
    let mut r = Recorder::new(now);
    for i in 0..PROFILE_TOUCHES as u32 + 50 {
        r.handle_read(now, i, 1);
    }
    r.handle_ready();
    let p = r.poll_event(u32::MAX).unwrap();
    assert_eq!(p.touches.len(), PROFILE_TOUCHES);
    assert_eq!(p.encode().len(), MAX_PROFILE_BYTES);
}

#[test]
fn hosts_that_agree_give_their_common_order() {
    let merged = merge(&[of(&[1, 2, 3, 4]), of(&[1, 3, 2, 4]), of(&[1, 2, 3, 4, 9])], 10_000);
    assert_eq!(order(&merged), [1, 2, 3, 4, 9]);
    assert_eq!(order(&merge(&[], 10)), [0; 0]);
    assert_eq!(order(&merge(&[of(&[5, 4])], 10)), [5, 4]);
}

/// Fault 17 of the notes on images: a report that calls everything urgent, in a made-up order, cannot push honest pieces
/// back, and what it names alone comes after them.
#[test]
fn fault_17_a_hostile_report_comes_last_and_is_capped() {
    let honest = [1, 5, 2, 8, 900, 901, 30];
    let hostile: Vec<u32> = (0..8_000).rev().collect();
    let reports = [of(&honest), of(&hostile), of(&honest)];
    let merged = merge(&reports, 10_000);
    assert_eq!(order(&merged)[..honest.len()], honest, "the median does not move");
    assert!(merged.touches.len() <= PROFILE_TOUCHES);
    assert_eq!(limit(10_000), 2_500, "a quarter of the image at most");
    assert_eq!((limit(0), limit(u32::MAX)), (1, PROFILE_TOUCHES));

    // One that says the right pieces in the wrong order is outvoted too.
    let mut backwards = honest;
    backwards.reverse();
    let merged = merge(&[of(&honest), of(&backwards), of(&honest)], 10_000);
    assert_eq!(order(&merged)[..3], honest[..3]);
    // More reports than are looked at change nothing.
    let mut flood = vec![of(&honest); MAX_REPORTS];
    flood.extend(vec![of(&hostile); 200]);
    assert_eq!(order(&merge(&flood, 10_000)), honest);
}

#[test]
fn fault_17_what_no_recorder_makes_is_refused() {
    let good = of(&[1, 2, 3]).encode();
    assert_eq!(Profile::decode(&good, 4), Ok(of(&[1, 2, 3])));
    assert_eq!(Profile::decode(&[0; 4], 4), Ok(Profile::default()));
    let spoilt = |at: usize, byte: u8| {
        let mut b = good.clone();
        b[at] = byte;
        Profile::decode(&b, 4)
    };
    assert!(Profile::decode(&good, 3).is_err(), "beyond the image");
    assert!(Profile::decode(&good[..good.len() - 1], 4).is_err(), "cut");
    assert!(Profile::decode(&[&good[..], &[0]].concat(), 4).is_err(), "too long");
    assert!(Profile::decode(&[], 4).is_err());
    assert!(Profile::decode(&[0xff; 12], 4).is_err(), "a count of four billion");
    assert!(spoilt(3, 9).is_err(), "a false count");
    assert!(spoilt(4 + 8 + 3, 1).is_err(), "twice");
    assert!(spoilt(4 + 5, 0).is_err(), "no page");
    assert!(spoilt(4 + 7, 200).is_err(), "back in time");
}

struct Image(Vec<u8>);

impl Pieces for Image {
    fn id(&self, i: u32) -> Option<PieceId> {
        self.0.get(i as usize).filter(|b| **b != 0).map(|b| PieceId([*b; 32]))
    }
    fn place(&self, id: PieceId) -> Option<u32> {
        self.0.iter().position(|b| PieceId([*b; 32]) == id).map(|i| i as u32)
    }
    fn len(&self) -> u32 {
        self.0.len() as u32
    }
}

#[test]
fn a_profile_follows_its_bytes_into_the_next_version() {
    let old = Image(vec![1, 2, 3, 4, 5, 6, 7, 0]);
    // 3 moved to the end, 5 changed where it was, 7 is gone with its surroundings.
    let new = Image(vec![1, 2, 9, 4, 8, 6, 0, 0, 0, 3]);
    let p = Profile::new([2, 0, 4, 6, 3].map(|i| touch(i, 0)), 8);
    assert_eq!(order(&carry(&p, &old, &new)), [9, 0, 4, 3]);
    assert!(carry(&p, &old, &Image(vec![])).is_empty());
}

proptest! {
    #[test]
    fn decoding_is_total_and_exact(bytes in proptest::collection::vec(any::<u8>(), 0..200), pieces in 0u32..300) {
        if let Ok(p) = Profile::decode(&bytes, pieces) {
            prop_assert_eq!(p.encode(), bytes);
        }
    }

    #[test]
    fn what_is_made_can_be_read_back(list in proptest::collection::vec((0u32..400, any::<u16>()), 0..300)) {
        let mut at = 0;
        let touches = list.iter().map(|(piece, pages)| { at += 1; Touch { piece: *piece, pages: *pages, after: at } });
        let p = Profile::new(touches, 300);
        prop_assert_eq!(Profile::decode(&p.encode(), 300), Ok(p.clone()));
        let merged = merge(&[p.clone(), p.clone()], 300);
        prop_assert_eq!(order(&merged), order(&p));
        prop_assert_eq!(Profile::decode(&merged.encode(), 300), Ok(merged));
    }

    /// Of any reports, of which over half are one honest boot's, that boot's order survives.
    #[test]
    fn fault_17_a_majority_keeps_its_order(
        lies in proptest::collection::vec(proptest::collection::vec(0u32..500, 0..100), 0..3),
        honest in proptest::collection::vec(0u32..500, 1..60),
    ) {
        let honest = of(&honest);
        let mut reports: Vec<Profile> = lies.iter().map(|l| of(l)).collect();
        let n = reports.len() + 1;
        for i in 0..n {
            reports.insert(i * 2 % (reports.len() + 1), honest.clone());
        }
        let merged = order(&merge(&reports, 10_000));
        let kept: Vec<u32> = merged.into_iter().filter(|p| honest.pieces().any(|h| h == *p)).collect();
        prop_assert_eq!(kept, order(&honest));
    }
}
