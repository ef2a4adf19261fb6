//! Settings: the defaults that are compiled in, then a file, then `BACKHAUL__SECTION__KEY`.
//!
//! They are read once at the start. All mistakes are reported together, and no message holds the value of a secret.

mod problems;
mod reader;
mod sections;

#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, path::Path};

use ::config::{Config, Environment, File, FileFormat};

use self::reader::Reader;
pub(crate) use self::{
    problems::Problems,
    sections::{
        ClusterSection, DatabaseSection, IngressSection, LogFormat, ProfilesSection, SinksSection, StorageSection,
        TelemetrySection, WorkerSection,
    },
};

/// The defaults with an explanation of every key.
pub(crate) const DEFAULTS: &str = include_str!("../config/default.toml");

/// Every setting, checked.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) database: DatabaseSection,
    pub(crate) cluster: ClusterSection,
    pub(crate) worker: WorkerSection,
    pub(crate) profiles: ProfilesSection,
    pub(crate) ingress: IngressSection,
    pub(crate) storage: StorageSection,
    pub(crate) sinks: SinksSection,
    pub(crate) telemetry: TelemetrySection,
}

impl Settings {
    /// Reads the three layers. `environment` is the process's environment, or a test's.
    pub(crate) fn load(file: Option<&Path>, environment: &BTreeMap<String, String>) -> Result<Self, Problems> {
        let merged = merge(file, environment)?;
        let mut reader = Reader::new(&merged);
        let settings = Self {
            database: DatabaseSection::read(&mut reader),
            cluster: ClusterSection::read(&mut reader),
            worker: WorkerSection::read(&mut reader),
            profiles: ProfilesSection::read(&mut reader),
            ingress: IngressSection::read(&mut reader),
            storage: StorageSection::read(&mut reader),
            sinks: SinksSection::read(&mut reader),
            telemetry: TelemetrySection::read(&mut reader),
        };
        reader.finish().map(|()| settings)
    }
}

fn merge(file: Option<&Path>, environment: &BTreeMap<String, String>) -> Result<Config, Problems> {
    let mut builder = Config::builder().add_source(File::from_str(DEFAULTS, FileFormat::Toml));
    if let Some(path) = file {
        let text = std::fs::read_to_string(path)
            .map_err(|error| Problems::one(format!("cannot read the settings file {}: {error}", path.display())))?;
        // Parsed here first, because toml's errors can be told without the text of the line, which may be a secret.
        toml::from_str::<toml::Table>(&text).map_err(|error| {
            Problems::one(format!("{}: {}", path.display(), problems::without_source(&text, &error)))
        })?;
        builder = builder.add_source(File::from_str(&text, FileFormat::Toml));
    }
    let ours = environment.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
    builder
        .add_source(Environment::with_prefix("BACKHAUL").prefix_separator("__").separator("__").source(Some(ours)))
        .build()
        .map_err(|error| Problems::one(format!("the settings cannot be combined: {error}")))
}
