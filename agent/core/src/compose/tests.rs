//! Files that are taken, and files that are refused where and why.

use crate::compose::{probe, *};

fn cores() -> CorePlan {
    CorePlan::from_kernel("0-3", "2-3").unwrap()
}

fn service(lines: &str) -> Result<Service, ComposeError> {
    let text = format!("services:\n  a:\n    image: x\n{lines}");
    parse(&text, &cores()).map(|mut services| services.remove(0))
}

#[test]
fn a_hot_core_is_refused_by_name() {
    let error = service("    cpuset: \"1-2\"\n").unwrap_err().to_string();
    assert_eq!(
        error,
        "line 4: services.a.cpuset: \"1-2\": CPU 2 is hot, for the engine only; housekeeping CPUs are 0-1"
    );
    assert!(service("    cpuset: 7\n").unwrap_err().to_string().contains("not on this host"));
    assert_eq!(service("    cpuset: 1\n").unwrap().cpuset, "1");
    assert_eq!(service("").unwrap().cpuset, "0-1");
}

#[test]
fn an_unknown_key_is_an_error_with_its_line() {
    let error = service("    privileged: true\n").unwrap_err().to_string();
    assert!(error.starts_with("line 4: services.a.privileged: not supported"), "{error}");
    let error = parse("services: {}\nnetworks:\n  a: {}\n", &cores()).unwrap_err().to_string();
    assert!(error.starts_with("line 2: networks: unknown key"), "{error}");
}

#[test]
fn what_hosts_have_no_use_for_is_refused_with_what_to_do_instead() {
    for (key, remedy) in schema::NEVER {
        let error = service(&format!("    {key}: x\n")).unwrap_err().to_string();
        assert_eq!(error, format!("line 4: services.a.{key}: not supported: {remedy}"));
    }
}

#[test]
fn the_files_that_are_shipped_and_shown_are_accepted() {
    let guide = include_str!("../../../../docs/dropcopy.md");
    let shown = guide.split("```").find_map(|part| part.strip_prefix("yaml\n"));
    for text in [
        include_str!("../../../../containers/compose/demo.yaml"),
        include_str!("../../../../containers/compose/production.yaml"),
        shown.expect("the guide shows a file"),
    ] {
        assert!(!parse(text, &cores()).unwrap().is_empty());
    }
}

#[test]
fn values_are_read_with_their_units() {
    let read =
        service("    mem_limit: 512m\n    cpus: 0.25\n    user: \"5:6\"\n    command: a b\n")
            .unwrap();
    assert_eq!(
        (read.memory_bytes, read.cpu_millis, read.user),
        (Some(512 << 20), Some(250), Some("5:6".into()))
    );
    assert_eq!(read.command.as_deref().unwrap(), ["a", "b"]);
    assert!(service("    init: true\n").unwrap().init && !read.init);
    let read = service(
        "    pids_limit: '5'\n    cpu_shares: '512'\n    read_only: 'true'\n    init: yes\n    ulimits: {nofile: '9', fsize: {soft: '1', hard: '2'}}\n    deploy: {replicas: '1'}\n",
    );
    let read = read.unwrap();
    assert_eq!((read.pids, read.read_only, read.init), (Some(5), true, true));
    assert_eq!(read.rlimits[1].soft, 9);
    for bad in [
        "pids_limit: many",
        "read_only: maybe",
        "ulimits: {nofile: few}",
        "mem_limit: 5x",
        "mem_limit: 10",
        "cpus: 0",
        "cpus: -1",
        "user: two words",
        "volumes: [\"/etc:/etc\"]",
        "volumes: [\"/run/quietcore/../x:/y\"]",
        "volumes: [\"/run/quietcore/agent:/y\"]",
        "volumes: [\"/run/quietcore//agent:/y\"]",
        "volumes: [\"/run/quietcore/./agent:/y\"]",
        "volumes: [\"/run/quietcore/esp:/y:ro\"]",
        "volumes: [\"/run/quietcore:/y\"]",
        "volumes: [\"/var/lib/quietcore/journal:/y\"]",
        "stop_signal: SIGNONE",
    ] {
        assert!(service(&format!("    {bad}\n")).is_err(), "{bad}");
    }
}

#[test]
fn what_is_reserved_is_a_share_and_memory_that_stays() {
    let read = service(
        "    mem_limit: 64m\n    deploy:\n      resources:\n        limits: {cpus: '0.5', memory: 64m, pids: 9}\n        reservations: {cpus: 0.25, memory: 32m}\n",
    )
    .unwrap();
    assert_eq!((read.cpu_millis, read.cpu_weight), (Some(500), Some(25)));
    assert_eq!((read.memory_bytes, read.memory_min_bytes), (Some(64 << 20), Some(32 << 20)));
    assert_eq!(read.pids, Some(9));
    assert_eq!(service("    cpu_shares: 1024\n").unwrap().cpu_weight, Some(39));
    for (bad, wanted) in [
        ("mem_limit: 64m\n    mem_reservation: 65m", "at most mem_limit"),
        ("mem_limit: 64m\n    memswap_limit: 65m", "hosts have no swap"),
        ("mem_limit: 64m\n    deploy: {resources: {limits: {memory: 32m}}}", "say it once"),
        ("deploy: {replicas: 2}", "replicas"),
    ] {
        let error = service(&format!("    {bad}\n")).unwrap_err().to_string();
        assert!(error.contains(wanted), "{bad}: {error}");
    }
}

#[test]
fn nothing_that_reaches_a_scheduler_or_the_host_is_taken() {
    let capabilities = |lines: &str| service(lines).unwrap().capabilities.join(" ");
    assert_eq!(capabilities("    cap_drop: [ALL]\n    cap_add: [NET_RAW]\n"), "CAP_NET_RAW");
    assert!(!capabilities("    cap_drop: [CHOWN]\n").contains("CHOWN"));
    for (bad, wanted) in [
        ("cap_add: [SYS_NICE]", "one of CHOWN"),
        ("cap_add: [ALL]", "one of CHOWN"),
        ("ulimits: {rtprio: 99}", "one of core"),
        ("ulimits: {nofile: {soft: 9, hard: 8}}", "soft up to hard"),
        ("sysctls: {net.core.somaxconn: 1}", "network_mode: none"),
        ("security_opt: [\"seccomp:unconfined\"]", "always on"),
        ("tmpfs: [\"/a:suid\"]", "size=64m"),
        ("command: \"sh -c 'open\"", "close the quote"),
        ("volumes: [\"/run/quietcore/a:/a:suid\"]", "SOURCE:TARGET"),
        ("ulimits: {nofile: -1}", "up to 1048576"),
        ("ulimits: {fsize: -2}", "up to -1, no limit"),
        ("ulimits: {fsize: {soft: -1, hard: 5}}", "soft up to hard"),
        ("pids_limit: 5\n    deploy: {resources: {limits: {pids: 6}}}", "the same as"),
        ("stop_grace_period: 1h", "up to"),
        ("x-quietcore: {canary: {}}\n    deploy: {update_config: {order: stop-first}}", "beside"),
        ("x-quietcore: {canary: {checks: [\"a < 1\"]}}", "belong together"),
        ("x-quietcore: {canary: {promote: never}}", "auto or manual"),
        ("deploy: {rollback_config: {order: start-first}}", "the order of update_config"),
        ("secrets: [key]", "write it down"),
        ("pull_policy: always", "fetched once"),
        ("x-quietcore: {hugepages: {2MB: 3m}}", "whole pages"),
        ("x-quietcore: {hugepages: {4KB: 4k}}", "2MB or 1GB"),
        ("x-quietcore: {engine_pages: pages}", "a path"),
        ("blkio_config: {device_read_bps: [{path: /var, rate: 1m}]}", "a whole disk"),
        ("blkio_config: {device_read_bps: [{path: /dev/../mem, rate: 1m}]}", "a whole disk"),
        ("blkio_config: {device_write_iops: [{path: /dev/vda, rate: 0}]}", "a rate a second"),
        ("blkio_config: {weight: 100}", "weight"),
        ("x-quietcore: {io_latency: {/dev/vda: 1us}}", "10us to 10s"),
        ("x-quietcore: {io_latency: {/dev/vda: fast}}", "10us to 10s"),
        ("x-quietcore: {io_latency: {vda: 5ms}}", "a whole disk"),
        ("volumes: [\"data:/data\"]", "write it down"),
    ] {
        let error = service(&format!("    {bad}\n")).unwrap_err().to_string();
        assert!(error.contains(wanted), "{bad}: {error}");
    }
    let read = service("    network_mode: none\n    sysctls: [net.core.somaxconn=1]\n    tmpfs: \"/a:size=1m,mode=700\"\n    ulimits: {nofile: 99}\n").unwrap();
    assert_eq!(read.sysctls["net.core.somaxconn"], "1");
    let read_only = service("    x-quietcore: {engine_pages: /pages, hugepages: {2MB: 4m}}\n");
    let read_only = read_only.unwrap();
    assert_eq!((&*read_only.binds[0].target, read_only.binds[0].read_only), ("/pages", true));
    assert_eq!(read_only.huge_pages["2MB"], 4 << 20);
    assert_eq!((read.tmpfs[0].bytes, &*read.tmpfs[0].mode), (1 << 20, "700"));
    assert_eq!((read.rlimits[0].soft, &*read.rlimits[0].name), (99, "RLIMIT_NOFILE"));
    let read = service(
        "    command: sh -c 'a \"b\"'\n    labels: [one, two=2]\n    volumes: [\"/run/quietcore/a:/a:ro,z\"]\n    ulimits: {fsize: -1}\n    pids_limit: 5\n    deploy: {resources: {limits: {pids: 5}}}\n    environment: {BIG: 18446744073709551615}\n",
    );
    let read = read.unwrap();
    assert_eq!(read.command.unwrap(), ["sh", "-c", "a \"b\""]);
    assert!(read.binds[0].read_only);
    assert_eq!((read.rlimits[0].soft, read.rlimits[0].hard), (u64::MAX, u64::MAX));
    assert_eq!(read.environment, ["BIG=18446744073709551615"]);
}

#[test]
fn volumes_are_of_this_host_or_of_another_in_both_forms() {
    let disk = "/dev/disk/by-path/ip-192.0.2.6:3260-iscsi-iqn.2026-01.example:t-lun-0";
    let text = format!(
        "services:\n  a:\n    image: x\n    volumes: [\"days:/days:ro\", {{type: volume, source: ticks, target: /t}}, {{source: own, target: /own, read_only: true}}, {{type: bind, source: /run/quietcore/feed, target: /e}}]\nvolumes:\n  days: {{driver: local, driver_opts: {{type: nfs, o: \"addr=192.0.2.5\", device: \":/d\"}}}}\n  ticks: {{driver_opts: {{type: ext4, device: \"{disk}\"}}}}\n  own: {{driver: local}}\n"
    );
    let read = parse(&text, &cores()).unwrap().remove(0);
    let said: Vec<_> = read.binds.iter().map(|it| (&*it.target, it.read_only)).collect();
    assert_eq!(said, [("/days", true), ("/t", false), ("/own", true), ("/e", false)]);
    assert!(read.binds[0].source.starts_with("/run/quietcore-volumes/days-"));
    assert_eq!(read.binds[0].remote.as_ref().unwrap().what, "192.0.2.5:/d");
    assert!(read.binds[1].remote.as_ref().unwrap().session.is_some());
    assert_eq!(read.binds[2].source, "/var/lib/quietcore/volumes/own");
    assert_eq!(parse_one("a", &read.source, &cores()).unwrap(), read);
    for (from, to, wanted) in [
        ("addr=192.0.2.5", "addr=storage", "volumes.days: write the server's address"),
        ("type: ext4", "type: xfs", "volumes.ticks: write driver_opts with type"),
        ("own: {driver: local}", "own: {driver: rexray}", "volumes.own: write driver: local"),
        ("type: bind", "type: npipe", "bind or volume"),
        ("\"days:/days:ro\"", "\"days:/days:x\"", "SOURCE:TARGET:ro"),
        ("/run/quietcore/feed", "/run/quietcore-volumes/days-0", "a directory under one of"),
        ("type: volume", "driver: {driver_opts: {type: nfs}}", "at the file's top"),
    ] {
        let error = parse(&text.replace(from, to), &cores()).unwrap_err().to_string();
        assert!(error.contains(wanted), "{to}: {error}");
    }
}

#[test]
fn what_stands_at_the_top_is_put_into_the_services_that_use_it() {
    let text = "services:\n  a:\n    image: x\n    user: \"7:8\"\n    volumes: [\"data:/data:ro\"]\n    secrets: [{source: key, target: /run/secrets/k, uid: \"5\", mode: 0440}]\n    configs: [conf]\nvolumes: {data: {}}\nsecrets: {key: {external: true}}\nconfigs: {conf: {content: \"a: 1\"}}\n";
    let read = parse(text, &cores()).unwrap().remove(0);
    assert_eq!(read.binds[0].source, "/var/lib/quietcore/volumes/data");
    assert_eq!((&*read.secrets[0].source, &*read.secrets[0].file), ("key", "k"));
    let access = read.secrets[0].access;
    assert_eq!((access.uid, access.gid, access.mode), (Some(5), None, 0o440));
    assert_eq!((&*read.configs[0].target, &*read.configs[0].content), ("/conf", "a: 1"));
    let other = parse(&text.replace("0440", "0o640"), &cores()).unwrap().remove(0);
    assert_eq!(other.secrets[0].access.mode, 0o640);
    // It can be read by itself.
    assert_eq!(parse_one("a", &read.source, &cores()).unwrap(), read);
    let with = |from: &str, to: &str| {
        let text = text.replace(from, to);
        parse(&text, &cores()).unwrap_err().to_string()
    };
    assert!(with("data: {}", "data: {driver: nfs}").contains("volumes.data"));
    assert!(with("external: true", "file: ./x").contains("qctl secret set"));
    assert!(with("content: \"a: 1\"", "file: ./x").contains("configs.conf"));
    assert!(with("0440", "0999").contains("octal"));
    assert!(with("[{source: key", "[quietcore.api, {source: key").contains("this host's own"));
    assert!(with("target: /run/secrets/k", "target: /etc/k").contains("below /run/secrets"));
}

#[test]
fn health_checks_are_asked_and_not_run() {
    let probe = |lines: &str| {
        service(lines).map(|service| service.policy.health.map(|health| health.probe))
    };
    let http = Some(probe::Probe::Http { port: 9464, path: "/metrics".into(), any_status: false });
    for test in [
        "[CMD, curl, -f, \"http://localhost:9464/metrics\"]",
        "[CMD-SHELL, \"wget -q -O /dev/null http://127.0.0.1:9464/metrics || exit 1\"]",
        "curl --fail http://127.0.0.1:9464/metrics",
    ] {
        assert_eq!(probe(&format!("    healthcheck: {{test: {test}}}\n")).unwrap(), http, "{test}");
    }
    let tcp = Some(probe::Probe::Tcp { port: 80 });
    assert_eq!(probe("    healthcheck: {test: [CMD, nc, -z, localhost, \"80\"]}\n").unwrap(), tcp);
    assert_eq!(probe("    x-quietcore: {tcp: 80}\n").unwrap(), tcp);
    assert_eq!(probe("    healthcheck: {test: [NONE]}\n").unwrap(), None);
    assert_eq!(
        probe("    healthcheck: {disable: true}\n    x-quietcore: {tcp: 80}\n").unwrap(),
        None
    );
    for bad in [
        "healthcheck: {test: [CMD, pg_isready]}",
        "healthcheck: {test: \"curl http://elsewhere/\"}",
        "x-quietcore: {file: /etc/shadow, max_age: 1s}",
        "x-quietcore: {file: /run/quietcore/x}",
        "x-quietcore: {tcp: 1, http: \"http://127.0.0.1/\"}",
        "healthcheck: {test: [CMD, nc, -z, localhost, \"80\"], interval: 1d}",
    ] {
        probe(&format!("    {bad}\n")).unwrap_err();
    }
    let read =
        service("    x-quietcore: {tcp: 80}\n    healthcheck: {interval: 1m30s, retries: 5}\n");
    let health = read.unwrap().policy.health.unwrap();
    assert_eq!((health.interval.as_secs(), health.retries), (90, 5));
}

#[test]
fn services_wait_for_others_that_are_there() {
    let file = |dependency: &str| {
        let text = format!(
            "services:\n  a: {{image: x, depends_on: {dependency}}}\n  b: {{image: x, x-quietcore: {{tcp: 1}}}}\n  c: {{image: x, depends_on: [a]}}\n"
        );
        parse(&text, &cores()).map_err(|error| error.to_string())
    };
    let read = file("{b: {condition: service_healthy}}").unwrap();
    assert_eq!(read[0].policy.depends_on["b"], Condition::ServiceHealthy);
    assert!(file("[d]").unwrap_err().contains("no such service"));
    assert!(file("[c]").unwrap_err().contains("waits for itself"));
    assert!(file("{c: {condition: service_healthy}}").unwrap_err().contains("no healthcheck"));
}

#[test]
fn extensions_and_merged_keys_are_understood_and_a_source_reads_the_same() {
    let text = "x-common: &common\n  mem_limit: 32m\n  x-note: kept for people\nservices:\n  a:\n    <<: *common\n    image: x\n    x-mine: [1]\n    environment: [B=2, A=1]\n";
    let read = parse(text, &cores()).unwrap().remove(0);
    assert_eq!(read.memory_bytes, Some(32 << 20));
    assert_eq!(read.environment, ["A=1", "B=2"]);
    assert_eq!(parse_one("a", &read.source, &cores()).unwrap(), read);
    // Another runtime policy makes no other container.
    let other = parse_one("a", &format!("{}restart: always\n", read.source), &cores()).unwrap();
    assert_eq!(other.fingerprint(), read.fingerprint());
    assert_ne!(other, read);
}

#[test]
fn what_the_host_exchanges_is_not_bound_and_what_may_be_read_only_so() {
    let bound = |source: &str| {
        let said = service(&format!("    volumes: [\"{source}\"]\n"));
        said.err().map(|error| error.to_string()).unwrap_or_default()
    };
    for good in [
        "/run/quietcore/engine:/p:ro",
        "/run/quietcore/ports:/p:ro",
        "/run/quietcore/feed:/f",
        "/var/lib/quietcore/volumes/a:/a",
        "/var/lib/quietcore/journal:/j:ro",
    ] {
        assert_eq!(bound(good), "", "{good}");
    }
    for only_read in ["engine:/p", "engine/control:/p:rw", "ports:/p", "demo:/p"] {
        let said = bound(&format!("/run/quietcore/{only_read}"));
        assert!(said.contains("append :ro"), "{only_read}: {said}");
    }
    assert!(bound("/var/lib/quietcore/journal:/j").contains("append :ro"));
    for name in crate::compose::OWN {
        for mode in ["", ":ro"] {
            let said = bound(&format!("/run/quietcore/{name}:/x{mode}"));
            assert!(said.contains("a directory under"), "{name}{mode}: {said}");
        }
    }
    for bad in ["/run/quietcore:/x:ro", "/run/quietcore/:/x:ro", "/run/quietcore/./fetch:/x:ro"] {
        assert_ne!(bound(bad), "", "{bad}");
    }
}

#[test]
fn a_probe_that_something_else_could_answer_is_refused() {
    let first = "    deploy: {update_config: {order: start-first}}\n";
    let said = |keys: &str, more: &str| {
        service(&format!("{keys}{more}")).err().map_or(String::new(), |error| error.to_string())
    };
    let tcp = "    x-quietcore: {tcp: 9470}\n";
    assert!(said(tcp, first).contains("x-quietcore: {ports: {9470: OTHER}}"));
    assert_eq!(said(tcp, ""), "");
    assert_eq!(said("    x-quietcore: {tcp: 9470, ports: {9470: 9480}}\n", first), "");
    let curl = "    healthcheck: {test: curl -f http://127.0.0.1:9470/}\n";
    assert!(said(curl, first).contains("the one before could answer"));
    let file = "    x-quietcore: {file: /run/quietcore/feed/alive, max_age: 5s}\n";
    assert!(said(file, first).contains("the version before could write it"));
    let canary = "    x-quietcore: {canary: {metrics: \"http://127.0.0.1:9470/metrics\", checks: [\"a < 1\"]}}\n";
    assert!(said(canary, "").contains("x-quietcore.canary.metrics"));
    let none = "    network_mode: none\n";
    assert!(said(tcp, none).contains("listens at no port of this host"));
    assert_eq!(said(file, none), "");
}
