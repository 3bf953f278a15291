//! Parser of URLs on this host's loopback, for health checks and metrics.

/// Port and path of a URL of this host's loopback.
pub fn http_parts(url: &str) -> Result<(u16, String), (&'static str, String, String)> {
    let remedy = "http://127.0.0.1:PORT/PATH: the agent reaches this host's loopback only";
    let refused = || ("healthcheck", url.to_owned(), remedy.to_owned());
    let rest = url.strip_prefix("http://").ok_or_else(refused)?;
    let (host, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
    let (host, port) = host.split_once(':').unwrap_or((host, "80"));
    let plain = path.bytes().all(|byte| byte.is_ascii_graphic());
    match (host, port.parse()) {
        ("127.0.0.1" | "localhost", Ok(port)) if plain => Ok((port, path.into())),
        _ => Err(refused()),
    }
}
