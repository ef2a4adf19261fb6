//! Everything Backhaul says to the outside over HTTP: the one client, OAuth tokens, the classification of answers,
//! the address guard, signed deliveries, and the connection profiles that set all of it per tenant.
//!
//! This crate knows nothing of jobs. A job kind takes a [`profile::Provider`] from its tenant's profile, makes a
//! [`call::Call`], sends it with the client and hands the outcome to [`classify::classify`].

pub mod address;
pub mod call;
pub mod classify;
pub mod client;
pub mod clock;
mod discovery;
mod exchange;
pub mod paging;
pub mod path;
pub mod profile;
pub mod redact;
pub mod retry_after;
pub mod sign;
#[cfg(test)]
mod test_server;
pub mod tls;
mod token;

pub use self::{
    call::{Call, CallError, Reply},
    classify::{Class, classify},
    client::{Client, Delivery, Settings},
    profile::{
        Auth, CallbackProfile, IdemOn, OccMode, ProbeProfile, Profile, ProfileErrors, Profiles, Provider,
        WebhookProfile,
    },
    redact::Secret,
};
pub use reqwest::{Method, header};
