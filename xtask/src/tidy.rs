//! What several files must say alike.

use std::fs;

use crate::images::{DEBIAN, NGINX, REDIS, RUST};
use crate::settings::parse;
use crate::shell::root;

fn file(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The words after a key, over all lines of a file.
fn values(text: &str, key: &str) -> Vec<String> {
    let mut values: Vec<_> = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix(key))
        .filter_map(|rest| rest.split_whitespace().next())
        .filter(|value| !value.contains('$'))
        .map(str::to_owned)
        .collect();
    values.sort();
    values.dedup();
    values
}

#[test]
fn the_images_that_are_made_sure_of_are_those_that_are_used() {
    assert_eq!(values(&file("docker-compose.yml"), "image:"), [NGINX, REDIS]);
    assert_eq!(values(&file("demo-app/Dockerfile"), "FROM "), [DEBIAN, RUST]);
    for recipe in ["redis", "nginx", "rust"] {
        assert_eq!(values(&file(&format!("xtask/stand-ins/{recipe}/Dockerfile")), "FROM "), [DEBIAN]);
    }
}

#[test]
fn every_setting_of_the_environment_file_is_used_by_the_cluster() {
    let compose = file("docker-compose.yml");
    for name in parse(&file(".env")).keys() {
        assert!(name == "COMPOSE_PROJECT_NAME" || compose.contains(&format!("${{{name}:")), "{name} is used nowhere");
    }
}
