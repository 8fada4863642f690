//! The settings that Compose reads too: from the environment, else from `.env`.

use std::collections::HashMap;
use std::fs;

use anyhow::{Context, Result};

use crate::shell::root;

pub(crate) struct Settings {
    file: HashMap<String, String>,
}

impl Settings {
    pub(crate) fn load() -> Result<Self> {
        let text = fs::read_to_string(root().join(".env")).context("cannot read .env")?;
        Ok(Self { file: parse(&text) })
    }

    /// An empty variable counts as one that is not set, as in `${NAME:-default}`.
    pub(crate) fn get(&self, name: &str) -> Option<String> {
        std::env::var(name).ok().or_else(|| self.file.get(name).cloned()).filter(|value| !value.is_empty())
    }
}

pub(crate) fn parse(text: &str) -> HashMap<String, String> {
    text.lines()
        .filter(|line| !line.trim_start().starts_with('#'))
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_empty_lines_are_no_settings() {
        let settings = parse("# A=1\n\nB=2\nC=\nD=x=y\n");
        assert_eq!(settings.len(), 3);
        assert_eq!((settings["B"].as_str(), settings["C"].as_str(), settings["D"].as_str()), ("2", "", "x=y"));
    }
}
