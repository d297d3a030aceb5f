use super::*;
use crate::io::{ImportError, Stage, StoreError};
use std::os::unix::fs::FileExt;
use std::process::Command;
use wire::image::Part;

fn qemu_img(args: &[&str], file: &Path) -> bool {
    match Command::new("qemu-img").args(args).arg(file).output() {
        Ok(out) => {
            assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
            true
        }
        Err(_) => {
            eprintln!("skipped: qemu-img is missing");
            false
        }
    }
}

#[test]
fn the_same_bytes_have_the_same_id_on_any_machine() {
    let (a, b) = (Lab::new(), Lab::new());
    let bytes = disk_bytes(7, 9);
    let ids = [a.image("one", &bytes), b.image("other", &bytes)];
    assert_eq!(ids[0], ids[1]);
    // The id is a format: this one was computed when it was made.
    assert_eq!(
        ids[0].to_string(),
        "jifcvqi6rnnbr5y246yh7z2toc2k4jijtmxuvz2x7pxpdxriu75a"
    );
}

#[test]
fn holes_zeros_and_their_absence_make_the_same_image() {
    let lab = Lab::new();
    let bytes = [disk_bytes(3, 0), vec![0; 200 * PIECE_BYTES], disk_bytes(2, 5)].concat();
    let dense = lab.image("dense", &bytes);
    let file = lab.path("sparse");
    let f = std::fs::File::create(&file).unwrap();
    f.set_len(bytes.len() as u64).unwrap();
    f.write_all_at(&bytes[..3 * PIECE_BYTES], 0).unwrap();
    f.write_all_at(&bytes[203 * PIECE_BYTES..], 203 * PIECE_BYTES as u64)
        .unwrap();
    let mut last = None;
    let sparse = lab
        .store
        .import(&spec(&file, "sparse"), &mut |p| last = Some(p))
        .unwrap();
    assert_eq!(dense, sparse);
    let last = last.unwrap();
    assert_eq!(
        (last.stage, last.done, last.total),
        (Stage::Hash, bytes.len() as u64, bytes.len() as u64)
    );
    let out = lab.path("out");
    lab.store.materialise(sparse, Part::Disk, &out).unwrap();
    assert!(std::fs::read(&out).unwrap() == bytes);
    let meta = std::fs::metadata(&out).unwrap();
    assert!(
        std::os::unix::fs::MetadataExt::blocks(&meta) * 512 < 7 * PIECE_BYTES as u64,
        "zeros stay holes"
    );
}

#[test]
fn kernel_initrd_and_command_line_are_part_of_the_image() {
    let lab = Lab::new();
    let (disk, kernel, initrd) = (lab.path("d"), lab.path("k"), lab.path("i"));
    std::fs::write(&disk, disk_bytes(2, 0)).unwrap();
    std::fs::write(&kernel, b"kernel").unwrap();
    std::fs::write(&initrd, vec![7; 70_000]).unwrap();
    let mut s = spec(&disk, "boot");
    let plain = lab.store.import(&s, &mut |_| {}).unwrap();
    (s.kernel, s.initrd, s.cmdline) = (Some(kernel), Some(initrd), Some("console=ttyS0".into()));
    let id = lab.store.import(&s, &mut |_| {}).unwrap();
    assert_ne!(plain, id);
    let info = lab.store.info(id).unwrap().unwrap();
    assert!(info.kernel && info.initrd && info.cmdline.as_deref() == Some("console=ttyS0"));
    assert_eq!(info.size, 2 << 16);
    let out = lab.path("out");
    assert_eq!(lab.store.materialise(id, Part::Kernel, &out).unwrap(), Some(6));
    assert_eq!(std::fs::read(&out).unwrap(), b"kernel");
    assert_eq!(lab.store.materialise(id, Part::Initrd, &out).unwrap(), Some(70_000));
    assert_eq!(lab.store.materialise(plain, Part::Kernel, &out).unwrap(), None);
    s.cmdline = Some("a\nb".into());
    assert!(matches!(
        lab.store.import(&s, &mut |_| {}),
        Err(ImportError::Manifest(_))
    ));
}

#[test]
fn what_cannot_be_imported_is_said_and_leaves_nothing() {
    let lab = Lab::new();
    let file = lab.path("f");
    let refused = |bytes: &[u8]| {
        std::fs::write(&file, bytes).unwrap();
        lab.store
            .import(&spec(&file, "x"), &mut |_| {})
            .unwrap_err()
            .to_string()
    };
    assert!(refused(b"").contains("is empty"));
    assert!(refused(b"KDMV\x01\0\0\0").contains("VMDK image is malformed"));
    assert!(refused(b"vhdxfile").contains("VHDX image is malformed"));
    assert!(refused(b"\x1f\x8b\x08").contains("is a gzip file"));
    assert!(refused(b"QFI\xfb raw after all").contains("qcow2"));
    let missing = lab.store.import(&spec(&lab.path("none"), "x"), &mut |_| {});
    assert!(matches!(missing, Err(ImportError::Source { .. })));
    let folder = lab.store.import(&spec(lab.dir.path(), "x"), &mut |_| {});
    assert!(
        folder
            .unwrap_err()
            .to_string()
            .contains("the folder is not an OCI layout")
    );
    assert!(lab.store.list().unwrap().is_empty());
}

#[test]
fn a_qcow2_becomes_the_image_of_its_bytes() {
    let lab = Lab::new();
    let bytes = disk_bytes(20, 0);
    let raw = lab.path("raw");
    std::fs::write(&raw, &bytes).unwrap();
    let q = lab.path("q");
    for compress in [&["-c"][..], &[]] {
        let args = [
            &["convert", "-f", "raw", "-O", "qcow2"][..],
            compress,
            &[raw.to_str().unwrap()],
        ]
        .concat();
        if !qemu_img(&args, &q) {
            return;
        }
        let from_qcow2 = lab.store.import(&spec(&q, "q"), &mut |_| {}).unwrap();
        assert_eq!(from_qcow2, lab.image("raw", &bytes));
    }
    assert_eq!(std::fs::read_dir(lab.path("store/tmp")).unwrap().count(), 0);
}

#[test]
fn vmdk_and_vhdx_become_the_image_of_their_bytes() {
    let lab = Lab::new();
    let bytes = disk_bytes(32, 0);
    let raw = lab.path("raw");
    std::fs::write(&raw, &bytes).unwrap();
    let other = lab.path("other");
    for (format, options) in [
        ("vmdk", &[][..]),
        ("vmdk", &["-o", "subformat=streamOptimized"]),
        ("vhdx", &[]),
    ] {
        let args = [
            &["convert", "-f", "raw", "-O", format][..],
            options,
            &[raw.to_str().unwrap()],
        ]
        .concat();
        if !qemu_img(&args, &other) {
            return;
        }
        let imported = lab.store.import(&spec(&other, "x"), &mut |_| {}).unwrap();
        assert_eq!(imported, lab.image("raw", &bytes), "{format} {options:?}");
    }
    assert_eq!(std::fs::read_dir(lab.path("store/tmp")).unwrap().count(), 0);
}

#[test]
fn abuse_22_a_vmdk_with_a_parent_is_refused() {
    let lab = Lab::new();
    let (parent, child) = (lab.path("parent.vmdk"), lab.path("child.vmdk"));
    if Command::new("qemu-img").arg("--version").output().is_err() {
        return eprintln!("skipped: qemu-img is missing");
    }
    let make = |args: &[&str]| Command::new("qemu-img").args(args).status().unwrap().success();
    assert!(make(&["create", "-q", "-f", "vmdk", parent.to_str().unwrap(), "1M"]));
    let back = ["create", "-q", "-f", "vmdk", "-F", "vmdk", "-b"];
    assert!(make(
        &[&back[..], &[parent.to_str().unwrap(), child.to_str().unwrap()]].concat()
    ));
    let refused = lab
        .store
        .import(&spec(&child, "x"), &mut |_| {})
        .unwrap_err()
        .to_string();
    assert!(refused.contains("another file (a parent)"), "{refused}");
    assert!(make(&[
        "create",
        "-q",
        "-f",
        "vmdk",
        "-o",
        "subformat=monolithicFlat",
        lab.path("flat.vmdk").to_str().unwrap(),
        "1M"
    ]));
    let refused = lab
        .store
        .import(&spec(&lab.path("flat.vmdk"), "x"), &mut |_| {})
        .unwrap_err()
        .to_string();
    assert!(refused.contains("VMDK"), "{refused}");
}

#[test]
fn hostile_qcow2s_are_refused_by_us_or_by_the_child() {
    let lab = Lab::new();
    let q = lab.path("q");
    if !qemu_img(&["create", "-q", "-f", "qcow2", "-b", "/etc/hostname", "-F", "raw"], &q) {
        return;
    }
    let import = || lab.store.import(&spec(&q, "q"), &mut |_| {}).unwrap_err().to_string();
    assert!(import().contains("a backing file"), "{}", import());
    std::fs::remove_file(&q).unwrap();
    let data = format!("data_file={}", lab.path("data").display());
    assert!(
        Command::new("qemu-img")
            .args(["create", "-q", "-f", "qcow2", "-o", &data])
            .arg(&q)
            .arg("1M")
            .status()
            .unwrap()
            .success()
    );
    assert!(import().contains("external data file"), "{}", import());
    // A table that points between two clusters passes our header check and must end in the child.
    std::fs::remove_file(&q).unwrap();
    assert!(
        Command::new("qemu-img")
            .args(["create", "-q", "-f", "qcow2"])
            .arg(&q)
            .arg("10M")
            .status()
            .unwrap()
            .success()
    );
    let f = std::fs::OpenOptions::new().read(true).write(true).open(&q).unwrap();
    let mut l1 = [0; 8];
    f.read_exact_at(&mut l1, 40).unwrap();
    f.write_all_at(&[0x80, 0, 0, 0, 0, 0, 2, 0], u64::from_be_bytes(l1))
        .unwrap();
    assert!(import().contains("qemu-img cannot convert"), "{}", import());
    assert!(lab.store.list().unwrap().is_empty());
    assert_eq!(std::fs::read_dir(lab.path("store/tmp")).unwrap().count(), 0);
}

#[test]
fn a_quota_that_is_reached_in_the_middle_leaves_no_image_and_no_piece() {
    let dir = tempfile::tempdir().unwrap();
    let quota = StoreConfig {
        quota: Some(ByteSize(20 << 20)),
        ..config()
    };
    let store = Store::open(&dir.path().join("store"), quota).unwrap();
    let mut noise = vec![0; 30 << 20];
    blake3::Hasher::new().finalize_xof().fill(&mut noise);
    let file = dir.path().join("f");
    std::fs::write(&file, &noise).unwrap();
    let e = store.import(&spec(&file, "x"), &mut |_| {}).unwrap_err();
    assert!(matches!(e, ImportError::Store(StoreError::Quota { .. })), "{e}");
    assert!(store.list().unwrap().is_empty());
    assert_eq!(store.0.live.load(std::sync::atomic::Ordering::Acquire), 0);
    std::fs::write(&file, &noise[..10 << 20]).unwrap();
    store.import(&spec(&file, "x"), &mut |_| {}).unwrap();
}

/// Run by the test below in a mount namespace of its own, where `LANLINE_SMALL_DISK` is a tmpfs of 24 MiB.
#[test]
fn on_a_small_disk() {
    let Some(dir) = std::env::var_os("LANLINE_SMALL_DISK").map(PathBuf::from) else {
        return;
    };
    let store = Store::open(&dir.join("store"), config()).unwrap();
    let (fits, too_much) = (dir.with_extension("fits"), dir.with_extension("big"));
    let mut noise = vec![0; 40 << 20];
    blake3::Hasher::new().finalize_xof().fill(&mut noise);
    std::fs::write(&too_much, &noise).unwrap();
    std::fs::write(&fits, &noise[..4 << 20]).unwrap();
    let kept = store.import(&spec(&fits, "fits"), &mut |_| {}).unwrap();
    for _ in 0..2 {
        let e = store.import(&spec(&too_much, "big"), &mut |_| {}).unwrap_err();
        assert!(matches!(e, ImportError::Store(StoreError::Full { .. })), "{e}");
        assert_eq!(store.list().unwrap().len(), 1);
        assert_eq!(store.verify(kept, &mut |_| {}).unwrap().missing, 0);
    }
    std::fs::write(&fits, &noise[8 << 20..12 << 20]).unwrap();
    store.import(&spec(&fits, "again"), &mut |_| {}).unwrap();
}

#[test]
fn a_full_file_system_leaves_no_image_and_a_store_that_works() {
    let dir = tempfile::tempdir().unwrap();
    let small = dir.path().join("small");
    std::fs::create_dir(&small).unwrap();
    let script = "mount -t tmpfs -o size=24m lln \"$1\" && shift && exec \"$@\"";
    let me = std::env::current_exe().unwrap();
    let probe = Command::new("unshare")
        .args(["-m", "sh", "-c", script, "sh"])
        .arg(&small)
        .arg("true")
        .output();
    if !probe.is_ok_and(|o| o.status.success()) {
        eprintln!("skipped: a mount namespace with a tmpfs is missing (needs root)");
        return;
    }
    let run = Command::new("unshare")
        .args(["-m", "sh", "-c", script, "sh"])
        .arg(&small)
        .arg(me)
        .args(["--exact", "io::tests::import::on_a_small_disk"])
        .env("LANLINE_SMALL_DISK", &small)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&run.stdout);
    assert!(run.status.success() && said.contains("1 passed"), "{said}");
}
