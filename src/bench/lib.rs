//! `backhaul bench`: what the engine achieves, set beside its limit in the same run.
//!
//! Every scenario runs on fresh databases of the given server, and states its result as a ratio to something that
//! cannot be beaten on this machine at this moment: the same statements sent by bare connections with no worker, a
//! bare LISTEN and NOTIFY, a bare insert, a bare loop of requests. Ratios survive a slow or busy machine; rates do not.

mod case;
mod cost;
mod database;
mod http;
mod kinds;
mod letters;
mod load;
mod machine;
mod options;
mod peers;
mod processes;
mod quantiles;
mod report;
mod runner;
mod scenarios;
mod serve;
mod stream;
mod table;
mod tally;
mod target;
mod usage;
mod worker;

pub use options::{Options, Size};
pub use processes::{WorkerProcess, worker_process};
pub use report::Report;
pub use runner::run;
pub use scenarios::Scenario;
pub use table::render;
