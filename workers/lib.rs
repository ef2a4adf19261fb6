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
pub mod payload_check;
pub mod personal_data;
pub mod pointer;
mod preview;
pub mod probe;
pub mod problem;
pub mod safe_text;
pub mod trail;
pub mod widget_patch;

pub use env::{Env, Storage, validate_profiles};
pub use payload_check::{Demands, Unfit};

use std::sync::Arc;

use backhaul_engine::{Job, KindSpec, Registry};
use serde_json::Value;

use payload_check::Checked;

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

/// What a worker would refuse `payload` for at once, as a job of `kind`. A kind that is not of this program is not judged.
///
/// # Errors
/// The failure code that the job would die of, and everything that is wrong.
pub fn check_payload(kind: &str, payload: &Value, demands: &Demands<'_>) -> Result<(), Unfit> {
    macro_rules! check {
        ($($kind:ty,)+) => {
            match kind {
                $(name if name == <$kind as Job>::KIND => <$kind>::check_payload(payload, demands),)+
                _ => Ok(()),
            }
        };
    }
    for_each_kind!(check)
}

#[cfg(test)]
mod docs_tests;
