#![doc = include_str!("README.md")]

pub mod api;
pub mod crm_sync;
pub mod css;
pub mod deliver;
pub mod depth;
pub mod enrichment;
pub mod env;
pub mod fields;
pub mod freshness;
pub mod handshake;
pub mod keyed_hash;
mod look_again;
mod memories;
pub mod merge;
pub mod origins;
pub mod personal_data;
pub mod pointer;
mod preview;
pub mod probe;
pub mod problem;
pub mod safe_text;
pub mod trail;
pub mod widget_patch;

pub use env::{Env, Storage, validate_profiles};

use std::sync::Arc;

use backhaul_engine::{KindSpec, Registry};

/// Calls `$call!(...)` with every job kind. A new kind is one more line here.
macro_rules! for_each_kind {
    ($call:ident) => {
        $call! {
            crm_sync::CrmSync,
            deliver::Deliver,
            enrichment::Enrichment,
            handshake::Handshake,
            widget_patch::WidgetPatch,
        }
    };
}

/// The constants of all kinds, as `backhaul migrate` writes them.
pub fn kinds() -> Vec<KindSpec> {
    macro_rules! specs {
        ($($kind:ty,)+) => { vec![$(KindSpec::of::<$kind>()),+] };
    }
    for_each_kind!(specs)
}

/// Adds all kinds to `registry`.
pub fn register(registry: &mut Registry, env: Arc<Env>) {
    macro_rules! add {
        ($($kind:ty,)+) => { $(registry.add::<$kind>(Arc::clone(&env));)+ };
    }
    for_each_kind!(add);
}

#[cfg(test)]
mod docs_tests;
