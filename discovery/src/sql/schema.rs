//! The tables that a question may name: typed columns, each with its meaning. docs/query.md is checked against this.

/// Type of a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// UTF-8 text.
    Text,
    /// A whole number.
    Int,
    /// A number with a fraction.
    Real,
}

impl Kind {
    /// As SQL and the documentation write it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Text => "TEXT",
            Self::Int => "INTEGER",
            Self::Real => "REAL",
        }
    }
}

/// A column of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    /// Its name, lower case.
    pub name: &'static str,
    /// Its type; any cell may be NULL instead.
    pub kind: Kind,
    /// What it says, with its unit.
    pub doc: &'static str,
}

/// A table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Table {
    /// Which.
    pub id: TableId,
    /// Its name in SQL.
    pub name: &'static str,
    /// What a row is.
    pub doc: &'static str,
    /// Its columns, in order.
    pub columns: &'static [Column],
}

impl Table {
    /// Place and description of a column, whatever the case of the name.
    pub fn column(&self, name: &str) -> Option<(usize, &'static Column)> {
        let mut all = self.columns.iter().enumerate();
        all.find(|(_, c)| c.name.eq_ignore_ascii_case(name))
    }

    /// Statement that makes it.
    pub fn create(&self) -> String {
        let columns: Vec<String> = self
            .columns
            .iter()
            .map(|c| format!("\"{}\" {}", c.name, c.kind.word()))
            .collect();
        format!("CREATE TABLE \"{}\" ({})", self.name, columns.join(", "))
    }
}

/// Names a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TableId {
    /// Machines on loan.
    Hosts,
    /// Guests that would still fit, by size.
    Futures,
    /// Images by name.
    Images,
    /// Who holds which image.
    Holders,
    /// Guests.
    Vms,
    /// Measured paths of this node.
    Links,
    /// Load of hosts.
    Loads,
}

const fn text(name: &'static str, doc: &'static str) -> Column {
    let kind = Kind::Text;
    Column { name, kind, doc }
}

const fn int(name: &'static str, doc: &'static str) -> Column {
    let kind = Kind::Int;
    Column { name, kind, doc }
}

const fn real(name: &'static str, doc: &'static str) -> Column {
    let kind = Kind::Real;
    Column { name, kind, doc }
}

const HOSTS: &[Column] = &[
    text("id", "node id of the host"),
    text("name", "what the host calls itself"),
    text("arch", "instruction set as QEMU names it"),
    text("accel", "accelerator that a guest gets: kvm or tcg"),
    text("qemu", "version of QEMU"),
    int("cores", "processors that guests may have in all"),
    int("cores_free", "processors not promised to a guest"),
    int("mem_mb", "memory that guests may have in all, MiB"),
    int("mem_free_mb", "memory not promised to a guest, MiB"),
    int("vms", "guests that run"),
    int("max_vms", "guests that the owner allows"),
    int("disk_free_mb", "room for guests' disks, MiB"),
    int("price", "price of an hour of one processor, thousandths; 0: nothing"),
    int(
        "lease_max_s",
        "longest time that a guest is lent the machine for, seconds; NULL: no end",
    ),
    real("load", "run queue over one minute, runnable tasks"),
    real(
        "rtt_ms",
        "round trip from this node, milliseconds: measured, or expected by place; NULL while neither is known",
    ),
    real("rtt_err_ms", "standard error of rtt_ms; 0 where it was measured"),
    int("me", "1: this node itself"),
    int("seen_ms", "age of what is said here, milliseconds"),
];

const FUTURES: &[Column] = &[
    text("host", "node id of the host"),
    text("name", "what the host calls itself"),
    text("class", "size: nano, small, medium, large or xlarge"),
    int("vcpus", "processors of one guest of this size"),
    int("mem_mb", "memory of one guest of this size, MiB"),
    int("count", "guests of this size that still fit, alone"),
    int("max_vcpu", "processors of the largest guest that still fits"),
    int("max_mem_mb", "memory of the largest guest that still fits, MiB"),
    text("arch", "instruction set"),
    text("accel", "accelerator"),
    int("price", "price of an hour of one processor, thousandths; 0: nothing"),
    int(
        "lease_max_s",
        "longest time that a guest is lent the machine for, seconds; NULL: no end",
    ),
    real("rtt_ms", "round trip from this node, milliseconds"),
    int("seen_ms", "age of the offer, milliseconds"),
];

const IMAGES: &[Column] = &[
    text("id", "image id"),
    text("name", "name that a holder gives it"),
    text("tag", "tag under that name"),
    int("size", "bytes of the disk that a guest sees"),
    int("pieces", "pieces of the image"),
    int("kernel", "1: a kernel comes with it"),
    int("holders", "nodes that say they hold some of it under this name"),
    int("complete", "of these, nodes that hold all of it"),
    int("seen_ms", "age of the youngest word about it, milliseconds"),
];

const HOLDERS: &[Column] = &[
    text("image", "image id"),
    text("host", "node id of the holder"),
    text("node", "what the holder calls itself"),
    text("name", "name of the image there"),
    text("tag", "tag of the image there"),
    real("pct", "share of the pieces that it holds, 0 to 100"),
    int("stored", "bytes that it stores for the image"),
    int("complete", "1: it holds every piece"),
    real("rtt_ms", "round trip from this node, milliseconds"),
    int("seen_ms", "age of what is said here, milliseconds"),
];

const VMS: &[Column] = &[
    text("id", "guest id"),
    text("host", "node id of the host that runs it"),
    text(
        "name",
        "its name; NULL unless its owner made it public or it is this node's",
    ),
    text("image", "id of the image that it was started from"),
    text("state", "state, as `lanline ls` names it"),
    int("mine", "1: this node owns it"),
    int("since", "when it came into this state, milliseconds since 1970"),
    int("seen_ms", "age of what is said here, milliseconds"),
];

const LINKS: &[Column] = &[
    text("a", "node id of the end that measured: this node"),
    text("b", "node id of the other end"),
    int("rtt_us", "round trip, microseconds"),
    int(
        "bw_kbps",
        "what passes over it now, both ways, kbit/s; NULL in the first second",
    ),
    real("loss", "share of packets lost, 0 to 1; NULL before the first"),
    text("path", "direct, tcp or relayed"),
    int("ts", "when it was measured, milliseconds since 1970"),
];

const LOADS: &[Column] = &[
    text("host", "node id of the host"),
    real("now", "runnable tasks, over 5 s; over one minute without a forecast"),
    real("p10", "load expected in 10 s; NULL without a forecast"),
    real("p60", "load expected in 60 s; NULL without a forecast"),
    real("err60", "standard error of p60; NULL without a forecast"),
    text("model", "what made the forecast; NULL without one"),
    int("seen_ms", "age of what is said here, milliseconds"),
];

/// Every table.
pub const TABLES: &[Table] = &[
    Table {
        id: TableId::Hosts,
        name: "hosts",
        doc: "A machine on loan.",
        columns: HOSTS,
    },
    Table {
        id: TableId::Futures,
        name: "futures",
        doc: "A size of guest of which at least one still fits on a host.",
        columns: FUTURES,
    },
    Table {
        id: TableId::Images,
        name: "images",
        doc: "An image under a name.",
        columns: IMAGES,
    },
    Table {
        id: TableId::Holders,
        name: "holders",
        doc: "An image at a node.",
        columns: HOLDERS,
    },
    Table {
        id: TableId::Vms,
        name: "vms",
        doc: "A guest at a host.",
        columns: VMS,
    },
    Table {
        id: TableId::Links,
        name: "links",
        doc: "A path of this node to a peer.",
        columns: LINKS,
    },
    Table {
        id: TableId::Loads,
        name: "loads",
        doc: "The load of a host.",
        columns: LOADS,
    },
];

/// The table of this name, whatever its case.
pub fn table(name: &str) -> Option<&'static Table> {
    TABLES.iter().find(|t| t.name.eq_ignore_ascii_case(name))
}

/// Description of a table.
pub fn by_id(id: TableId) -> &'static Table {
    &TABLES[id as usize]
}

/// Scalar functions that may be called.
pub const SCALARS: &[&str] = &[
    "abs", "coalesce", "ifnull", "iif", "instr", "length", "lower", "ltrim", "nullif", "round", "rtrim", "sign",
    "substr", "trim", "typeof", "upper",
];

/// Aggregates that may be called; min and max with more than one argument are scalar.
pub const AGGREGATES: &[&str] = &["avg", "count", "max", "min", "sum", "total"];

/// What may be called instead of a function that may not.
pub fn functions() -> String {
    SCALARS.iter().chain(AGGREGATES).copied().collect::<Vec<_>>().join(", ")
}
