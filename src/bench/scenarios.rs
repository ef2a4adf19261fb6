//! The scenarios, one file each. This file is their table of contents.

mod backlog;
mod bucket;
mod enqueue;
mod flow;
mod http;
mod ingress;
mod latency;
mod neighbour;
mod rest;
mod scheduled;
mod snapshot;
mod tenants;
mod throughput;

use std::str::FromStr;

use anyhow::Result;

use crate::{report::Round, runner::Bench, target::Target};

macro_rules! scenarios {
    ($($variant:ident = $module:ident),* $(,)?) => {
        /// One scenario.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Scenario {
            $(
                #[doc = concat!("See the module `", stringify!($module), "`.")]
                $variant,
            )*
        }

        impl Scenario {
            /// All of them, in the order in which they run.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The name on the command line.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => stringify!($module),)* }
            }

            /// What it measures, in one line.
            pub fn about(self) -> &'static str {
                match self { $(Self::$variant => $module::ABOUT,)* }
            }

            pub(crate) fn targets(self) -> &'static [Target] {
                match self { $(Self::$variant => &$module::TARGETS,)* }
            }

            pub(crate) async fn run(self, bench: &Bench<'_>) -> Result<Round> {
                match self { $(Self::$variant => $module::run(bench).await,)* }
            }
        }
    };
}

scenarios! {
    Throughput = throughput,
    Latency = latency,
    Flow = flow,
    Snapshot = snapshot,
    Backlog = backlog,
    Tenants = tenants,
    Neighbour = neighbour,
    Scheduled = scheduled,
    Enqueue = enqueue,
    Bucket = bucket,
    Http = http,
    Ingress = ingress,
    Rest = rest,
}

impl FromStr for Scenario {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.iter().copied().find(|scenario| scenario.name() == text).ok_or_else(|| {
            let names: Vec<&str> = Self::ALL.iter().map(|scenario| scenario.name()).collect();
            format!("the scenarios are {}", names.join(", "))
        })
    }
}
