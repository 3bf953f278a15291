//! Tries of workers that somebody took over, and what root does with the files that they leave.

/// User of a worker (systemd/base/sysusers.d); that of the probe worker is made at its start.
pub type User = u32;
const FETCH: User = 901;
const PULL: User = 902;
/// User of the API's process.
pub const API: User = 903;
const LOGS: User = 904;
const FOLLOW: User = 905;
const VAULT: User = 906;
const PCAP: User = 907;
const TAIL: User = 908;
const PROBE: User = 61184;

/// Users that may not reach the agent's socket.
pub const USERS: &[User] = &[FETCH, PULL, LOGS, FOLLOW, VAULT, PCAP, TAIL, PROBE];

/// Image of the registry that this host may ask, which nobody has signed.
pub const UNSIGNED: &str = "registry.example/test/claimed:1";

/// Arguments of qctl, as root uses it after each try.
pub const ROOT_ACTS: &[&str] = &[
    "image load /rig/hostile.tar",
    "image ls",
    "image rm test/loaded:1",
    "status",
    "audit",
    "events",
    "update",
    "pcap lo --seconds 1 --write /dev/null",
];

/// Script of root that takes away what the tries left.
pub const CLEAN: &str = "rm -rf /rig/store; for part in . blobs blobs/sha256 partial names; do install -d -o 902 -g 902 /rig/store/$part; done; rm -rf /run/quietcore/{fetch,pull,desired,vault,pcap,probe}/*; :";

/// Tries with the worker's own files and sockets: its user, a name, and a script that it runs.
/// `/prey` is a directory of root's.
pub const FILES: &[(User, &str, &str)] = &[
    (
        PULL,
        "partial leads to root's directory",
        "cd /rig/store; rmdir partial; ln -s /prey partial",
    ),
    (PULL, "partial leads to the state", "cd /rig/store; rmdir partial; ln -s /rig/state partial"),
    (
        PULL,
        "a blob on its way leads to root's file",
        "cd /rig/store/partial; for hex in $BLOBS; do ln -s /prey/file $hex.put; done",
    ),
    (
        PULL,
        "a blob on its way is a pipe",
        "cd /rig/store/partial; for hex in $BLOBS; do mkfifo $hex.put; done",
    ),
    (
        PULL,
        "a blob on its way is a directory",
        "cd /rig/store/partial; for hex in $BLOBS; do mkdir -p $hex.put/x; done",
    ),
    (
        PULL,
        "a blob that grows leads to root's file",
        "cd /rig/store/partial; for hex in $BLOBS; do ln -s /prey/file $hex; done",
    ),
    (
        PULL,
        "partial has other names that lead away",
        "cd /rig/store/partial; ln -s /prey a; ln -s /rig/state/compose.yaml b; mkfifo c",
    ),
    (
        PULL,
        "partial flips between a directory and a link",
        "rmdir /rig/store/partial; timeout 3 hostile flip /rig/store/partial /prey",
    ),
    (PULL, "blobs lead to root's directory", "cd /rig/store; rm -r blobs; ln -s /prey blobs"),
    (PULL, "digests lead to /etc", "cd /rig/store/blobs; rm -r sha256; ln -s /etc sha256"),
    (
        PULL,
        "digests flip between a directory and a link",
        "rm -r /rig/store/blobs/sha256; timeout 3 hostile flip /rig/store/blobs/sha256 /prey",
    ),
    (
        PULL,
        "a blob leads to the audit log",
        "cd /rig/store/blobs/sha256; for hex in $BLOBS; do ln -s /rig/state/audit.jsonl $hex; done",
    ),
    (
        PULL,
        "a blob is a pipe",
        "cd /rig/store/blobs/sha256; for hex in $BLOBS; do mkfifo $hex; done",
    ),
    (
        PULL,
        "a blob has another content",
        "cd /rig/store/blobs/sha256; for hex in $BLOBS; do echo x > $hex; done",
    ),
    (PULL, "names lead to the state", "cd /rig/store; rmdir names; ln -s /rig/state names"),
    (
        PULL,
        "a name leads to the compose file",
        "cd /rig/store/names; for it in $LOADED $CLAIMED; do ln -s /rig/state/compose.yaml $it.json; done",
    ),
    (PULL, "a name is a pipe", "cd /rig/store/names; mkfifo $LOADED.json $CLAIMED.json"),
    (PULL, "a name is sparse and large", "cd /rig/store/names; truncate -s 1T $LOADED.json"),
    (
        PULL,
        "two hundred large names",
        "cd /rig/store/names; for n in $(seq 200); do entry 4000000 > $n.json; done",
    ),
    (
        PULL,
        "twenty thousand names",
        "cd /rig/store/names; entry 10 > 0.json; seq 20000 | xargs -n 500 sh -c 'for n; do ln 0.json $n.json; done' sh",
    ),
    (
        PULL,
        "a digest that is a path",
        "forge ../../../../rig/state/compose.yaml 100 > /rig/store/names/$CLAIMED.json",
    ),
    (
        PULL,
        "a size that is none",
        "forge sha256:$MANIFEST 18446744073709551615 > /rig/store/names/$CLAIMED.json",
    ),
    (
        PULL,
        "an image that nobody signed",
        "cd /rig/store; cp /rig/blobs/* blobs/sha256/; forge sha256:$MANIFEST $(stat -c %s /rig/blobs/$MANIFEST) > names/$CLAIMED.json",
    ),
    (
        PULL,
        "an unsigned image in place of one of the OS",
        "cd /rig/store; cp /rig/blobs/* blobs/sha256/; forge sha256:$MANIFEST $(stat -c %s /rig/blobs/$MANIFEST) | sed s@registry.example/test/claimed:1@test/lines:1@ > names/$LINES_ENTRY.json",
    ),
    (PULL, "progress is a pipe", "mkfifo /run/quietcore/pull/progress.json"),
    (
        PULL,
        "progress leads to the state",
        "ln -s /rig/state/versions.json /run/quietcore/pull/progress.json",
    ),
    (PULL, "progress is sparse and large", "truncate -s 1T /run/quietcore/pull/progress.json"),
    (
        PULL,
        "progress is nested a million times",
        "head -c 1000000 /dev/zero | tr '\\0' '[' > /run/quietcore/pull/progress.json",
    ),
    (
        FOLLOW,
        "the desired state leads to root's file",
        "ln -s /rig/state/compose.yaml /run/quietcore/desired/desired.json",
    ),
    (FOLLOW, "the desired state is a pipe", "mkfifo /run/quietcore/desired/desired.json"),
    (
        FOLLOW,
        "the desired state is sparse and large",
        "truncate -s 1T /run/quietcore/desired/desired.json",
    ),
    (
        FOLLOW,
        "a desired state of a stranger",
        "cp /rig/stranger.json /run/quietcore/desired/desired.json",
    ),
    (FOLLOW, "its report is a pipe", "mkfifo /run/quietcore/desired/progress.json"),
    (
        FOLLOW,
        "its report has a terminal's orders",
        "printf '{\"error\":\"\\\\u001b[2J\\\\u001b]0;x\\\\u0007\"}' > /run/quietcore/desired/progress.json",
    ),
    (
        VAULT,
        "the API's configuration as a secret",
        "printf '{\"quietcore.api\":\"eA==\",\"wanted\":\"eA==\"}' > /run/quietcore/vault/fetched.json",
    ),
    (
        VAULT,
        "secrets whose names are paths",
        "printf '{\"../../prey/file\":\"eA==\",\"a/b\":\"eA==\"}' > /run/quietcore/vault/fetched.json",
    ),
    (
        VAULT,
        "secrets lead to root's file",
        "cd /run/quietcore/vault; ln -s /prey/file fetched.json; ln -s /prey/file report.json",
    ),
    (VAULT, "secrets are a pipe", "cd /run/quietcore/vault; mkfifo fetched.json report.json"),
    (VAULT, "secrets are sparse and large", "truncate -s 1T /run/quietcore/vault/fetched.json"),
    (
        VAULT,
        "its report has a terminal's orders",
        "printf '{\"error\":\"\\\\u001b[2J\\\\u001b]0;x\\\\u0007\"}' > /run/quietcore/vault/report.json",
    ),
    (FETCH, "an update's progress is a pipe", "mkfifo /run/quietcore/fetch/progress.json"),
    (
        FETCH,
        "an update's progress is sparse and large",
        "truncate -s 1T /run/quietcore/fetch/progress.json",
    ),
    (
        FETCH,
        "an update's progress has a terminal's orders",
        "printf '{\"stage\":\"failed\",\"version\":null,\"detail\":\"\\\\u001b[2J\\\\u001b]0;x\\\\u0007\"}' > /run/quietcore/fetch/progress.json",
    ),
    (
        TAIL,
        "what runs was read to the end",
        "for file in /rig/logs/*.out; do stem=${file##*/}; echo '0 0 done' > /rig/tail/${stem%.out}.place; done",
    ),
    (
        TAIL,
        "places are pipes",
        "for file in /rig/logs/*.out; do stem=${file##*/}; cd /rig/tail; rm -f ${stem%.out}.place; mkfifo ${stem%.out}.place; done",
    ),
    (
        TAIL,
        "output leads to root's file",
        "cd /rig/logs; for file in *.out; do ln -sf /prey/file $file; done; ln -s /prey/file x.out",
    ),
    (TAIL, "an origin of its own", "cd /rig/logs; echo '{\"container\":\"x\"}' > x.json"),
    (
        PROBE,
        "answers without an end",
        "timeout 4 hostile serve /run/quietcore/probe/probe.sock endless",
    ),
    (PROBE, "no answers", "timeout 4 hostile serve /run/quietcore/probe/probe.sock silent"),
    (
        PROBE,
        "answers that are none",
        "timeout 4 hostile serve /run/quietcore/probe/probe.sock garbage",
    ),
    (PCAP, "packets without an end", "timeout 9 hostile serve /run/quietcore/pcap/socket endless"),
    (PCAP, "no packets", "timeout 9 hostile serve /run/quietcore/pcap/socket silent"),
    (
        PCAP,
        "packets that are a terminal's orders",
        "timeout 4 hostile serve /run/quietcore/pcap/socket garbage",
    ),
    (API, "connections without an end", "timeout 20 hostile flood /rig/agent.sock 100"),
];

/// Tries of the API's process at the agent's socket: none may be done.
pub const CALLS: &[&str] = &[
    r#"{"method":"control","kill":true,"drain":false}"#,
    r#"{"who":"adam","role":"admin","request":{"method":"control","kill":true,"drain":false}}"#,
    r#"{"unsigned":{"who":"adam","request":{"method":"control","kill":true,"drain":false}}}"#,
    r#"{"unsigned":{"who":"root","request":{"method":"control","kill":false,"drain":true}}}"#,
    r#"{"unsigned":{"who":"adam","request":{"method":"apply","compose":"services: {}"}}}"#,
    r#"{"unsigned":{"who":"adam","request":{"method":"reboot","holding":true}}}"#,
    r#"{"unsigned":{"who":"adam","request":{"method":"set-secret","name":"quietcore.api","secret":"eA=="}}}"#,
    r#"{"unsigned":{"who":"adam","request":{"method":"load-image","archive":"/etc/shadow"}}}"#,
    r#"{"unsigned":{"who":"adam","request":{"method":"update","url":"http://127.0.0.1/"}}}"#,
    r#"{"unsigned":{"who":"adam","request":{"method":"audit","count":100}}}"#,
    r#"{"unsigned":{"who":"adam","request":{"method":"limits","changes":{"position_shares":1}}}}"#,
    r#"{"unsigned":{"who":"adam","request":{"method":"remove-image","name":"test/lines:1"}}}"#,
    r#"{"signed":{"certificates":[],"method":"POST","authority":"vm:9443","target":"/v1/engine/kill","body":"","nonce":"0.1","signature":""}}"#,
    r#"{"signed":{"certificates":["AA=="],"method":"POST","authority":"vm:9443","target":"/v1/engine/kill","body":"","nonce":"0.1","signature":"AA=="}}"#,
];

/// Tries of every user at what is root's own: they print nothing if they fail.
pub const ROOTS_OWN: &[&str] = &[
    "kill -9 $AGENT",
    "cat /rig/state/compose.yaml /rig/state/audit.jsonl /rig/credentials/quietcore.vault",
    "ls /run/private; echo x > /prey/file; echo x > /rig/state/x; echo x > /rig/logs/x.out",
    "echo '{\"method\":\"status\"}' | hostile call /rig/agent.sock | grep -v 'no answer'",
    "ctr -n quietcore containers ls",
];
