//! The kind `handshake`: writes a webchat channel, and proves that its socket opens for whom it should.

pub mod payload;
