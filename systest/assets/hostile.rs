//! A worker's program for tests, static, made by rustc alone: does to the agent's sockets and files
//! what a program that somebody took over would do.
//!
//! hostile call SOCKET            each line of input to a connection of its own; prints the answers
//! hostile flood SOCKET COUNT     so many connections, held, each with a line that does not end
//! hostile serve SOCKET FORM      answers who connects: endless, silent or garbage
//! hostile flip PATH TARGET       a directory, then a link to TARGET, and back, as fast as it can

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::symlink;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

fn call(socket: &str) {
    for line in std::io::stdin().lines().map_while(Result::ok) {
        let mut answer = String::new();
        let asked = UnixStream::connect(socket).and_then(|mut stream| {
            stream.set_read_timeout(Some(Duration::from_secs(10)))?;
            writeln!(stream, "{line}")?;
            BufReader::new(stream.take(1 << 16)).read_line(&mut answer)
        });
        match asked {
            Ok(_) => println!("{}", answer.trim_end()),
            Err(error) => println!("no answer: {error}"),
        }
    }
}

fn flood(socket: &str, count: usize) {
    let chunk = vec![b' '; 1 << 20];
    let mut held = Vec::new();
    for _ in 0..count {
        let Ok(mut stream) = UnixStream::connect(socket) else { continue };
        let _ = stream.set_write_timeout(Some(Duration::from_millis(200)));
        for _ in 0..16 {
            if stream.write_all(&chunk).is_err() {
                break;
            }
        }
        held.push(stream);
    }
    std::thread::sleep(Duration::from_secs(3));
}

fn serve(socket: &str, form: &str) {
    let _ = std::fs::remove_file(socket);
    let listener = UnixListener::bind(socket).expect("its own directory");
    for mut stream in listener.incoming().flatten() {
        let form = form.to_owned();
        std::thread::spawn(move || match form.as_str() {
            "endless" => while stream.write_all(&[b'['; 1 << 16]).is_ok() {},
            "silent" => std::thread::sleep(Duration::from_secs(3600)),
            _ => drop(stream.write_all(b"\xff\x00{\"wrong\":[[\x1b[2J")),
        });
    }
}

fn flip(path: &str, target: &str) {
    loop {
        let _ = std::fs::create_dir(path);
        std::thread::yield_now();
        let _ = std::fs::remove_dir_all(path);
        let _ = symlink(target, path);
        std::thread::yield_now();
        let _ = std::fs::remove_file(path);
    }
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["call", socket] => call(socket),
        ["flood", socket, count] => flood(socket, count.parse().expect("a number")),
        ["serve", socket, form] => serve(socket, form),
        ["flip", path, target] => flip(path, target),
        _ => std::process::exit(2),
    }
}
