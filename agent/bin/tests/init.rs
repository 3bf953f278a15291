//! `quietcore-agent init`: a program before another one.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

fn init(script: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quietcore-agent"));
    command.args(["init", "--", "bash", "-c", script]);
    command
}

#[test]
fn it_ends_as_the_program_does() {
    assert_eq!(init("exit 7").status().unwrap().code(), Some(7));
    assert_eq!(init("kill -9 $$").status().unwrap().code(), Some(137));
    let missing = Command::new(env!("CARGO_BIN_EXE_quietcore-agent"))
        .args(["init", "--", "/no/such/program"])
        .output()
        .unwrap();
    assert_eq!(missing.status.code(), Some(127));
    assert!(String::from_utf8_lossy(&missing.stderr).contains("start /no/such/program"));
}

#[test]
fn signals_are_passed_on() {
    let script = "trap 'exit 9' TERM; echo ready; while :; do sleep 0.1; done";
    let mut child = init(script).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let pid = nix::unistd::Pid::from_raw(child.id() as i32);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(9));
}
