//! A question for containers' lines, as qctl asks it here and over the network.

use std::fmt::Write;

/// Query for the log of one container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// Name of the container.
    pub container: String,
    /// The last so many lines; all of them without it.
    pub lines: Option<u32>,
    /// And what it writes from now on.
    pub follow: bool,
    /// Only since then, as journalctl understands it: "10 min ago".
    pub since: Option<String>,
}

impl Query {
    /// Its words reach a command line: they are names and times.
    ///
    /// # Errors
    /// What is none.
    pub fn check(&self) -> Result<(), String> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        let name = &self.container;
        if name.is_empty() || name.starts_with('-') || !name.bytes().all(plain) {
            return Err(format!("{name:?} is no container's name"));
        }
        let time = |byte: u8| plain(byte) || b" :+@".contains(&byte);
        match self.since.as_ref().filter(|since| !since.bytes().all(time)) {
            Some(since) => Err(format!("{since:?} is no time, as in \"10 min ago\"")),
            None => Ok(()),
        }
    }

    /// Number of lines as journalctl takes it.
    pub fn lines_text(&self) -> String {
        self.lines.map_or("all".into(), |lines| lines.to_string())
    }

    /// Encodes the query as that of a URL, without the container's name.
    pub fn encode(&self) -> String {
        let mut text = format!("lines={}&follow={}", self.lines_text(), self.follow);
        if let Some(since) = &self.since {
            text.push_str("&since=");
            for byte in since.bytes() {
                match byte.is_ascii_alphanumeric() {
                    true => text.push(byte as char),
                    false => write!(text, "%{byte:02X}").expect("a string takes everything"),
                }
            }
        }
        text
    }

    /// The other way round.
    ///
    /// # Errors
    /// What is not understood.
    pub fn decode(container: &str, query: &str) -> Result<Self, String> {
        let container = container.to_owned();
        let mut read = Self { container, lines: Some(100), follow: false, since: None };
        for (name, value) in pairs(query) {
            match (name.as_str(), value.as_str()) {
                ("lines", "all") => read.lines = None,
                ("lines", value) => {
                    read.lines = Some(value.parse().map_err(|_| format!("lines={value}"))?);
                }
                ("follow", value) => read.follow = value == "true",
                ("since", value) => read.since = Some(value.into()),
                (other, _) => return Err(format!("there is no {other}")),
            }
        }
        read.check()?;
        Ok(read)
    }
}

/// Names and values of a query.
pub fn pairs(query: &str) -> Vec<(String, String)> {
    let decode = |text: &str| {
        let mut bytes = Vec::new();
        let mut rest = text.bytes();
        while let Some(byte) = rest.next() {
            bytes.push(match byte {
                b'+' => b' ',
                b'%' => {
                    let digits = [rest.next().unwrap_or(b'?'), rest.next().unwrap_or(b'?')];
                    let digits = std::str::from_utf8(&digits).unwrap_or_default().to_owned();
                    u8::from_str_radix(&digits, 16).unwrap_or(b'?')
                }
                other => other,
            });
        }
        String::from_utf8_lossy(&bytes).into_owned()
    };
    let pair = |text: &str| {
        let (name, value) = text.split_once('=').unwrap_or((text, ""));
        (decode(name), decode(value))
    };
    query.split('&').filter(|text| !text.is_empty()).map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_goes_there_and_back_and_its_words_are_plain() {
        let query = Query {
            container: "a.green".into(),
            lines: Some(7),
            follow: true,
            since: Some("10 min ago".into()),
        };
        assert_eq!(Query::decode("a.green", &query.encode()), Ok(query.clone()));
        let all = Query { lines: None, ..query };
        assert_eq!(Query::decode("a.green", &all.encode()), Ok(all));
        assert!(Query::decode("--vacuum-size=1", "").is_err());
        assert!(Query::decode("a", "since=%24%28reboot%29").is_err());
        assert!(Query::decode("a", "lines=x").is_err());
    }
}
