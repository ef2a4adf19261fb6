//! The job kinds this program was built with.

use backhaul_engine::KindSpec;

/// What each kind demands of its jobs.
pub(crate) fn specs() -> Vec<KindSpec> {
    Vec::new()
}
