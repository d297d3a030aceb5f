//! Every bound and wait of this crate, with where the number comes from.

use std::time::Duration;
use wire::units::ByteSize;

/// Most guests that one host keeps, stopped ones included: a bound on folders, tasks and answers, far above what two
/// to sixty-four cores run.
pub const MAX_GUESTS: usize = 64;

/// Least RAM of a guest: a Debian kernel with its initramfs does not unpack in less.
pub const MIN_MEMORY: ByteSize = ByteSize(64 << 20);

/// Most RAM of a guest: the 1 TiB that QEMU's q35 addresses on every CPU model without extra options.
pub const MAX_MEMORY: ByteSize = ByteSize(1 << 40);

/// Most virtual CPUs of a guest: q35 without an IOMMU ends at 255.
pub const MAX_CPUS: u16 = 255;

/// Largest disk of a guest; images end well below.
pub const MAX_DISK: ByteSize = ByteSize(8 << 40);

/// A disk's size is a multiple of this, bytes: the sector of virtio-blk.
pub const SECTOR: u64 = 512;

/// Longest kernel command line, bytes: `COMMAND_LINE_SIZE` of Linux on x86.
pub const MAX_CMDLINE: usize = 2_048;

/// Free space below which no guest is made, so that a host's disk is never filled to the last byte by a new overlay.
pub const MIN_FREE_DISK: ByteSize = ByteSize(256 << 20);

/// Machine type that guests get where the binary knows it: the oldest QEMU that we support has it and every later one
/// still does, so a guest can move between them.
pub const MACHINE: &str = "pc-q35-7.2";

/// CPU model under TCG and the name for moves: x86-64-v2, the same in every QEMU version (`max` is not).
pub const TCG_CPU: &str = "Nehalem";

/// Spare PCIe root ports: a NIC is plugged into one after a warm start, and a disk may follow.
pub const ROOT_PORTS: u8 = 4;

/// How long QEMU's NBD client waits for the node to come back before it reports an error, seconds (notes/images.md §5).
pub const NBD_RECONNECT_S: u32 = 300;

/// How long QEMU waits at its start for the NBD socket, seconds.
pub const NBD_OPEN_S: u32 = 30;

/// From spawn to a running guest. QEMU answers QMP only after it opened the disk ([`NBD_OPEN_S`]); the rest is for a
/// loaded machine.
pub const START_DEADLINE: Duration = Duration::from_secs(60);

/// How long a guest has to shut itself down when asked.
pub const STOP_GRACE: Duration = Duration::from_secs(30);

/// How long QEMU has to end after `quit`: it flushes its disks.
pub const QUIT_GRACE: Duration = Duration::from_secs(10);

/// How long a killed process has to disappear. Longer: it hangs in the kernel, and the guest's state says so.
pub const KILL_GRACE: Duration = Duration::from_secs(10);

/// Between two tries to go on after the disk did not answer; measured: eleven tries in five seconds until QEMU's own
/// back-off had reconnected (notes/images.md §5).
pub const RESUME_EVERY: Duration = Duration::from_millis(500);

/// A QMP command's deadline; under TCG on a loaded machine an idle monitor answers within a second.
pub const QMP_DEADLINE: Duration = Duration::from_secs(10);

/// The greeting's deadline on one socket before the other monitor is tried: a monitor that serves someone else never
/// greets (notes/vm.md §1, fact 11).
pub const QMP_GREETING: Duration = Duration::from_secs(3);

/// Between two tries to connect to a socket of QEMU.
pub const CONNECT_EVERY: Duration = Duration::from_millis(50);

/// How long an adopted guest's QMP has to answer before its state is `error`: both monitors once.
pub const ADOPT_DEADLINE: Duration = Duration::from_secs(8);

/// Looks for a process whose lock is held and whose record is missing, [`CONNECT_EVERY`] apart: it may be between fork
/// and exec.
pub const ADOPT_LOOKS: usize = 40;

/// Tries for a lock, [`CONNECT_EVERY`] apart. A child that was forked at the wrong instant holds a copy of every
/// descriptor, locks included, until its exec; one second is ample for that.
pub const LOCK_LOOKS: usize = 20;

/// Longest QMP message, bytes: `query-qmp-schema` answers about 200 KiB in one line.
pub const MAX_QMP_LINE: usize = 1 << 20;

/// Most QMP commands in flight: each verb uses one or two.
pub const MAX_QMP_PENDING: usize = 16;

/// Most events and actions that a pure machine holds for its driver, which drains it after each call.
pub const MAX_QUEUED: usize = 64;

/// Console output kept for viewers who come later, bytes; about 3,000 lines.
pub const CONSOLE_RING: usize = 256 << 10;

/// Chunks of console output that a viewer may lag behind before it is dropped: with [`CONSOLE_CHUNK`], 1 MiB.
pub const CONSOLE_LAG: usize = 256;

/// Largest chunk of console output, bytes.
pub const CONSOLE_CHUNK: usize = 4 << 10;

/// Chunks of a viewer's typing that wait for the guest; more makes the viewer wait.
pub const CONSOLE_INPUT: usize = 64;

/// Size at which a log file is turned over, bytes; the one before is kept beside it, so a guest takes twice this.
pub const MAX_LOG_FILE: u64 = 256 << 10;

/// Lines of QEMU's log that a crash's note shows.
pub const NOTE_LINES: usize = 3;

/// Longest note, bytes.
pub const MAX_NOTE: usize = 600;

/// Largest `guest.json` or `run.json` that is read, bytes.
pub const MAX_RECORD: u64 = 64 << 10;

/// Events for the node that may wait; it drains them in one task.
pub const EVENT_QUEUE: usize = 256;

/// Commands that may wait for one guest; each caller waits for its answer.
pub const COMMAND_QUEUE: usize = 16;

/// Between two looks at a guest's logs and at addresses that are not yet on disk.
pub const UPKEEP_EVERY: Duration = Duration::from_secs(5);

/// Niceness of a guest's process: the owner's own programs come first.
pub const GUEST_NICE: i32 = 5;

/// Open files of a guest's process: sockets, disk and KVM need a few dozen.
pub const GUEST_OPEN_FILES: u64 = 1_024;

/// Users of guests where the node is root: a range that neither distributions (below 65,536) nor container runtimes (from
/// 100,000 or 524,288, 65,536 each) give away.
pub const GUEST_UIDS: std::ops::Range<u32> = 0x7000_0000..0x7010_0000;

/// Core file of a guest's process, bytes: none, its memory is the guest's.
pub const GUEST_CORE_BYTES: u64 = 0;

/// How much larger than its disk (and an eighth of that, for qcow2's tables) a file of a guest's process may be, bytes:
/// its log, and the tables of a small disk.
pub const GUEST_FILE_SLACK: u64 = 1 << 30;

/// A helper such as `qemu-img` or a probe of the accelerator ends within this.
pub const HELPER_DEADLINE: Duration = Duration::from_secs(20);

/// Most bytes taken from a helper's output.
pub const MAX_HELPER_OUTPUT: usize = 64 << 10;

/// Most bytes of devices' state that QEMU gives when a guest is saved; 0.3 to 0.8 MB were measured, and a screen's
/// memory is in it.
pub const MAX_DEVICE_STATE: u64 = 256 << 20;

/// How long QEMU may take to give or take a guest's state; the largest guest on a slow disk, not a network.
pub const TRANSFER_DEADLINE: Duration = Duration::from_secs(600);

/// Between two looks at a transfer that is under way.
pub const TRANSFER_POLL: Duration = Duration::from_millis(5);

/// Pages of a guest's memory that it waits for at a time, while the rest comes: as many as its CPUs and devices touch.
pub const MAX_FAULTS: usize = 64;

/// Pieces of memory that are given ahead of what is asked, before it is looked again what a guest waits for.
pub const MEMORY_AHEAD: usize = 16;

/// How long the cable of a guest that began from another's memory is pulled: long enough for its driver to see it.
pub const REPLUG: Duration = Duration::from_millis(300);

/// Pause between two looks at what has come of a guest's memory.
pub const MEMORY_LOOK: Duration = Duration::from_millis(10);

/// Longest line of a guest's agent, bytes: output of two commands' streams in base64, and as much again. It is a stranger
/// who may say anything.
pub const MAX_AGENT_LINE: usize = 4 << 20;

/// How long an agent may take to say that it is there; a busy guest under TCG answers within a second.
pub const AGENT_GREETING: Duration = Duration::from_secs(3);

/// How long an agent may take for one answer: it flushes a file, it forks a program.
pub const AGENT_DEADLINE: Duration = Duration::from_secs(20);

/// Between the first two looks at a command in a guest; each next wait is twice as long.
pub const AGENT_POLL: Duration = Duration::from_millis(20);

/// Longest wait between two looks.
pub const AGENT_POLL_MAX: Duration = Duration::from_millis(500);

/// Most snapshots of one guest.
pub const MAX_SNAPSHOTS: usize = 16;

/// How fast a guest's image is copied into its disk, bytes a second, so that its own reads and writes keep most of the
/// disk: one request of half a MiB at a time, 40 GiB in eleven minutes.
pub const FILL_RATE: u64 = 64 << 20;

/// Between two looks at how far that is.
pub const FILL_LOOK: Duration = Duration::from_secs(1);

/// Between two looks whether it has ended after it was told to.
pub const FILL_STILL: Duration = Duration::from_millis(50);

/// Pause before copying is begun again that failed, or found no room.
pub const FILL_AGAIN: Duration = Duration::from_secs(30);

/// How long a hibernation or a copy of the guest waits for the copying to end: a read that is under way must.
pub const FILL_QUIET: Duration = Duration::from_secs(60);

/// Room on the host's disk at which the copying ends: the rest is for what the guest writes.
pub const FILL_SPARE: ByteSize = ByteSize(64 << 20);

/// Hibernations and copies that wait for the copying into a guest's disk to end; one goes at a time.
pub const MAX_PARKED: usize = 4;

/// Longest path of a unix socket, bytes: `sun_path` has 108, one for the NUL.
pub const MAX_SOCKET_PATH: usize = 107;
