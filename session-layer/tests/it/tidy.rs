//! Invariants of the whole workspace that a search can check; `ARCHITECTURE.md` lists them.

use std::fs;
use std::path::{Path, PathBuf};

/// Long, and better so.
const LONG_FILES: &[(&str, &str)] = &[
    ("demo-app/tests/process.rs", "everything about the process as a whole, a list of tests"),
    ("session-layer/src/session.rs", "one method per thing that a handler does, each with its documentation"),
    ("session-layer/src/commit.rs", "half of it is its truth tables"),
    ("session-layer/src/delta.rs", "half of it is its tests"),
    ("session-layer/src/store/redis/reply.rs", "half of it is its tests"),
    ("tests/load/src/model.rs", "a third of it is its tests"),
];
const LONG: usize = 400;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned()
}

/// The files below a folder of the workspace whose names end so: their paths from its root, and what they hold.
fn files(folder: &str, ends: &str) -> Vec<(String, String)> {
    fn walk(folder: &Path, ends: &str, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() && name != "target" && !name.starts_with('.') {
                walk(&path, ends, found);
            } else if name.ends_with(ends) {
                found.push(path);
            }
        }
    }
    let root = root();
    let mut found = Vec::new();
    walk(&root.join(folder), ends, &mut found);
    found.sort();
    assert!(!found.is_empty(), "nothing ends in {ends} below {folder}");
    let read = |path: PathBuf| {
        let name = path.strip_prefix(&root).unwrap().to_string_lossy().replace('\\', "/");
        let text = fs::read_to_string(&path).unwrap();
        (name, text)
    };
    found.into_iter().map(read).collect()
}

fn rust() -> Vec<(String, String)> {
    files("", ".rs")
}

/// Whether the text has the word, not as a part of another.
fn has_word(text: &str, word: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(word).any(|(at, _)| !text[..at].ends_with(part) && !text[at + word.len()..].starts_with(part))
}

#[track_caller]
fn nowhere(files: impl IntoIterator<Item = (String, String)>, word: &str, why: &str) {
    let found: Vec<_> = files.into_iter().filter(|(_, text)| has_word(text, word)).map(|(name, _)| name).collect();
    assert!(found.is_empty(), "{word} is named in {found:?}: {why}");
}

#[test]
fn the_redis_client_is_named_only_under_its_store() {
    let client = ["fr", "ed"].concat();
    // The demo names it once, as the source of log lines; and what is measured side by side has a client of its own.
    let elsewhere = rust().into_iter().map(|(name, text)| (name, text.replace(&format!(",{client}=error\""), "")));
    let elsewhere = elsewhere
        .filter(|(name, _)| !name.starts_with("session-layer/src/store/redis/") && !name.starts_with("bench/"));
    nowhere(elsewhere, &client, "another client could stand there one day");
    let manifests = files("", "Cargo.toml").into_iter();
    let named: Vec<_> = manifests.filter(|(_, text)| has_word(text, &client)).map(|(name, _)| name).collect();
    assert_eq!(named, ["Cargo.toml", "bench/Cargo.toml", "session-layer/Cargo.toml"]);
}

#[test]
fn redis_is_talked_to_only_under_its_store() {
    let elsewhere = files("session-layer/src", ".rs").into_iter();
    let elsewhere = elsewhere.filter(|(name, _)| !name.starts_with("session-layer/src/store/redis/"));
    for word in ["TcpStream", "HGETALL", "EVALSHA"] {
        nowhere(elsewhere.clone(), word, "the rest of the library knows stores, and no server");
    }
}

#[test]
fn the_library_knows_nothing_of_who_uses_it() {
    for word in ["demo_app", "demo-app", "nginx", "Docker", "docker", "compose"] {
        nowhere(files("session-layer/src", ".rs"), word, "the library stands alone");
    }
}

#[test]
fn the_demo_uses_the_librarys_public_api() {
    // What is private the compiler refuses; what goes around it, this.
    for (name, text) in files("demo-app", ".rs") {
        let around = ["#[path", "include!("].iter().any(|way| text.contains(way)) && text.contains("session-layer");
        assert!(!around, "{name} takes the library's source");
    }
}

#[test]
fn every_member_has_the_workspaces_lints_and_none_has_unsafe_code() {
    for (name, text) in files("", "Cargo.toml") {
        if name == "Cargo.toml" {
            assert!(text.contains("unsafe_code = \"forbid\""));
        } else if text.contains("[workspace]") {
            assert!(text.contains("unsafe_code = \"forbid\""), "{name}");
        } else {
            assert!(text.contains("[lints]\nworkspace = true"), "{name}");
        }
    }
}

/// The tests of a file, by their names.
fn tests(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut is_test = false;
    for line in text.lines().map(str::trim) {
        let declaration = line.split_once("fn ").filter(|(before, _)| ["", "async "].contains(before));
        if let Some((_, rest)) = declaration {
            if is_test {
                found.push(rest.split('(').next().unwrap_or_default());
            }
            is_test = false;
        } else if line.starts_with("#[") {
            is_test |= line.contains("test]") || line.contains("test(");
        }
    }
    found
}

/// The names of tests in the tables of a document: `module::test`, of which the end may be left out (`module::the_beginning_…`).
fn named_in_tables(text: &str) -> Vec<&str> {
    let rows = text.lines().filter(|line| line.starts_with('|'));
    let quoted = rows.flat_map(|line| line.split('`').skip(1).step_by(2));
    let part = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_:…".contains(c);
    quoted
        .filter(|quoted| quoted.contains("::") && !quoted.starts_with("session_layer::") && quoted.chars().all(part))
        .collect()
}

#[test]
fn every_test_that_a_document_names_is_there() {
    let sources = rust();
    let is_there = |named: &str| {
        let (modules, test) = named.rsplit_once("::").expect("it was chosen for them");
        let places = ["", "/mod"].map(|suffix| format!("/{}{suffix}.rs", modules.replace("::", "/")));
        let mut tests = sources
            .iter()
            .filter(|(path, _)| places.iter().any(|place| path.ends_with(place)))
            .flat_map(|(_, text)| tests(text));
        match test.strip_suffix('…') {
            Some(beginning) => tests.any(|test| test.starts_with(beginning)),
            None => tests.any(|there| there == test),
        }
    };
    let documents = files("", ".md");
    let named: Vec<_> = documents
        .iter()
        .flat_map(|(path, text)| named_in_tables(text).into_iter().map(move |named| (path, named)))
        .collect();
    assert!(
        named.iter().any(|(path, _)| *path == "README.md") && named.len() > 40,
        "the search finds no names any more"
    );
    let missing: Vec<_> = named.into_iter().filter(|(_, named)| !is_there(named)).collect();
    assert!(missing.is_empty(), "no test has these names: {missing:#?}");
}

#[test]
fn nothing_is_left_to_do() {
    for word in ["todo", "unimplemented", "dbg"] {
        let call = |(name, text): (String, String)| text.contains(&format!("{word}!(")).then_some(name);
        assert_eq!(rust().into_iter().filter_map(call).collect::<Vec<_>>(), Vec::<String>::new(), "{word}!");
    }
}

#[test]
fn no_test_is_ignored() {
    let ignored = ["#[", "ignore"].concat();
    for (name, text) in rust() {
        assert!(!text.contains(&ignored), "{name}: a test that cannot run fails");
    }
}

#[test]
fn the_librarys_tests_do_not_sleep_for_real() {
    let sleep = ["thread::", "sleep"].concat();
    for (name, text) in files("session-layer/tests", ".rs") {
        assert!(!text.contains(&sleep), "{name}");
    }
}

#[test]
fn no_file_is_long_unless_it_is_better_so() {
    let long: Vec<_> =
        rust().into_iter().filter(|(_, text)| text.lines().count() > LONG).map(|(name, _)| name).collect();
    for name in &long {
        assert!(LONG_FILES.iter().any(|(listed, _)| listed == name), "{name} has more than {LONG} lines: split it");
    }
    for (listed, why) in LONG_FILES {
        assert!(long.iter().any(|name| name == listed), "{listed} is not long any more ({why}): take it off the list");
    }
}
