//! The four job kinds end to end: the real engine on one side, a simulator in a process of its own on the other. What
//! can be said without a wire is said beside the kinds; here stands what only shows in requests, documents and effects.

mod callbacks;
mod crm_records;
mod crm_sync;
mod discovery;
mod doors;
mod enrichment;
mod every_step;
mod examples;
mod forgotten;
mod handshake;
mod handshake_later;
mod limits;
mod profile;
mod retries;
mod silence;
mod stage;
mod tenants;
mod thread_links;
mod thread_replays;
mod thread_storm;
mod widget_patch;
