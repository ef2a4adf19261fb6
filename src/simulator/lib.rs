#![doc = include_str!("README.md")]

mod accepted;
mod app;
mod audit;
mod callbacks;
mod certificates;
mod channels;
mod clock;
mod control;
mod crm;
mod crm_record;
mod discovery;
mod documents;
mod effects;
mod faults;
mod fingerprint;
mod generate;
mod idempotency;
mod limits;
mod listener;
mod locked;
mod oauth;
mod options;
mod pipeline;
mod post;
mod profiles;
mod record;
mod reply;
mod routes;
mod scopes;
mod server;
mod settings;
mod social;
mod spoil;
mod webhooks;
mod websocket;
mod widgets;
mod world;

#[cfg(test)]
mod tests;

pub use app::Summary;
pub use certificates::CertificateKind;
pub use effects::{EffectRow, EffectTotals};
pub use faults::{FaultRule, FaultStatus, Match, Reset, Then, When, faults_from_toml};
pub use oauth::ClientRule;
pub use options::SimOptions;
pub use record::{RecordTotals, RecordedRequest};
pub use server::{Simulator, TlsEndpoint};
pub use settings::{Settings, SocketSettings, ThreadIds, WebhookDuplicates};
