//! `cargo xtask down`: stops the cluster, volumes included.

use anyhow::Result;

use crate::compose::Compose;
use crate::settings::Settings;
use crate::shell::run;

pub(crate) fn down(project: Option<String>) -> Result<()> {
    let compose = Compose::find(project, &Settings::load()?)?;
    run(compose.command(&["down", "--volumes", "--remove-orphans"]))
}
