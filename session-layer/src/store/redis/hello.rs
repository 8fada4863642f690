//! What a server says of itself when it is greeted (`HELLO`).

use super::connection::CallError;
use super::resp::Frame;

/// Returns a field of the reply.
pub(super) fn field(hello: &Frame, field: &str) -> Option<String> {
    let Frame::Map { data } = hello else { return None };
    data.iter().find_map(|pair| match pair {
        (Frame::BlobString { data: name }, Frame::BlobString { data: value }) if name == field => {
            Some(String::from_utf8_lossy(value).into_owned())
        }
        _ => None,
    })
}

/// Refuses a member of a cluster, which would refuse the keys that it does not hold one by one, and a sentinel, which holds none.
pub(super) fn refuse_mode(mode: Option<&str>) -> Result<(), CallError> {
    let problem = match mode {
        Some("cluster") => {
            "the server is a member of a Redis Cluster, which this version does not support; use a server with `cluster-enabled no`"
        }
        Some("sentinel") => "the server is a sentinel; use `redis-sentinel://host:port/master-name`",
        _ => return Ok(()),
    };
    Err(CallError::Server(problem.to_owned()))
}
