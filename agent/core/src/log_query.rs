//! A question for containers' lines, as qctl asks it here and over the network.

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

    /// Returns the query of a URL that asks for this.
    pub fn encode(&self) -> String {
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.append_pair("lines", &self.lines_text());
        query.append_pair("follow", if self.follow { "true" } else { "false" });
        if let Some(since) = &self.since {
            query.append_pair("since", since);
        }
        query.finish()
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

/// Parses the query of a URL into names and values (`application/x-www-form-urlencoded`).
pub fn pairs(query: &str) -> Vec<(String, String)> {
    form_urlencoded::parse(query.as_bytes()).into_owned().collect()
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
