//! A web server for the guest: files of one directory, with ranges, as any server of releases has
//! them.

use anyhow::Result;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};

/// Returns a port of this machine's loopback that nobody has now.
///
/// # Errors
/// There is none.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// Serves a directory on a port of its own until the process ends; returns the port. The guest of a
/// machine with a network reaches it at 10.0.2.2.
///
/// # Errors
/// There is no port.
pub fn serve(directory: PathBuf) -> Result<u16> {
    serve_at("127.0.0.1:0", directory)
}

/// [`serve`] at an address and port.
///
/// # Errors
/// It is not to be had.
pub fn serve_at(address: &str, directory: PathBuf) -> Result<u16> {
    let listener = TcpListener::bind(address)?;
    let port = listener.local_addr()?.port();
    std::thread::spawn(move || {
        for stream in listener.incoming().filter_map(Result::ok) {
            let directory = directory.clone();
            // A client that goes away is no concern of the others.
            std::thread::spawn(move || answer(stream, &directory));
        }
    });
    Ok(port)
}

fn answer(mut stream: TcpStream, directory: &Path) -> Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?);
    loop {
        let (mut path, mut from, mut is_head) = (None, None, false);
        loop {
            let mut line = String::new();
            if lines.read_line(&mut line)? == 0 {
                return Ok(());
            }
            let line = line.trim_end();
            if line.is_empty() {
                break;
            }
            // UEFI's HTTP boot asks for a file's length first.
            is_head |= line.starts_with("HEAD /");
            let asked = line.strip_prefix("GET /").or_else(|| line.strip_prefix("HEAD /"));
            if let Some(rest) = asked {
                path = rest.split(' ').next().map(str::to_owned);
            } else if let Some(range) = line.to_ascii_lowercase().strip_prefix("range: bytes=") {
                from = range.trim_end_matches('-').parse().ok();
            }
        }
        let path = path.filter(|path| !path.contains(".."));
        let file = path.and_then(|path| File::open(directory.join(path)).ok());
        let file = file.filter(|file| file.metadata().is_ok_and(|metadata| metadata.is_file()));
        let Some(mut file) = file else {
            stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")?;
            continue;
        };
        let len = file.metadata()?.len();
        let start: u64 = from.unwrap_or(0).min(len);
        let status = match from {
            Some(_) => {
                format!("206 Partial Content\r\nContent-Range: bytes {start}-{}/{len}", len - 1)
            }
            None => "200 OK".into(),
        };
        let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n", len - start);
        stream.write_all(head.as_bytes())?;
        if !is_head {
            file.seek(SeekFrom::Start(start))?;
            std::io::copy(&mut file.take(len - start), &mut stream)?;
        }
    }
}
