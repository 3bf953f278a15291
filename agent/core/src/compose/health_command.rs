//! Commands of `healthcheck.test` whose whole meaning is a probe of a port: curl, wget and nc. A
//! word whose meaning is not kept is refused; nothing of a check is dropped. Sources: curl(1),
//! wget(1), nc(1), shell quoting by the crate shlex.

use crate::compose::loopback_url::http_parts;
use crate::compose::probe::{self, Probe};
use crate::compose::units;
use std::time::Duration;

/// Probe that a command is, and the time that the command itself gives its answer.
pub type Understood = (Probe, Option<Duration>);

/// Characters by which a shell does more than run one program with words.
const OPERATORS: &str = "|&;<>`$()*?~#\n";

/// Understands a line as a shell would read it.
///
/// # Errors
/// The word or character whose meaning is not kept.
pub fn of_line(line: &str) -> Result<Understood, String> {
    // What people add so that any failure is 1: the status of a probe has no other number here.
    let line = line.trim();
    let ends = ["|| exit 1", "|| false", "||exit 1"];
    let line = ends.iter().find_map(|end| line.strip_suffix(end)).unwrap_or(line);
    if let Some(operator) = operator(line) {
        return Err(format!("{operator:?} is more than one program with its words"));
    }
    let words = shlex::split(line).ok_or("a quote is not closed")?;
    of_words(&words)
}

/// First character outside of quotes that is an operator; in double quotes those that expand.
fn operator(line: &str) -> Option<char> {
    let (mut quote, mut escaped) = (None, false);
    for character in line.chars() {
        if std::mem::take(&mut escaped) {
            continue;
        }
        match (quote, character) {
            (None | Some('"'), '\\') => escaped = true,
            (None, '\'' | '"') => quote = Some(character),
            (Some(open), _) if character == open => quote = None,
            (None, _) if OPERATORS.contains(character) => return Some(character),
            (Some('"'), '$' | '`') => return Some(character),
            _ => {}
        }
    }
    None
}

/// Understands the words of a command.
///
/// # Errors
/// The word whose meaning is not kept.
pub fn of_words(words: &[impl AsRef<str>]) -> Result<Understood, String> {
    let words: Vec<&str> = words.iter().map(AsRef::as_ref).collect();
    let (program, rest) = words.split_first().ok_or("no program")?;
    match program.rsplit('/').next().unwrap_or(program) {
        "curl" => curl(rest),
        "wget" => wget(rest),
        "nc" | "ncat" | "netcat" => nc(rest),
        other => Err(format!("{other} is not run")),
    }
}

/// Options of a command line, one after the other: short ones may stand together, values behind
/// them, behind `=` or in the next word.
struct Options<'a> {
    words: std::slice::Iter<'a, &'a str>,
    /// Rest of a word of short options.
    short: &'a str,
    /// Value that stands behind `=`.
    value: Option<&'a str>,
}

enum Word<'a> {
    Short(char),
    Long(&'a str),
    Plain(&'a str),
}

impl<'a> Options<'a> {
    fn new(words: &'a [&'a str]) -> Self {
        Self { words: words.iter(), short: "", value: None }
    }

    fn next(&mut self) -> Option<Word<'a>> {
        if let Some(character) = self.short.chars().next() {
            self.short = &self.short[character.len_utf8()..];
            return Some(Word::Short(character));
        }
        let word = *self.words.next()?;
        if let Some(long) = word.strip_prefix("--").filter(|long| !long.is_empty()) {
            let (name, value) = long.split_once('=').map_or((long, None), |(n, v)| (n, Some(v)));
            self.value = value;
            return Some(Word::Long(name));
        }
        match word.strip_prefix('-').filter(|short| !short.is_empty()) {
            Some(short) => {
                self.short = short;
                self.next()
            }
            None => Some(Word::Plain(word)),
        }
    }

    fn value(&mut self, name: &str) -> Result<&'a str, String> {
        let behind = std::mem::take(&mut self.short);
        let value = self.value.take().or(Some(behind).filter(|behind| !behind.is_empty()));
        value.or_else(|| self.words.next().copied()).ok_or_else(|| format!("{name} has no value"))
    }

    fn seconds(&mut self, name: &str) -> Result<Duration, String> {
        let value = self.value(name)?;
        let time = value.parse::<f64>().ok().filter(|time| (0.1..=3600.0).contains(time));
        let time = time.map(Duration::from_secs_f64).or_else(|| units::duration(value));
        time.ok_or_else(|| format!("{name} {value}: seconds are expected"))
    }
}

/// URL as curl and wget take it: without a scheme it is `http://`.
fn probe(url: Option<&str>, any_status: bool) -> Result<Probe, String> {
    let url = url.ok_or("no URL")?;
    let url = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
    let (port, path) = http_parts(&url).map_err(|(_, url, remedy)| format!("{url}: {remedy}"))?;
    Ok(probe::Probe::Http { port, path, any_status })
}

fn plain<'a>(url: &mut Option<&'a str>, word: &'a str) -> Result<(), String> {
    match url.replace(word) {
        Some(_) => Err(format!("{word}: one URL is expected")),
        None => Ok(()),
    }
}

fn curl(words: &[&str]) -> Result<Understood, String> {
    let (mut options, mut url, mut limit, mut fails) = (Options::new(words), None, None, false);
    while let Some(word) = options.next() {
        match word {
            Word::Short('f') | Word::Long("fail" | "fail-with-body") => fails = true,
            Word::Short('s' | 'S' | 'v' | 'k' | 'L' | 'g' | 'N' | '4' | 'i')
            | Word::Long(
                "silent" | "show-error" | "verbose" | "insecure" | "location" | "globoff" | "ipv4"
                | "include" | "no-progress-meter" | "compressed" | "no-buffer",
            ) => {}
            Word::Short('o') | Word::Long("output") => {
                let file = options.value("-o")?;
                if !["/dev/null", "-"].contains(&file) {
                    return Err(format!("-o {file}: no file is written"));
                }
            }
            Word::Short('X') | Word::Long("request") => {
                let method = options.value("-X")?;
                if method != "GET" {
                    return Err(format!("-X {method}: a probe is a GET"));
                }
            }
            Word::Short('m') | Word::Long("max-time") => limit = Some(options.seconds("-m")?),
            Word::Long("connect-timeout") => {
                let time = options.seconds("--connect-timeout")?;
                limit = Some(limit.map_or(time, |limit: Duration| limit.max(time)));
            }
            Word::Plain(word) => plain(&mut url, word)?,
            Word::Short(other) => return Err(format!("curl -{other}: its meaning is not kept")),
            Word::Long(other) => return Err(format!("curl --{other}: its meaning is not kept")),
        }
    }
    // Without -f it ends with 0 whatever the status is.
    Ok((probe(url, !fails)?, limit))
}

fn wget(words: &[&str]) -> Result<Understood, String> {
    let (mut options, mut url, mut limit) = (Options::new(words), None, None);
    while let Some(word) = options.next() {
        match word {
            // GNU's -nv is two letters for one option.
            Word::Short('n') if options.short.starts_with('v') => options.short = "",
            Word::Short('q' | 'S')
            | Word::Long(
                "quiet"
                | "spider"
                | "server-response"
                | "no-verbose"
                | "no-check-certificate"
                | "no-proxy",
            ) => {}
            Word::Short('O') | Word::Long("output-document") => {
                let file = options.value("-O")?;
                if !["/dev/null", "-"].contains(&file) {
                    return Err(format!("-O {file}: no file is written"));
                }
            }
            Word::Short('t') | Word::Long("tries") => {
                let tries = options.value("--tries")?;
                if tries != "1" {
                    return Err(format!("--tries={tries}: a probe is made once; retries counts"));
                }
            }
            Word::Short('T') | Word::Long("timeout") => limit = Some(options.seconds("-T")?),
            Word::Plain(word) => plain(&mut url, word)?,
            Word::Short(other) => return Err(format!("wget -{other}: its meaning is not kept")),
            Word::Long(other) => return Err(format!("wget --{other}: its meaning is not kept")),
        }
    }
    Ok((probe(url, false)?, limit))
}

fn nc(words: &[&str]) -> Result<Understood, String> {
    let (mut options, mut plain, mut limit, mut only_connects) =
        (Options::new(words), Vec::new(), None, false);
    while let Some(word) = options.next() {
        match word {
            Word::Short('z') => only_connects = true,
            Word::Short('v' | 'n' | '4') => {}
            Word::Short('w') => limit = Some(options.seconds("-w")?),
            Word::Plain(word) => plain.push(word),
            Word::Short(other) => return Err(format!("nc -{other}: its meaning is not kept")),
            Word::Long(other) => return Err(format!("nc --{other}: its meaning is not kept")),
        }
    }
    match plain[..] {
        ["127.0.0.1" | "localhost", port] if only_connects => {
            let port = port.parse().map_err(|_| format!("{port} is no port"))?;
            Ok((probe::Probe::Tcp { port }, limit))
        }
        _ => Err("nc -z 127.0.0.1 PORT is expected".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn http(path: &str, any_status: bool, seconds: Option<u64>) -> Result<Understood, String> {
        let probe = probe::Probe::Http { port: 9100, path: path.into(), any_status };
        Ok((probe, seconds.map(Duration::from_secs)))
    }

    #[test]
    fn what_is_understood_means_what_it_says() {
        for (line, wanted) in [
            ("curl -f http://localhost:9100/up", http("/up", false, None)),
            ("curl -f \"http://localhost:9100/up\" || exit 1", http("/up", false, None)),
            ("curl -fsS 'http://127.0.0.1:9100/a?b=c&d'", http("/a?b=c&d", false, None)),
            ("curl http://localhost:9100/", http("/", true, None)),
            ("/usr/bin/curl -sf -o /dev/null -m 3 localhost:9100/up", http("/up", false, Some(3))),
            ("curl --fail --max-time=5 -X GET http://localhost:9100", http("/", false, Some(5))),
            ("wget -qO- http://localhost:9100/up || false", http("/up", false, None)),
            ("wget --spider -nv -t 1 -T 2 http://127.0.0.1:9100/", http("/", false, Some(2))),
            (
                "nc -zv -w 2 localhost 80",
                Ok((probe::Probe::Tcp { port: 80 }, Some(Duration::from_secs(2)))),
            ),
        ] {
            assert_eq!(of_line(line), wanted, "{line}");
        }
    }

    #[test]
    fn nothing_of_a_check_is_dropped() {
        for (line, wanted) in [
            ("curl -s http://localhost:9200/health | grep -q green", "'|'"),
            ("curl -f http://localhost:1/ && curl -f http://localhost:2/", "'&'"),
            ("curl -f http://localhost:1/ > /tmp/x", "'>'"),
            ("curl -f http://localhost:$PORT/", "'$'"),
            ("curl -f \"http://localhost:$PORT/\"", "'$'"),
            ("curl -f http://localhost:1/ || kill 1", "'|'"),
            ("curl -f 'http://localhost:1/", "not closed"),
            ("curl -f -X POST http://localhost:1/", "-X POST"),
            ("curl -fXPOST http://localhost:1/", "-X POST"),
            ("curl -f -H 'A: b' http://localhost:1/", "curl -H"),
            ("curl -f --retry 3 http://localhost:1/", "--retry"),
            ("curl -fI http://localhost:1/", "curl -I"),
            ("curl -f -d x http://localhost:1/", "curl -d"),
            ("curl -f http://localhost:1/ http://localhost:2/", "one URL"),
            ("curl -f http://10.0.0.1/", "loopback only"),
            ("curl -f https://localhost/", "loopback only"),
            ("curl -f", "no URL"),
            ("wget -q --post-data=x http://localhost:1/", "--post-data"),
            ("wget --tries=5 http://localhost:1/", "--tries=5"),
            ("nc localhost 1", "nc -z"),
            ("pg_isready -U postgres", "pg_isready is not run"),
            ("", "no program"),
        ] {
            let said = of_line(line).unwrap_err();
            assert!(said.contains(wanted), "{line}: {said}");
        }
    }
}
