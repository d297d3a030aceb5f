use super::*;
use crate::{sign::NodeKey, units::UnixMillis};
use proptest::prelude::*;

fn host(n: u8, cpus: u16, memory: u64, change: impl FnOnce(&mut HostOffer)) -> Advert {
    let mut h = HostOffer {
        arch: "x86_64".parse().unwrap(),
        cpus_total: cpus,
        cpus_free: cpus,
        memory_total: ByteSize(memory),
        memory_free: ByteSize(memory),
        accel: Accel::Tcg,
        accel_reason: String::new(),
        qemu: String::new(),
        vms: 0,
        max_vms: 4,
        load1_x100: 0,
        forecast: None,
        lans: vec![],
        disk_free: ByteSize(1 << 37),
        price: 0,
        lease_max_s: 0,
        coord: None,
    };
    change(&mut h);
    Advert {
        node: NodeKey::from_secret(&[n; 32]).node_id(),
        seq: 1,
        issued: UnixMillis(1),
        ttl_s: 100,
        name: None,
        addrs: vec![],
        body: Body::Host(h),
    }
}

#[test]
fn cells_nest_and_their_keys_differ() {
    let a = host(1, 6, 9 << 30, |_| ());
    for space in a.spaces() {
        let path = a.path(&space).unwrap();
        let mut keys = std::collections::BTreeSet::new();
        for level in 0..=MAX_LEVEL {
            let cell = Cell::of(space.clone(), path, level);
            assert!(cell.is_sound() && cell.has(path) && cell.may_hold(&Wanted::default()));
            assert!(Cell::whole(space.clone()).contains(&cell));
            assert!(keys.insert(cell.key()));
            if level > 0 {
                let up = Cell::of(space.clone(), path, level - 1);
                assert_eq!(
                    up.children().filter(|c| c.has(path)).collect::<Vec<_>>(),
                    std::slice::from_ref(&cell)
                );
                assert!(up.contains(&cell) && !cell.contains(&up));
            }
        }
        assert_eq!(Cell::whole(space.clone()).key(), space.key());
        assert_eq!(Cell::of(space, path, MAX_LEVEL).children().count(), 0);
    }
    let bad = Cell {
        space: Namespace::Hosts,
        level: 1,
        prefix: 4,
    };
    assert!(!bad.is_sound() && !bad.has(0));
    assert!(!Cell { level: 13, ..bad }.is_sound());
}

#[test]
fn a_cell_of_other_sizes_is_not_asked() {
    let big = Wanted {
        cpus_free: 16,
        memory_free: ByteSize(32 << 30),
        ..Wanted::default()
    };
    let small = host(1, 2, 1 << 30, |_| ());
    let path = small.path(&Namespace::Hosts).unwrap();
    assert!(!Cell::of(Namespace::Hosts, path, 4).may_hold(&big));
    assert!(Cell::of(Namespace::Hosts, path, 12).may_hold(&Wanted {
        cpus_free: 2,
        ..Wanted::default()
    }));
    let far = Wanted {
        near: Some((
            Coord {
                x_us: 200_000,
                y_us: 0,
                height_us: 0,
                error_pm: 0,
            },
            20_000,
        )),
        ..Wanted::default()
    };
    let here = host(1, 2, 1 << 30, |h| {
        h.coord = Some(Coord {
            x_us: 0,
            y_us: 0,
            height_us: 0,
            error_pm: 9,
        })
    });
    let path = here.path(&Namespace::Near).unwrap();
    assert!(!Cell::of(Namespace::Near, path, 7).may_hold(&far));
    assert_eq!(small.path(&Namespace::Near), None, "without a place it is in no square");
    assert_eq!(
        host(1, 8, 16 << 30, |_| ()).path(&Namespace::Class).map(|p| p >> 20),
        Some(5)
    );
}

prop_compose! {
    fn any_coord()(x in -900_000i32..900_000, y in -900_000i32..900_000, h in 0u32..9_000) -> Coord {
        Coord { x_us: x, y_us: y, height_us: h, error_pm: 100 }
    }
}

proptest! {
    /// Whatever is wanted, no cell on the way to an advert that fits is left out.
    #[test]
    fn what_fits_is_never_passed_over(
        cpus in 0u16..300, memory in 0u64..1 << 42, disk in 0u64..1 << 44, price in 0u32..70_000, lease in 0u32..90_000,
        coord in any_coord(), want_cpus in 0u16..300, want_memory in 0u64..1 << 42, want_disk in 0u64..1 << 44,
        price_max in 0u32..70_000, lease_min_s in 0u32..90_000, class in 0u8..6, at in any_coord(), radius in 0u32..900_000,
    ) {
        let a = host(3, cpus, memory, |h| {
            (h.disk_free, h.price, h.lease_max_s, h.coord) = (ByteSize(disk), price, lease, Some(coord));
        });
        let wanted = Wanted {
            arch: None, accel: None, cpus_free: want_cpus, memory_free: ByteSize(want_memory), disk_free: ByteSize(want_disk),
            price_max: Some(price_max), lease_min_s, class, near: Some((at, radius)),
        };
        // Each part of the wish alone, so that many fit.
        let parts = [
            Wanted { cpus_free: want_cpus, ..Wanted::default() },
            Wanted { memory_free: ByteSize(want_memory), ..Wanted::default() },
            Wanted { disk_free: ByteSize(want_disk), ..Wanted::default() },
            Wanted { price_max: Some(price_max), ..Wanted::default() },
            Wanted { lease_min_s, ..Wanted::default() },
            Wanted { class, ..Wanted::default() },
            Wanted { near: Some((at, radius)), ..Wanted::default() },
            wanted,
        ];
        for w in parts.iter().filter(|w| w.fits(&a)) {
            for space in a.spaces() {
                let path = a.path(&space).unwrap();
                for level in 0..=MAX_LEVEL {
                    prop_assert!(Cell::of(space.clone(), path, level).may_hold(w), "{w:?} {space:?} {level}");
                }
            }
        }
    }
}
