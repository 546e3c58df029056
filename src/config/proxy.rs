//! Decides whether `NO_PROXY` exempts the address of a Vault server from the proxies of the environment.

use std::net::IpAddr;

use reqwest::Url;

/// Returns whether `NO_PROXY` covers an address. As in common clients, an entry is a host with all
/// hosts below it, an IP address or a range of them, each perhaps with a port, or `*`.
pub(super) fn is_exempt(no_proxy: &str, url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_ascii_lowercase();
    let port = url.port_or_known_default();
    no_proxy.split(',').map(str::trim).any(|entry| covers(entry, &host, port))
}

fn covers(entry: &str, host: &str, port: Option<u16>) -> bool {
    if entry == "*" {
        return true;
    }
    let ip: Option<IpAddr> = host.parse().ok();
    if let Some((network, bits)) = entry.split_once('/') {
        let range = network.parse().ok().zip(bits.parse().ok());
        return ip.zip(range).is_some_and(|(ip, (network, bits))| is_in(ip, network, bits));
    }
    if let Ok(listed) = entry.trim_matches(['[', ']']).parse::<IpAddr>() {
        return ip == Some(listed);
    }
    let (name, listed_port) = match entry.rsplit_once(':') {
        Some((name, digits)) => match digits.parse::<u16>() {
            Ok(listed) => (name, Some(listed)),
            Err(_) => return false,
        },
        None => (entry, None),
    };
    let name = name.trim_matches(['[', ']']).trim_start_matches('*').trim_start_matches('.');
    let name = name.to_ascii_lowercase();
    let is_below = host.strip_suffix(&*name).is_some_and(|rest| rest.ends_with('.'));
    !name.is_empty()
        && (host == name || (ip.is_none() && is_below))
        && listed_port.is_none_or(|listed| Some(listed) == port)
}

/// Returns whether an address is in a range, which is given by an address and a number of bits.
fn is_in(ip: IpAddr, network: IpAddr, bits: u32) -> bool {
    match (ip, network) {
        (IpAddr::V4(ip), IpAddr::V4(network)) if bits <= 32 => {
            let differs = ip.to_bits() ^ network.to_bits();
            differs.leading_zeros() >= bits
        }
        (IpAddr::V6(ip), IpAddr::V6(network)) if bits <= 128 => {
            let differs = ip.to_bits() ^ network.to_bits();
            differs.leading_zeros() >= bits
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_exempt_by_its_host_its_ip_or_its_range() {
        for (no_proxy, address, expected) in [
            ("*", "https://vault.example.com:8200", true),
            ("vault", "https://vault:8200", true),
            ("localhost, .example.com", "https://vault.example.com:8200", true),
            ("example.com", "https://VAULT.example.com:8200", true),
            ("*.svc", "https://vault.vault.svc:8200", true),
            ("vault:8200", "https://vault:8200", true),
            ("vault:8201", "https://vault:8200", false),
            ("vault:443", "https://vault", true),
            ("ample.com", "https://vault.example.com", false),
            ("vault.example.com", "https://example.com", false),
            ("10.0.0.0/8,192.168.0.1", "https://10.96.0.10:8200", true),
            ("10.0.0.0/8,192.168.0.1", "https://192.168.0.1:8200", true),
            ("10.0.0.0/8,192.168.0.1", "https://192.168.0.2:8200", false),
            ("0.1", "https://10.0.0.1:8200", false),
            ("192.168.0.1:8200", "https://192.168.0.1:8200", true),
            ("0.0.0.0/0", "https://10.0.0.1", true),
            ("10.0.0.0/33", "https://10.0.0.1", false),
            ("fd00::/8", "https://[fd00::1]:8200", true),
            ("[fd00::1]:8200", "https://[fd00::1]:8200", true),
            ("", "https://vault:8200", false),
            (",", "https://vault:8200", false),
        ] {
            let url = Url::parse(address).unwrap();
            assert_eq!(is_exempt(no_proxy, &url), expected, "{no_proxy} {address}");
        }
    }
}
