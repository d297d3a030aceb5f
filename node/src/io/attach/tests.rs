//! Steps done to a real kernel, in namespaces that are made here.

use super::{Book, Settled, do_steps, kernel, netlink::Netlink, settle_all};
use crate::attach::{
    holdings::Holdings,
    journal::{Journal, Phase},
    plan,
};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::{
    fs::File,
    os::fd::AsFd,
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

fn ip(args: &str) -> String {
    let out = Command::new("ip").args(args.split_whitespace()).output().unwrap();
    assert!(
        out.status.success(),
        "ip {args}: {}",
        String::from_utf8_lossy(&out.stderr)
    );
    String::from_utf8_lossy(&out.stdout).into_owned()
}

/// Runs `f` on a thread in a namespace of its own; without root it says that it did not.
fn in_namespace(f: impl FnOnce() + Send + 'static) {
    static NTH: AtomicU32 = AtomicU32::new(0);
    if !rustix::process::geteuid().is_root() || Command::new("ip").arg("-V").output().is_err() {
        eprintln!("skipped: missing root or ip, to make network namespaces");
        return;
    }
    let name = format!(
        "lln-attach-{}-{}",
        std::process::id(),
        NTH.fetch_add(1, Ordering::Relaxed)
    );
    ip(&format!("netns add {name}"));
    let path = format!("/run/netns/{name}");
    let done = std::thread::spawn(move || {
        let ns = File::open(path).unwrap();
        move_into_link_name_space(ns.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
        f();
    })
    .join();
    ip(&format!("netns del {name}"));
    done.unwrap();
}

/// An interface e0 with every kind of thing that can hang on one, and another that must not be touched.
fn build() {
    for conf in ["all", "default"] {
        std::fs::write(format!("/proc/sys/net/ipv6/conf/{conf}/accept_dad"), "0").unwrap();
    }
    for line in [
        "link set lo up",
        "link add e0 type veth peer name g0",
        "link add x0 type veth peer name y0",
        "link set e0 up",
        "link set g0 up",
        "link set x0 up",
        "link set y0 up",
        "addr add 192.0.2.5/24 brd + dev e0",
        "addr add 192.0.2.6/24 dev e0 label e0:1",
        "addr add 198.51.100.1/25 dev e0 noprefixroute metric 50",
        "addr add 203.0.113.9/24 dev e0 metric 700 valid_lft 5000 preferred_lft 4000",
        "addr add 10.9.0.1 peer 10.9.0.2/32 dev e0",
        "addr add 2001:db8::5/64 dev e0",
        "addr add 2001:db8::6/64 dev e0 valid_lft 5000 preferred_lft 4000",
        "addr add 2001:db8:1::7/64 dev e0 noprefixroute",
        "addr add 192.168.9.1/24 dev x0",
        "addr add 2001:db8:9::1/64 dev x0",
        "route add default via 192.0.2.1 dev e0 src 192.0.2.6 metric 100",
        "route add 172.16.0.0/12 via 192.0.2.2 dev e0 proto static mtu 1400 table 100",
        "route add 10.3.0.0/16 via 7.7.7.7 dev e0 onlink",
        "route add 10.4.0.0/16 dev e0 scope link",
        "route add 10.5.0.0/16 dev x0 src 192.0.2.5",
        "route add 10.6.0.0/16 nexthop via 192.0.2.1 dev e0 weight 2 nexthop via 192.168.9.2 dev x0",
        "-6 route add default via 2001:db8::1 dev e0 metric 512",
        "-6 route add 2001:db8:5::/48 via fe80::1 dev e0 expires 3000",
        "-6 route add 2001:db8:6::/48 dev e0 table 100 proto static",
    ] {
        ip(line);
    }
}

/// What a person would compare: everything but the seconds that went by.
fn picture() -> String {
    // Without DAD too an address is tentative until a worker of the kernel's has looked at it.
    let settled = (0..500).any(|_| {
        let settled = !ip("-6 addr show").contains("tentative");
        if !settled {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        settled
    });
    assert!(settled, "addresses stay tentative");
    let all = ["-d addr show dev e0", "addr show dev x0", "-4 route show table all"];
    let mut text: String = all.iter().map(|a| ip(a)).collect();
    // Routes to one IPv6 prefix by several interfaces stand in the order in which those got their addresses.
    let mut v6: Vec<String> = ip("-6 route show table all").lines().map(str::to_owned).collect();
    v6.sort();
    text += &v6.join("\n");
    let mut words: Vec<String> = Vec::new();
    for line in text.lines() {
        let mut hide = false;
        for w in line.split(' ') {
            let seconds = w.ends_with("sec") && w.starts_with(|c: char| c.is_ascii_digit());
            words.push(if seconds || hide { "N".into() } else { w.into() });
            hide = w == "expires";
        }
        words.push("\n".into());
    }
    words.join(" ")
}

fn same(a: &str, b: &str, when: &str) {
    let only = |x: &str, y: &str| {
        let y: Vec<&str> = y.lines().collect();
        x.lines()
            .filter(|l| !y.contains(l))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert!(a == b, "{when}: lost {:#?}, new {:#?}", only(a, b), only(b, a));
}

fn held() -> Holdings {
    let mut nl = Netlink::open().unwrap();
    let link = kernel::link(&mut nl, "e0").unwrap().unwrap();
    kernel::holdings(&mut nl, &link).unwrap()
}

fn journal(phase: Phase, h: &Holdings) -> Journal {
    Journal {
        phase,
        boot: kernel::boot_id().unwrap(),
        bridge: "lanbr0".into(),
        holdings: h.clone(),
        confirm_within_ms: 1_000,
    }
}

#[test]
fn after_any_part_of_the_way_the_kernel_goes_back_to_the_letter() {
    in_namespace(|| {
        build();
        let before = picture();
        let h = held();
        let there = plan::to_bridged(&h, "lanbr0");
        for n in 0..=there.len() {
            do_steps(&h, &there[..n]).unwrap();
            do_steps(&h, &plan::to_plain(&h, "lanbr0")).unwrap();
            same(
                &before,
                &picture(),
                &format!(
                    "after {n} of {} steps, the last {:?}",
                    there.len(),
                    there.get(n.wrapping_sub(1))
                ),
            );
        }
    });
}

#[test]
fn the_bridge_takes_the_interfaces_place_with_all_that_it_had() {
    in_namespace(|| {
        build();
        let h = held();
        do_steps(&h, &plan::to_bridged(&h, "lanbr0")).unwrap();
        let bridge = ip("-d addr show dev lanbr0");
        let mac = h.mac.map(|b| format!("{b:02x}")).join(":");
        for want in [
            mac.as_str(),
            "stp_state 0",
            "forward_delay 0",
            "192.0.2.5/24",
            "secondary lanbr0:1",
            "2001:db8::5/64",
            "10.9.0.1 peer 10.9.0.2/32",
        ] {
            assert!(bridge.contains(want), "no {want} in {bridge}");
        }
        assert!(!ip("addr show dev e0").contains("inet"), "the port keeps an address");
        let routes = ip("route show table all") + &ip("-6 route show table all");
        assert!(!routes.contains("dev e0"), "{routes}");
        assert!(
            routes.contains("default via 192.0.2.1 dev lanbr0 src 192.0.2.6 metric 100"),
            "{routes}"
        );
        assert!(
            routes.contains("10.5.0.0/16 dev x0 scope link src 192.0.2.5"),
            "{routes}"
        );
        // A way out that is interrupted anywhere leads back into the bridge.
        let bridged = [picture(), ip("addr show dev lanbr0")].concat().replace("nodad ", "");
        let out = plan::to_plain(&h, "lanbr0");
        let index = ip("-o link show dev lanbr0");
        for n in 0..out.len() {
            do_steps(&h, &out[..n]).unwrap();
            do_steps(&h, &plan::to_bridged(&h, "lanbr0")).unwrap();
            assert_eq!(index, ip("-o link show dev lanbr0"));
            let now = [picture(), ip("addr show dev lanbr0")].concat().replace("nodad ", "");
            let sort = |s: &str| {
                let mut l: Vec<String> = s.lines().map(|l| l.replace(|c: char| c.is_ascii_digit(), "")).collect();
                l.sort();
                l
            };
            assert_eq!(sort(&bridged), sort(&now), "after {n} of {}", out.len());
        }
    });
}

#[test]
fn a_journal_that_nobody_confirmed_is_undone_and_a_confirmed_one_is_kept() {
    in_namespace(|| {
        build();
        let dir = tempfile::tempdir().unwrap();
        let book = Book::of(dir.path(), "e0");
        assert_eq!(book.settle().unwrap(), Settled::Nothing);
        let (before, h) = (picture(), held());
        book.write(&journal(Phase::Attaching, &h)).unwrap();
        do_steps(&h, &plan::to_bridged(&h, "lanbr0")).unwrap();
        let done = settle_all(dir.path()).unwrap();
        assert!(
            matches!(done.as_slice(), [(name, Ok(Settled::Undone))] if name == "e0"),
            "{done:?}"
        );
        same(&before, &picture(), "undone");
        assert!(!book.confirm().unwrap(), "what was undone cannot be confirmed");

        book.write(&journal(Phase::Attaching, &h)).unwrap();
        do_steps(&h, &plan::to_bridged(&h, "lanbr0")).unwrap();
        assert!(book.confirm().unwrap());
        assert_eq!(book.settle().unwrap(), Settled::Kept);
        assert!(ip("route show default").contains("lanbr0"));

        book.write(&journal(Phase::Detaching, &h)).unwrap();
        do_steps(&h, &plan::to_plain(&h, "lanbr0")).unwrap();
        assert_eq!(book.settle().unwrap(), Settled::Undone);
        assert!(ip("route show default").contains("lanbr0"));
        assert_eq!(book.read().unwrap().unwrap().phase, Phase::Attached);

        let other_boot = Journal {
            boot: "another".into(),
            ..journal(Phase::Attaching, &h)
        };
        book.write(&other_boot).unwrap();
        assert_eq!(book.settle().unwrap(), Settled::Void);
        assert!(
            ip("route show default").contains("lanbr0"),
            "a journal of another boot is only removed"
        );
    });
}

#[test]
fn a_neighbour_answers_or_does_not() {
    in_namespace(|| {
        build();
        ip("addr add 192.0.2.77/24 dev lo");
        let mut nl = Netlink::open().unwrap();
        let index = held().index;
        let soon = std::time::Duration::from_millis(200);
        assert!(!kernel::answers(&mut nl, index, "192.0.2.1".parse().unwrap(), soon).unwrap());
        // The far end is in the same namespace, and answers for an address of the loopback only under another name.
        ip("netns add lln-attach-far-0");
        ip("link set g0 netns lln-attach-far-0");
        ip("-n lln-attach-far-0 addr add 192.0.2.1/24 dev g0");
        ip("-n lln-attach-far-0 link set g0 up");
        let long = std::time::Duration::from_secs(20);
        let heard = kernel::answers(&mut nl, index, "192.0.2.1".parse().unwrap(), long);
        ip("neigh replace 192.0.2.9 lladdr 02:00:00:00:00:09 dev e0 nud permanent");
        let fixed = kernel::answers(&mut nl, index, "192.0.2.9".parse().unwrap(), soon);
        ip("netns del lln-attach-far-0");
        assert!(heard.unwrap());
        assert!(!fixed.unwrap(), "what a person wrote down is no answer");
    });
}
