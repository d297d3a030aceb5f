//! What guests' ports may do: settings, their compilation, and the checks of every frame.
//!
//! [`settings`] are what people say, for a LAN and for a guest. [`compile()`] makes of both one [`CompiledPolicy`], flat,
//! so that a frame is checked by a few compares. A [`PortGuard`] is a port's rules with what they remember: addresses leased
//! and claimed, rates. The parsers ([`dhcp4`], [`dhcp6`], [`ra`]) are total over hostile bytes.

mod compile;
pub mod dhcp4;
pub mod dhcp6;
mod guard;
mod held;
mod layers;
pub mod ra;
mod rate;
mod rules;
pub mod settings;

pub use compile::{CompileError, CompiledPolicy, Flags, LanPolicy, check_asked, compile, compile_asked};
pub use guard::{Around, Pass, PortGuard};
pub use held::How;
pub use layers::{Layers, SaidBy, Why, explain};
pub use rate::ByteBucket;
pub use settings::{PortPolicy, SettingError};
