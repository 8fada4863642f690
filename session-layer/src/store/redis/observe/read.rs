//! Asking, and reading the answers.

use std::time::Duration;

use fred::types::{Resp3Frame as Frame, Value};

use super::seen::{Follower, Replication, Word};
use crate::store::redis::client::Client;
use crate::store::redis::connection::CallError;
use crate::store::redis::url::Address;

pub(super) async fn ask_server(connection: &Client) -> Result<Option<Replication>, CallError> {
    let info = connection.call("INFO", vec![Value::from_static_str("replication")]).await?;
    Ok(text(&info).and_then(read_info))
}

pub(super) async fn ask_sentinel(connection: &Client, master: &str) -> Result<(Option<Word>, Vec<Address>), CallError> {
    let ask = |what| vec![Value::from_static_str(what), Value::from(master)];
    let (details, replicas) =
        tokio::join!(connection.call("SENTINEL", ask("MASTER")), connection.call("SENTINEL", ask("REPLICAS")));
    let (details, replicas) = (details?, replicas?);
    let details = Fields::of(&details);
    let leader = details.address();
    let mut servers: Vec<_> = leader.iter().cloned().collect();
    if let Frame::Array { data, .. } = &replicas {
        servers.extend(data.iter().filter_map(|replica| Fields::of(replica).address()));
    }
    let down = ["s_down", "o_down"].iter().any(|flag| details.get("flags").is_some_and(|flags| flags.contains(flag)));
    let epoch = details.get("config-epoch").and_then(|epoch| epoch.parse().ok()).unwrap_or(0);
    Ok((leader.map(|master| Word { master: master.to_string(), master_down: down, epoch }), servers))
}

/// A list of names and values by turns.
struct Fields<'a>(Vec<(&'a str, &'a str)>);

impl<'a> Fields<'a> {
    fn of(frame: &'a Frame) -> Self {
        let Frame::Array { data, .. } = frame else { return Self(Vec::new()) };
        Self(data.chunks_exact(2).filter_map(|pair| Some((text(&pair[0])?, text(&pair[1])?))).collect())
    }

    fn get(&self, name: &str) -> Option<&'a str> {
        self.0.iter().find(|(field, _)| *field == name).map(|(_, value)| *value)
    }

    fn address(&self) -> Option<Address> {
        Some(Address { host: self.get("ip")?.to_owned(), port: self.get("port")?.parse().ok()? })
    }
}

/// `INFO replication`; nothing if it says something unheard of.
fn read_info(info: &str) -> Option<Replication> {
    let get = |name: &str| {
        info.lines().find_map(|line| line.split_once(':').filter(|field| field.0 == name)).map(|f| f.1.trim())
    };
    let number = |name: &str| get(name).and_then(|value| value.parse().ok());
    match get("role")? {
        "master" => Some(Replication::Master {
            offset: number("master_repl_offset")?,
            replicas: info.lines().filter_map(read_follower).collect(),
        }),
        "slave" => Some(Replication::Replica {
            of: format!("{}:{}", get("master_host")?, get("master_port")?),
            link_up: get("master_link_status")? == "up",
            offset: number("slave_repl_offset")?,
        }),
        _ => None,
    }
}

/// A line such as `slave0:ip=redis-2,port=6381,state=online,offset=42,lag=1`.
fn read_follower(line: &str) -> Option<Follower> {
    let (name, fields) = line.split_once(':')?;
    name.strip_prefix("slave")?.parse::<u32>().ok()?;
    let get = |name| {
        fields.trim().split(',').find_map(|field| field.split_once('=').filter(|field| field.0 == name)).map(|f| f.1)
    };
    Some(Follower {
        address: format!("{}:{}", get("ip")?, get("port")?),
        online: get("state")? == "online",
        offset: get("offset")?.parse().ok()?,
        silent_for: Duration::from_secs(get("lag")?.parse().ok()?),
    })
}

fn text(frame: &Frame) -> Option<&str> {
    match frame {
        Frame::BlobString { data, .. } | Frame::SimpleString { data, .. } | Frame::VerbatimString { data, .. } => {
            std::str::from_utf8(data).ok()
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_master_tells_who_follows_it() {
        let info = "# Replication\r\nrole:master\r\nconnected_slaves:2\r\nmin_slaves_good_slaves:2\r\n\
                    slave0:ip=redis-2,port=6381,state=online,offset=40,lag=1\r\n\
                    slave1:ip=::1,port=6382,state=wait_bgsave,offset=0,lag=0\r\nmaster_repl_offset:42\r\n";
        let Some(Replication::Master { offset: 42, replicas }) = read_info(info) else { panic!("{info}") };
        let [first, second] = &replicas[..] else { panic!("{replicas:?}") };
        assert_eq!((first.address.as_str(), first.online, first.offset), ("redis-2:6381", true, 40));
        assert_eq!((second.address.as_str(), second.online, first.silent_for.as_secs()), ("::1:6382", false, 1));
    }

    #[test]
    fn a_replica_tells_whom_it_follows() {
        let info = "role:slave\r\nmaster_host:redis-1\r\nmaster_port:6380\r\nmaster_link_status:down\r\n\
                    slave_read_repl_offset:9\r\nslave_repl_offset:7\r\nslave_priority:100\r\n";
        let expected = Replication::Replica { of: "redis-1:6380".into(), link_up: false, offset: 7 };
        assert_eq!(read_info(info), Some(expected));
        for broken in ["", "role:poet", "role:master", "role:slave\r\nmaster_host:a", "slave0:ip=a,port=1"] {
            assert_eq!(read_info(broken), None, "{broken}");
        }
    }
}
