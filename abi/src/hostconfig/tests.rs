//! Configurations of hosts: what is accepted, and what is refused where.

use super::*;

const WHOLE: &str = r#"
version = 1
hostname = "ny4-01"
[cores]
hot = "2-N"
[[network]]
mac = "52:54:00:12:34:56"
addresses = ["10.0.0.5/24"]
gateway = "10.0.0.1"
dns = ["10.0.0.53"]
mtu = 9000
[[network]]
interface = "eth1"
dhcp = true
[time]
servers = ["10.0.0.1", "ntp.example"]
[trust]
release_key = """-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=
-----END PUBLIC KEY-----
"""
"#;

#[test]
fn a_whole_one_becomes_what_systemds_daemons_read() {
    let config = HostConfig::parse(WHOLE).unwrap();
    assert_eq!(config.hostname(), Some("ny4-01"));
    let files = config.files();
    let names: Vec<_> = files.iter().map(|(name, _)| name.as_str()).collect();
    let networks = ["network/10-quietcore-00.network", "network/10-quietcore-01.network"];
    assert_eq!(names, [networks[0], networks[1], "timesyncd.conf.d/10-quietcore.conf"]);
    let first = "[Match]\nPermanentMACAddress=52:54:00:12:34:56\n\n[Link]\nMTUBytes=9000\n\n\
                 [Network]\nDHCP=no\nAddress=10.0.0.5/24\nGateway=10.0.0.1\nDNS=10.0.0.53\n\n\
                 [IPv6AcceptRA]\nUseRedirect=no\n";
    assert_eq!(files[0].1, first);
    assert_eq!(files[2].1, "[Time]\nNTP=10.0.0.1 ntp.example\n");
    let hot = config.check_cpus(4).unwrap().unwrap().hot().to_string();
    assert_eq!((hot.as_str(), config.check_cpus(2).is_err()), ("2-3", true));
    assert!(config.summary().starts_with("host ny4-01, 2 interfaces, hot cores 2-N, time from"));
}

#[test]
fn the_least_one_asks_dhcp() {
    let config = HostConfig::parse("version = 1\n").unwrap();
    assert_eq!((config.files().len(), config.check_cpus(1)), (0, Ok(None)));
    assert_eq!(config.summary(), "host without a name, network by DHCP");
}

#[test]
fn what_is_wrong_is_named_with_the_remedy() {
    for (from, to, names) in [
        ("version = 1", "version = 2", "version = 2"),
        ("hostname = \"ny4-01\"", "hostname = \"ny4 01\"", "hostname"),
        ("hostname =", "host =", "line 3: unknown field `host`"),
        ("\"2-N\"", "\"2-x\"", "CPU list"),
        ("52:54:00:12:34:56", "52:54", "network.mac"),
        ("10.0.0.5/24", "10.0.0.5", "10.0.0.5/24"),
        ("10.0.0.5/24", "10.0.0.5/33", "network.addresses"),
        ("mtu = 9000", "mtu = 64000", "68 to 9216"),
        ("interface = \"eth1\"", "", "an interface or a mac"),
        ("interface = \"eth1\"", "interface = \"eth1/../x\"", "network.interface"),
        ("dhcp = true", "", "dhcp = true"),
        ("ntp.example", "ntp example\\nNTP=x", "time.servers"),
        ("BEGIN PUBLIC", "BEGIN PRIVATE", "trust.release_key"),
    ] {
        let changed = WHOLE.replacen(from, to, 1);
        assert_ne!(changed, WHOLE);
        let error = HostConfig::parse(&changed).unwrap_err().to_string();
        assert!(error.contains(names) && !error.contains('\n'), "{to}: {error}");
    }
}
