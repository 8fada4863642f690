//! The ports on the host, and whether they can be had.

use std::net::TcpListener;

use anyhow::{Result, bail};

use crate::docker::Container;
use crate::settings::Settings;

pub(crate) struct Port {
    pub(crate) service: &'static str,
    pub(crate) variable: &'static str,
    pub(crate) number: u16,
}

/// The ports that docker-compose.yml publishes.
pub(crate) fn published(settings: &Settings) -> Result<Vec<Port>> {
    [("nginx", "HTTP_PORT", 8080), ("app1", "APP1_PORT", 8081), ("app2", "APP2_PORT", 8082)]
        .into_iter()
        .map(|(service, variable, default)| {
            let number = match settings.get(variable) {
                None => default,
                Some(text) => match text.parse() {
                    Ok(number) if number > 0 => number,
                    _ => bail!("{variable} is `{text}`, which is no port"),
                },
            };
            Ok(Port { service, variable, number })
        })
        .collect()
}

pub(crate) fn address(settings: &Settings) -> String {
    settings.get("PUBLISH_ADDRESS").unwrap_or_else(|| "127.0.0.1".to_owned())
}

/// Refuses a port that somebody else has. Those of our own running containers are ours already.
pub(crate) fn check(ports: &[Port], address: &str, ours: &[Container]) -> Result<()> {
    for port in ports {
        if ours.iter().any(|container| container.service == port.service && container.holds_ports()) {
            continue;
        }
        if let Err(error) = TcpListener::bind((address, port.number)) {
            bail!(
                "port {number} of {address} is not free for {service} ({error}); choose another with {variable}=…",
                number = port.number,
                service = port.service,
                variable = port.variable,
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(state: &str) -> Container {
        Container { id: "1".into(), service: "nginx".into(), state: state.into(), health: String::new() }
    }

    #[test]
    fn a_taken_port_is_named_with_its_variable_unless_we_took_it() {
        let other = TcpListener::bind("127.0.0.1:0").unwrap();
        let number = other.local_addr().unwrap().port();
        let nginx = |number| [Port { service: "nginx", variable: "HTTP_PORT", number }];
        let ports = nginx(number);
        let error = check(&ports, "127.0.0.1", &[]).unwrap_err().to_string();
        assert!(error.contains(&number.to_string()) && error.contains("HTTP_PORT"), "{error}");
        check(&ports, "127.0.0.1", &[container("exited")]).unwrap_err();
        check(&ports, "127.0.0.1", &[container("paused")]).unwrap();
        // Whichever is free.
        check(&nginx(0), "127.0.0.1", &[]).unwrap();
    }
}
