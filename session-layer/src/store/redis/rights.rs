//! What the user of the Redis servers must be allowed to do.
//!
//! Redis does not roll a script back: a user without `PEXPIRE` would leave sessions that never end, one without `HSET` counters whose
//! version does not rise. So a server is asked when it is connected to whether the user may do all that the scripts do, on keys of each
//! kind, and is not used if not. The scripts check again, before their first write, what they are about to do: rights can be taken away
//! while we are connected.

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;

use super::connection::CallError;
use super::keys::Keys;
use super::resp::Frame;
use super::status::{Feature, Status};
use super::telemetry;
use super::url::Address;
use crate::commit::CommitId;
use crate::id::SessionHandle;

/// A word of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Word {
    Text(&'static str),
    Session,
    Successor,
    Commit,
    List,
    Revocation,
}

use Word::{Commit, List, Revocation, Session, Successor, Text};

/// What each script does, as it does it.
const BY_SCRIPTS: &[&[Word]] = &[
    &[Text("TIME")],
    &[Text("GET"), Commit],
    &[Text("SET"), Commit, Text(""), Text("PX"), Text("1")],
    &[Text("PEXPIRE"), Commit, Text("1")],
    &[Text("EXISTS"), Session],
    &[Text("HMGET"), Session, Text("a")],
    &[Text("HGET"), Session, Text("a")],
    &[Text("HEXISTS"), Session, Text("a")],
    &[Text("HLEN"), Session],
    &[Text("HKEYS"), Session],
    &[Text("HGETALL"), Session],
    &[Text("PTTL"), Session],
    &[Text("HSET"), Session, Text("a"), Text("1")],
    &[Text("HDEL"), Session, Text("a")],
    &[Text("HINCRBY"), Session, Text("a"), Text("1")],
    &[Text("PEXPIRE"), Session, Text("1")],
    &[Text("DEL"), Session],
    &[Text("RENAME"), Session, Successor],
    &[Text("ZRANGE"), List, Text("0"), Text("-1"), Text("WITHSCORES")],
    &[Text("ZADD"), List, Text("NX"), Text("1"), Text("a")],
    &[Text("ZREM"), List, Text("a")],
    &[Text("PEXPIRE"), List, Text("1"), Text("NX")],
    &[Text("DEL"), List],
    &[Text("GET"), Revocation],
    &[Text("SET"), Revocation, Text(""), Text("PX"), Text("1")],
    &[Text("PEXPIRE"), Revocation, Text("1")],
];

/// What else no server is used without.
const ALWAYS: &[&[Word]] = &[
    &[Text("SCRIPT"), Text("LOAD"), Text("")],
    &[Text("EVALSHA"), Text("a"), Text("3"), Session, Commit, Successor],
    &[Text("EVALSHA"), Text("a"), Text("2"), List, Revocation],
    &[Text("ROLE")],
    &[Text("ECHO"), Text("")],
];

/// What only some features need. `INFO` says which server answers a second connection, and whether the server evicts.
const BY_FEATURES: &[(Feature, &[Word])] = &[
    (Feature::NearCache, &[Text("CLIENT"), Text("TRACKING"), Text("ON")]),
    (Feature::NearCache, &[Text("PING")]),
    (Feature::NearCache, &[Text("INFO")]),
    (Feature::ReplicaReads, &[Text("INFO")]),
    (Feature::DurableCommits, &[Text("WAIT"), Text("1"), Text("1")]),
    (Feature::DurableCommits, &[Text("INFO")]),
];

/// What is checked about each server, and who is told.
#[derive(Clone)]
pub(super) struct Checks {
    pub(super) keys: Keys,
    pub(super) status: Status,
    /// What the settings ask for.
    pub(super) wanted: Vec<Feature>,
}

impl Checks {
    /// A feature cannot work on this server.
    pub(super) fn off(&self, server: &Address, feature: Feature, reason: &str) {
        if self.status.set_off(feature, reason) {
            telemetry::feature_off(server, feature, reason);
        }
    }
}

/// What a user lacks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Missing {
    /// Without which no commit is safe: the commands, by what they are needed on.
    needed: BTreeMap<&'static str, Vec<String>>,
    /// Features that cannot work, each with the commands that it lacks.
    features: BTreeMap<Feature, Vec<String>>,
}

/// The arguments of `rights.lua`, from the number of keys on. The keys are not given as such: Redis would check them first.
pub(super) fn arguments(keys: &Keys) -> Vec<Bytes> {
    let mut arguments = vec![Bytes::from_static(b"0")];
    arguments.extend(words(keys));
    arguments
}

/// Reads what `rights.lua` says.
pub(super) fn missing(answer: Frame) -> Result<Missing, CallError> {
    match answer {
        Frame::Array { data } => Ok(Missing::from_numbers(data.iter().filter_map(|number| match number {
            Frame::Number { data } => usize::try_from(*data).ok(),
            _ => None,
        }))),
        _ => Err(CallError::Server("the answer about rights has an unknown form".to_owned())),
    }
}

fn commands() -> impl Iterator<Item = (Option<Feature>, &'static [Word])> {
    let by_all = BY_SCRIPTS.iter().chain(ALWAYS).map(|words| (None, *words));
    by_all.chain(BY_FEATURES.iter().map(|(feature, words)| (Some(*feature), *words)))
}

fn words(keys: &Keys) -> Vec<Bytes> {
    // Names that no real session, commit or list has.
    let session = |digest| keys.session(&SessionHandle::new([0; 2], [digest; 32]));
    let commit = CommitId([0; 16]);
    let word = |word: &Word| match word {
        Text(text) => Bytes::from_static(text.as_bytes()),
        Session => session(0),
        Successor => session(1),
        Commit => keys.commit(&SessionHandle::new([0; 2], [0; 32]), &commit),
        List => keys.list("", ""),
        Revocation => keys.revocation(&commit),
    };
    let mut arguments = Vec::new();
    for (_, words) in commands() {
        arguments.push(words.len().to_string().into());
        arguments.extend(words.iter().map(word));
    }
    arguments
}

impl Missing {
    fn from_numbers(numbers: impl Iterator<Item = usize>) -> Self {
        let mut missing = Self::default();
        for number in numbers {
            let Some((feature, words)) = number.checked_sub(1).and_then(|index| commands().nth(index)) else {
                continue;
            };
            let name = name(words);
            let lacking = match feature {
                Some(feature) => missing.features.entry(feature).or_default(),
                None => missing.needed.entry(kind(words)).or_default(),
            };
            if !lacking.contains(&name) {
                lacking.push(name);
            }
        }
        missing
    }

    /// Why a feature cannot work, if it cannot.
    pub(super) fn feature(&self, feature: Feature) -> Option<String> {
        Some(format!("the Redis user lacks permissions: {}", self.features.get(&feature)?.join(" ")))
    }

    /// Whether a server can be used all the same.
    pub(super) fn is_usable(&self) -> bool {
        self.needed.is_empty()
    }
}

/// In one line, for whoever must grant it.
impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the Redis user lacks permissions:")?;
        for (index, (kind, names)) in self.needed.iter().enumerate() {
            let separator = if index == 0 { "" } else { ";" };
            write!(f, "{separator} {}{kind}", names.join(" "))?;
        }
        f.write_str("; see RedisStore's documentation for the ACL SETUSER line")
    }
}

/// As ACL rules have it: `+client|tracking`.
fn name(words: &[Word]) -> String {
    let mut texts = words.iter().filter_map(|word| if let Text(text) = word { Some(*text) } else { None });
    let (command, next) = (texts.next().unwrap_or_default(), texts.next().unwrap_or_default());
    let mut name = format!("+{command}");
    if matches!(command, "SCRIPT" | "CLIENT") {
        name.push('|');
        name.push_str(next);
    }
    name.to_lowercase()
}

/// On what the command is run.
fn kind(words: &[Word]) -> &'static str {
    match words.iter().find(|word| !matches!(word, Text(_))) {
        Some(Session | Successor | Commit) => " on sessions and commits",
        Some(List | Revocation) => " on lists of principals and revocations",
        Some(Text(_)) | None => "",
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::super::scripts::Script;
    use super::*;

    /// What a file calls, that is: the words in capitals behind one of these.
    fn called<'a>(text: &'a str, before: &[&str], quote: char) -> BTreeSet<&'a str> {
        let after = before.iter().flat_map(|before| text.split(before).skip(1));
        let words = after.filter_map(|rest| rest.split(quote).next());
        words.filter(|word| word.len() > 2 && word.bytes().all(|byte| byte.is_ascii_uppercase())).collect()
    }

    fn first_words<'a>(commands: impl Iterator<Item = &'a [Word]>) -> BTreeSet<&'static str> {
        commands.filter_map(|words| if let Text(text) = words[0] { Some(text) } else { None }).collect()
    }

    #[test]
    fn every_command_of_the_scripts_is_checked_on_connecting() {
        let texts: Vec<String> = Script::ALL.into_iter().map(Script::text).collect();
        let mut used: BTreeSet<_> = texts.iter().flat_map(|text| called(text, &["'"], '\'')).collect();
        for option in ["WITHSCORES", "WRONGTYPE"] {
            assert!(used.remove(option));
        }
        assert_eq!(first_words(BY_SCRIPTS.iter().copied()), used);
    }

    #[test]
    fn every_other_command_is_checked_on_connecting_as_well() {
        let mut used = BTreeSet::new();
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/store/redis");
        let files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).collect();
        let texts: Vec<_> = files.iter().filter(|file| file.extension().is_some_and(|kind| kind == "rs")).collect();
        // `client` is the one for looking on, and for sentinels.
        for file in texts
            .into_iter()
            .filter(|file| !["client", "sentinel", "observe"].iter().any(|name| file.ends_with(format!("{name}.rs"))))
        {
            let text = std::fs::read_to_string(file).unwrap();
            let before = [".call(\"", ".put(\"", ", \"EVALSHA\", ", "expected, \""];
            used.extend(called(&text, &before, '"').into_iter().map(str::to_owned));
        }
        // Nobody can be denied the first two; without the third there is no connection to another database.
        let checked: BTreeSet<_> =
            first_words(commands().map(|(_, words)| words)).into_iter().map(str::to_owned).collect();
        let unchecked: Vec<_> = used.difference(&checked).map(String::as_str).collect();
        assert!(unchecked.iter().all(|name| ["AUTH", "HELLO", "SELECT"].contains(name)), "{unchecked:?}");
        assert!(used.contains("WAIT") && used.contains("HGETALL") && used.contains("HELLO"), "{used:?}");
    }

    #[test]
    fn the_documented_user_has_the_rights_that_are_checked() {
        let names: BTreeSet<String> = commands().map(|(_, words)| name(words)).chain(["+select".to_owned()]).collect();
        let names: Vec<_> = names.into_iter().collect();
        let line = format!("ACL SETUSER session on >password ~session:* {}\n", names.join(" "));
        for (file, text) in
            [("README.md", include_str!("../../../../README.md")), ("RedisStore", include_str!("mod.rs"))]
        {
            assert!(text.contains(&line), "{file} should have this line:\n{line}");
        }
    }

    #[test]
    fn what_is_missing_is_said_in_one_line() {
        let number = |wanted: &[Word]| 1 + commands().position(|(_, words)| words == wanted).unwrap();
        let numbers = [
            number(&[Text("HEXISTS"), Session, Text("a")]),
            number(&[Text("PEXPIRE"), Commit, Text("1")]),
            number(&[Text("PEXPIRE"), Session, Text("1")]),
            number(&[Text("ZREM"), List, Text("a")]),
            number(&[Text("SCRIPT"), Text("LOAD"), Text("")]),
            number(&[Text("WAIT"), Text("1"), Text("1")]),
        ];
        let missing = Missing::from_numbers(numbers.into_iter());
        assert!(!missing.is_usable());
        assert_eq!(
            missing.to_string(),
            "the Redis user lacks permissions: +script|load; +zrem on lists of principals and revocations; \
             +hexists +pexpire on sessions and commits; see RedisStore's documentation for the ACL SETUSER line"
        );
        assert_eq!(missing.feature(Feature::DurableCommits).unwrap(), "the Redis user lacks permissions: +wait");
        assert_eq!(missing.feature(Feature::NearCache), None);
        let feature = Missing::from_numbers([number(&[Text("WAIT"), Text("1"), Text("1")])].into_iter());
        assert!(feature.is_usable() && Missing::default().is_usable());
        assert_eq!(Missing::from_numbers([0, 1000].into_iter()), Missing::default());
    }
}
