//! What Backhaul is set beside.

pub(crate) mod apalis;
pub(crate) mod bare;
