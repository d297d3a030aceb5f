//! Warm starts of real guests under QEMU's translator: memory that comes while they run, from a source that counts, stalls and
//! goes away.

use super::{
    real::{HANG, boot_files, config, console_says, counted, spec, wait_for},
    warm::{Later, PART},
    *,
};
use crate::spec::Boot;
use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};
use wire::{guest::GuestState, ids::GuestId};

/// A memory file, of which nothing is "here" before somebody waits for it or all is let go.
struct Slow {
    file: Arc<File>,
    urgent: AtomicUsize,
    all: AtomicBool,
    /// So many are answered; then nothing is.
    most: usize,
    changed: Arc<tokio::sync::Notify>,
}

impl Slow {
    fn new(path: &std::path::Path, most: usize) -> Arc<Self> {
        Arc::new(Self {
            file: Arc::new(File::open(path).unwrap()),
            urgent: AtomicUsize::new(0),
            all: AtomicBool::new(false),
            most,
            changed: Arc::default(),
        })
    }

    fn part(file: &File, at: u64) -> Vec<u8> {
        let mut out = vec![0; PART];
        let n = file.read_at(&mut out, at).unwrap();
        out.truncate(n);
        out
    }

    fn let_go(&self) {
        self.all.store(true, Ordering::SeqCst);
        self.changed.notify_one();
    }

    fn parts(&self) -> usize {
        let len = self.file.metadata().unwrap().len();
        let used = (0..len)
            .step_by(PART)
            .filter(|at| Self::part(&self.file, *at).iter().any(|b| *b != 0));
        used.count()
    }
}

impl MemorySource for Slow {
    fn look(&self, at: u64) -> MemoryLook {
        match Self::part(&self.file, at).iter().all(|b| *b == 0) {
            true => MemoryLook::Zero,
            false if self.all.load(Ordering::SeqCst) => MemoryLook::Here,
            false => MemoryLook::Away,
        }
    }

    fn read(&self, at: u64, urgent: bool) -> Later<io::Result<Vec<u8>>> {
        let stalled = urgent && self.urgent.fetch_add(1, Ordering::SeqCst) >= self.most;
        let file = self.file.clone();
        Box::pin(async move {
            if stalled {
                std::future::pending::<()>().await;
            }
            Ok(Self::part(&file, at))
        })
    }

    fn changed(&self) -> Later<()> {
        let changed = self.changed.clone();
        Box::pin(async move { changed.notified().await })
    }
}

/// A guest that counts, and what an image of it would hold.
async fn counting(guests: &Guests, dir: &std::path::Path) -> ([std::path::PathBuf; 3], wire::image::Warm, u64) {
    let spec = spec(1);
    guests.create(spec.clone()).await.unwrap();
    guests.prepare(spec.id, boot_files(dir).unwrap()).await.unwrap();
    guests.start(spec.id).await.unwrap();
    let mut console = guests.attach_console(spec.id).unwrap();
    console_says(&mut console, "READY").await;
    console.tx.send("count\n".into()).await.unwrap();
    let at = *counted(guests, spec.id, 3).await.last().unwrap();
    let warm = guests.warm_of(spec.id).await.unwrap();
    guests.snapshot(spec.id, "warm".parse().unwrap()).await.unwrap();
    guests.stop(spec.id, StopMode::Force).await.unwrap();
    let files = guests.snapshot_files(spec.id, &"warm".parse().unwrap()).unwrap();
    (files, warm, at)
}

/// Starts a guest warm, before its kernel is here.
async fn start(guests: &Guests, n: u8, dir: &std::path::Path, with: WarmStart) -> Result<GuestId, VerbError> {
    let spec = spec(n);
    guests.create(spec.clone()).await.unwrap();
    let boot = Boot {
        kernel: None,
        initrd: None,
        later: true,
        ..boot_files(dir).unwrap()
    };
    guests.prepare(spec.id, boot).await.unwrap();
    guests.warm(spec.id, with).await?;
    guests.start(spec.id).await.map(|v| v.id)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_goes_on_with_an_images_memory_before_that_is_here() {
    let dir = tempfile::tempdir().unwrap();
    let config = match (config().await, boot_files(dir.path())) {
        (Ok(c), Ok(_)) => c,
        (Err(missing), _) | (_, Err(missing)) => return eprintln!("skipped: {missing}"),
    };
    let at = dir.path().join("guests");
    let (guests, _events) = Guests::open(&at, config).await.unwrap();
    let ([_, ram, device], warm, past) = counting(&guests, dir.path()).await;
    let source = Slow::new(&ram, usize::MAX);
    let with = |source: &Arc<Slow>| WarmStart {
        warm: warm.clone(),
        device: device.clone(),
        source: source.clone(),
    };
    let t0 = std::time::Instant::now();
    let id = start(&guests, 2, dir.path(), with(&source)).await.unwrap();
    let running = t0.elapsed();
    let numbers = counted(&guests, id, past).await;
    let answered = t0.elapsed();
    assert!(numbers[0] >= past, "it went on where the other was: {numbers:?}");
    let (asked, all) = (source.urgent.load(Ordering::SeqCst), source.parts());
    eprintln!(
        "running after {running:?}, first word after {answered:?}; {asked} of {all} parts of its memory were asked"
    );
    if guests.is_warm(id).await.unwrap() {
        assert!(asked * 2 < all, "{asked} of {all} parts came before its first word");
        // Memory that is not all here can be neither saved nor copied.
        assert!(guests.hibernate(id).await.is_err());
        assert!(guests.snapshot(id, "s".parse().unwrap()).await.is_err());
    } else {
        eprintln!("its memory came first: this machine lets no process wait for pages");
    }
    source.let_go();
    tokio::time::timeout(HANG, async {
        while guests.is_warm(id).await.unwrap() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .unwrap();
    let past = *counted(&guests, id, past).await.last().unwrap();
    guests.hibernate(id).await.unwrap();
    let why = guests.start(id).await.unwrap_err().to_string();
    assert!(why.contains("its kernel has not come"), "{why}");
    guests.prepare(id, boot_files(dir.path()).unwrap()).await.unwrap();
    guests.start(id).await.unwrap();
    counted(&guests, id, past).await;
    guests.remove(id).await.unwrap();

    let other = WarmStart {
        warm: wire::image::Warm {
            machine: "pc-q35-2.0".into(),
            ..warm.clone()
        },
        ..with(&source)
    };
    let why = start(&guests, 3, dir.path(), other).await.unwrap_err().to_string();
    assert!(why.contains("pc-q35-2.0"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_or_a_node_that_ends_before_its_memory_came_begins_again() {
    let dir = tempfile::tempdir().unwrap();
    let config = match (config().await, boot_files(dir.path())) {
        (Ok(c), Ok(_)) => c,
        (Err(missing), _) | (_, Err(missing)) => return eprintln!("skipped: {missing}"),
    };
    let at = dir.path().join("guests");
    let (guests, _events) = Guests::open(&at, config.clone()).await.unwrap();
    let ([_, ram, device], warm, past) = counting(&guests, dir.path()).await;
    let whole = Slow::new(&ram, usize::MAX);
    let with = |source: &Arc<Slow>| WarmStart {
        warm: warm.clone(),
        device: device.clone(),
        source: source.clone(),
    };
    let id = start(&guests, 2, dir.path(), with(&whole)).await.unwrap();
    if !guests.is_warm(id).await.unwrap() {
        return eprintln!("skipped: this machine lets no process wait for pages (vm.unprivileged_userfaultfd)");
    }
    counted(&guests, id, past).await;
    // QEMU is killed.
    let pid = guests
        .info(id)
        .unwrap()
        .pid
        .and_then(|p| rustix::process::Pid::from_raw(p as i32));
    rustix::process::kill_process(pid.unwrap(), rustix::process::Signal::KILL).unwrap();
    wait_for(&guests, id, GuestState::Hibernated).await;
    let note = guests.info(id).unwrap().note.unwrap();
    assert!(note.contains("begins again"), "{note}");
    guests.start(id).await.unwrap();
    counted(&guests, id, past).await;

    // The node is gone for a while; the process that it left would wait for ever, and is ended.
    guests.close().await;
    let (guests, _events) = Guests::open(&at, config).await.unwrap();
    let adopted = guests.adopt().await;
    assert!(adopted.iter().any(|a| a.view.id == id));
    wait_for(&guests, id, GuestState::Hibernated).await;
    assert!(guests.start(id).await.is_err(), "nobody has its memory");
    guests.warm(id, with(&whole)).await.unwrap();
    guests.start(id).await.unwrap();
    counted(&guests, id, past).await;
    whole.let_go();
    tokio::time::timeout(HANG, async {
        while guests.is_warm(id).await.unwrap() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .unwrap();
    guests.remove(id).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_reboots_before_its_kernel_came_is_started_anew_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let config = match (config().await, boot_files(dir.path())) {
        (Ok(c), Ok(_)) => c,
        (Err(missing), _) | (_, Err(missing)) => return eprintln!("skipped: {missing}"),
    };
    let at = dir.path().join("guests");
    let (guests, _events) = Guests::open(&at, config.clone()).await.unwrap();
    let ([_, ram, device], warm, past) = counting(&guests, dir.path()).await;
    let source = Slow::new(&ram, usize::MAX);
    let id = start(&guests, 2, dir.path(), WarmStart { warm, device, source })
        .await
        .unwrap();
    counted(&guests, id, past).await;
    let console = guests.attach_console(id).unwrap();
    console.tx.send("boot\n".into()).await.unwrap();
    wait_for(&guests, id, GuestState::Stopped).await;
    assert!(guests.is_rebooting(id).await.unwrap() && !guests.is_warm(id).await.unwrap());
    let why = guests.start(id).await.unwrap_err().to_string();
    assert!(why.contains("its kernel has not come"), "{why}");
    wait_for(&guests, id, GuestState::Crashed).await;

    guests.prepare(id, boot_files(dir.path()).unwrap()).await.unwrap();
    guests.start(id).await.unwrap();
    let mut console = guests.attach_console(id).unwrap();
    console_says(&mut console, "READY").await;
    // This process has its kernel: it reboots by itself.
    let pid = guests.info(id).unwrap().pid;
    console.tx.send("boot\n".into()).await.unwrap();
    console_says(&mut console, "READY").await;
    assert_eq!(guests.info(id).unwrap().pid, pid);
    guests.remove(id).await.unwrap();
}
