//! A container's program for tests, static, made by rustc alone: writes numbered lines, as many and
//! as fast as it is told, then waits to be ended.
//!
//! lines PREFIX COUNT PAUSE_MICROS: each tenth line goes to standard error; after each thousand it
//! rests. `lines fail` ends at once, `lines hungry` takes memory until it is killed, `lines
//! terminal` answers what is typed, `lines flip DIRECTORY` turns a directory in there into a link
//! to /etc and back, `lines visit DIRECTORY` leaves a file there.

use std::io::{IsTerminal, Write};
use std::time::Duration;

fn main() {
    let words: Vec<String> = std::env::args().collect();
    let prefix = words.get(1).map_or("line", String::as_str);
    if prefix == "fail" {
        std::process::exit(4);
    }
    if prefix == "hungry" {
        let mut taken = Vec::new();
        loop {
            taken.push(vec![1_u8; 1 << 20]);
        }
    }
    if let ("flip" | "visit", Some(directory)) = (prefix, words.get(2)) {
        flip_or_visit(prefix, std::path::Path::new(directory));
    }
    if prefix == "terminal" {
        terminal();
    }
    let number = |at: usize| words.get(at).and_then(|word| word.parse::<u64>().ok()).unwrap_or(0);
    let (count, pause) = (number(2), Duration::from_micros(number(3)));
    // A container's lines come in whole writes, as a logger's do.
    let mut out = std::io::LineWriter::new(std::io::stdout().lock());
    let mut err = std::io::stderr().lock();
    for line in 0..count {
        let text = format!("{prefix} {line:010} of a container that has much to say\n");
        let written = if line % 10 == 9 { err.write_all(text.as_bytes()) } else { out.write_all(text.as_bytes()) };
        if written.is_err() {
            std::process::exit(3);
        }
        if line % 1000 == 999 && !pause.is_zero() {
            std::thread::sleep(pause);
        }
    }
    loop {
        std::thread::sleep(Duration::from_secs(3600));
    }
}

fn flip_or_visit(which: &str, directory: &std::path::Path) -> ! {
    if which == "visit" {
        let _ = std::fs::write(directory.join("visited"), "");
        std::process::exit(0);
    }
    let (at, aside) = (directory.join("sub"), directory.join("aside"));
    let _ = std::fs::create_dir(&at);
    loop {
        let _ = std::fs::rename(&at, &aside);
        let _ = std::os::unix::fs::symlink("/etc", &at);
        std::thread::sleep(Duration::from_millis(3));
        let _ = std::fs::remove_file(&at);
        let _ = std::fs::rename(&aside, &at);
        std::thread::sleep(Duration::from_millis(3));
    }
}

/// `size` has it say how large its terminal is, `end N` end with N; everything else it repeats.
fn terminal() -> ! {
    println!("all terminals: {}", std::io::stdin().is_terminal() && std::io::stderr().is_terminal());
    for line in std::io::stdin().lines() {
        let line = line.unwrap_or_default();
        match line.strip_prefix("end ") {
            Some(status) => std::process::exit(status.parse().unwrap_or(1)),
            None if line == "size" => println!("size {:?}", size()),
            None => println!("heard {line}"),
        }
    }
    std::process::exit(2)
}

/// Rows and columns.
fn size() -> (u16, u16) {
    unsafe extern "C" {
        fn ioctl(file: i32, request: u64, size: *mut [u16; 4]) -> i32;
    }
    const TIOCGWINSZ: u64 = 0x5413;
    let mut size = [0; 4];
    // SAFETY: the kernel fills a winsize, which is four numbers of 16 bits.
    unsafe { ioctl(0, TIOCGWINSZ, &mut size) };
    (size[0], size[1])
}
