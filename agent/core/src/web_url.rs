//! Syntax check of the URLs of web servers that operators give.

use anyhow::{Result, ensure};

/// Checks the address of a file or directory on a web server.
///
/// # Errors
/// What is wrong with it.
pub fn check_url(url: &str) -> Result<()> {
    let rest = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
    let plain = url.len() <= 2048 && url.bytes().all(|byte| byte.is_ascii_graphic());
    let host = rest.and_then(|rest| rest.split('/').next()).unwrap_or_default();
    // It would stand in the status, in events and in the journal.
    ensure!(
        !host.contains('@'),
        "an address with a password in it; leave out what stands before @"
    );
    ensure!(plain && !host.is_empty(), "{url:?}: write http://HOST/PATH or https://HOST/PATH");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_checked() {
        for good in ["http://10.0.2.2:8000/releases/0.2.0", "https://example.org"] {
            assert!(check_url(good).is_ok(), "{good}");
        }
        for bad in ["", "ftp://x/", "http://", "https:///x", "http://x/a b", "x", "http://a:b@x/"] {
            assert!(
                check_url(bad).unwrap_err().to_string().contains(if bad.contains('@') {
                    "password"
                } else {
                    "http://HOST"
                }),
                "{bad}"
            );
        }
    }
}
