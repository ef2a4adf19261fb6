//! What every command starts from: the settings and the way to the database.

use std::{collections::BTreeMap, env};

use anyhow::{Result, anyhow};
use secrecy::{ExposeSecret, SecretString};

use super::{Global, exit};
use crate::{
    cluster::{Cluster, Durability},
    config::Settings,
};

/// The settings of this run.
#[derive(Debug)]
pub(crate) struct Session {
    /// Defaults, file and environment, validated.
    pub(crate) settings: Settings,
}

impl Session {
    /// Reads and checks the settings.
    pub(crate) fn open(global: &Global) -> Result<Self> {
        // Variables that are not UTF-8 cannot be meant for us: all of our values are text.
        let environment: BTreeMap<String, String> = env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        let mut settings = Settings::load(global.config.as_deref(), &environment)
            .map_err(|problems| anyhow!(exit::Coded::new(exit::USAGE, problems.to_string())))?;
        let given = global.database_url.as_deref().filter(|url| !url.is_empty());
        if let Some(url) = given {
            settings.database.set_url(url).map_err(|problem| anyhow!(exit::Coded::new(exit::USAGE, problem)))?;
        }
        Ok(Self { settings })
    }

    /// The same settings, with no log lines between what the command prints itself.
    #[cfg(feature = "demo")]
    pub(crate) fn quiet(&self) -> Self {
        let mut settings = self.settings.clone();
        "warn".clone_into(&mut settings.telemetry.log);
        Self { settings }
    }

    /// The private cluster of these settings.
    pub(crate) fn cluster(&self) -> Cluster {
        Cluster::new(&self.settings.cluster.dir, self.settings.cluster.bin_dir.as_deref())
    }

    /// The database's URL. Starts the private cluster when none is configured; blocks while it does.
    pub(crate) fn database_url(&self) -> Result<SecretString> {
        match &self.settings.database.url {
            Some(url) => Ok(url.expose_secret().into()),
            None => Ok(self.cluster().start(Durability::Sync)?.1.socket),
        }
    }
}

/// Who decides, for the audit trail.
#[derive(Debug, clap::Args)]
pub(crate) struct Actor {
    /// Who does this, for the audit trail [default: the login name, or else the database's]
    #[arg(long = "actor", value_name = "NAME")]
    given: Option<String>,
}

impl Actor {
    /// The name that was given, else the login name. Where there is none, the database records its own login.
    pub(crate) fn name(&self) -> Option<String> {
        let login = || env::var("SUDO_USER").or_else(|_| env::var("USER")).or_else(|_| env::var("LOGNAME")).ok();
        self.given.clone().or_else(login).filter(|name| !name.is_empty())
    }
}

/// What the audit trail keeps of a decision, and how its outcome is told.
#[derive(Debug, clap::Args)]
pub(crate) struct Audit {
    #[command(flatten)]
    pub(crate) actor: Actor,
    /// Reason, for the audit trail
    #[arg(long, value_name = "TEXT")]
    pub(crate) why: Option<String>,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}
