//! Opens a channel's WebSocket once and says precisely how that went.

pub mod dial;
pub mod outcome;
pub mod target;

pub use dial::{Knock, knock};
pub use outcome::{Opened, ProbeError};
pub use target::socket;
