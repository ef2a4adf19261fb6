//! Where events go: each module is one implementation of the engine's [`Sink`](backhaul_engine::Sink).

mod envelope;
mod file;

pub use envelope::line;
pub use file::FileSink;
