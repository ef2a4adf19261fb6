//! The kind `crm-sync`: keeps a thread of the CRM equal to the social thread it mirrors.

pub mod chunks;
pub mod delta;
pub mod envelope;
pub mod rebase;
pub mod record;
pub mod refusal;
pub mod settings;
pub mod snapshot;
pub mod thread;
