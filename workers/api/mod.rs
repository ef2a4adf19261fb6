//! One typed client per upstream. A client knows paths, headers and the meaning of replies; what a failure means for
//! the job is said once, in [`failure`].

pub mod audit;
pub mod callback;
pub mod channels;
mod crm_record;
pub mod failure;
pub mod precondition;
pub mod profiles;
pub mod reply;
pub mod session;
pub mod threads;
pub mod widgets;

pub use failure::Trouble;
pub use session::{Exchange, Session};
