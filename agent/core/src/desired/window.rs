//! Times of the week, in UTC. `Mon-Fri 22:00-05:00` begins on these days and may end on the next;
//! `Sat,Sun` is the whole of both; `03:00-04:00` is each day.

use anyhow::{Context, Result, ensure};

const DAYS: [&str; 7] = ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"];
const DAY: u64 = 24 * 60;

/// Window of the week, in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Window {
    /// Monday is bit 0.
    days: u8,
    /// Minutes of the day.
    from: u64,
    minutes: u64,
}

/// When a host may change what it runs: always, if there are none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Windows {
    windows: Vec<Window>,
    text: String,
}

impl Windows {
    /// Parses windows such as `Mon-Fri 22:00-05:00`, `Sat,Sun` or `03:00-04:00`.
    ///
    /// # Errors
    /// Which one is none, and how it is written.
    pub fn parse(texts: &[String]) -> Result<Self> {
        let windows = texts.iter().map(|text| {
            Window::parse(text).with_context(|| {
                format!("windows: {text:?}: write \"Mon-Fri 22:00-05:00\", \"Sat,Sun\" or \"03:00-04:00\", in UTC")
            })
        });
        Ok(Self { windows: windows.collect::<Result<_>>()?, text: texts.join("; ") })
    }

    /// As they were written.
    pub fn text(&self) -> String {
        match self.windows.is_empty() {
            true => "always".into(),
            false => format!("{} UTC", self.text),
        }
    }

    /// Whether one is open at this minute of the Unix epoch.
    fn is_open(&self, minute: u64) -> bool {
        self.windows.is_empty() || self.windows.iter().any(|window| window.is_open(minute))
    }

    /// When the next one opens after this minute of the Unix epoch, as `Mon 22:00 UTC`; nothing if
    /// one is open.
    pub fn next_after(&self, now: u64) -> Option<String> {
        let next = (now..now + 8 * DAY).find(|minute| self.is_open(*minute))?;
        let (hour, minute) = (next % DAY / 60, next % 60);
        (next > now).then(|| format!("{} {hour:02}:{minute:02} UTC", DAYS[day_of(next)]))
    }
}

/// The day of the week; the epoch began on a Thursday.
fn day_of(minute: u64) -> usize {
    ((minute / DAY + 3) % 7) as usize
}

impl Window {
    fn parse(text: &str) -> Result<Self> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let (days, hours) = match words[..] {
            [hours] if hours.contains(':') => (0x7f, Some(hours)),
            [days] => (parse_days(days)?, None),
            [days, hours] => (parse_days(days)?, Some(hours)),
            _ => anyhow::bail!("days and hours are expected"),
        };
        let Some(hours) = hours else { return Ok(Self { days, from: 0, minutes: DAY }) };
        let (from, until) = hours.split_once('-').context("FROM-UNTIL is expected")?;
        let (from, until) = (parse_time(from)?, parse_time(until)?);
        ensure!(from != until, "it would never be open");
        Ok(Self { days, from, minutes: (until + DAY - from) % DAY })
    }

    fn is_open(&self, minute: u64) -> bool {
        // It may have begun yesterday.
        [0, DAY].into_iter().filter(|back| minute >= *back).any(|back| {
            let begins = (minute - back) / DAY * DAY + self.from;
            let is_day = self.days >> day_of(begins) & 1 == 1;
            is_day && (begins..begins + self.minutes).contains(&minute)
        })
    }
}

fn parse_days(text: &str) -> Result<u8> {
    let day = |name: &str| {
        DAYS.iter().position(|day| *day == name).with_context(|| format!("{name} is no day"))
    };
    let mut days = 0;
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (day(first)?, day(last)?);
        // Sat-Mon goes over the week's end.
        for offset in 0..=(last + 7 - first) % 7 {
            days |= 1 << ((first + offset) % 7);
        }
    }
    Ok(days)
}

fn parse_time(text: &str) -> Result<u64> {
    let (hour, minute) = text.split_once(':').context("HH:MM is expected")?;
    let (hour, minute): (u64, u64) = (hour.parse()?, minute.parse()?);
    ensure!(hour < 24 && minute < 60, "{text} is no time of the day");
    Ok(hour * 60 + minute)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-11-23 was a Monday: 20,780 days after the epoch.
    fn at(day: u64, hour: u64, minute: u64) -> u64 {
        (20_780 + day) * DAY + hour * 60 + minute
    }

    fn windows(texts: &[&str]) -> Windows {
        Windows::parse(&texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn a_window_over_midnight_ends_on_the_next_day() {
        let nights = windows(&["Mon-Fri 22:00-05:00"]);
        for (minute, open) in [
            (at(0, 21, 59), false),
            (at(0, 22, 0), true),
            (at(1, 4, 59), true),
            (at(1, 5, 0), false),
            // Friday's goes on into Saturday, and Sunday has none.
            (at(5, 3, 0), true),
            (at(5, 23, 0), false),
            (at(7, 3, 0), false),
        ] {
            assert_eq!(nights.is_open(minute), open, "{minute}");
        }
    }

    #[test]
    fn days_and_hours_are_read_in_every_form() {
        let weekend = windows(&["Sat,Sun", "03:00-04:00"]);
        assert!(weekend.is_open(at(5, 0, 0)) && weekend.is_open(at(6, 23, 59)));
        assert!(weekend.is_open(at(2, 3, 30)) && !weekend.is_open(at(2, 4, 0)));
        let over = windows(&["Sat-Mon 00:00-00:01"]);
        assert!([5, 6, 7].iter().all(|day| over.is_open(at(*day, 0, 0))));
        assert!(!over.is_open(at(8, 0, 0)));
        assert!(windows(&[]).is_open(0) && windows(&[]).text() == "always");
        for bad in ["", "Mon 5", "Noday", "Mon 22:00", "Mon 24:00-01:00", "03:00-03:00", "a b c"] {
            let error = Windows::parse(&[bad.to_owned()]).unwrap_err().to_string();
            assert!(error.contains("in UTC"), "{bad}: {error}");
        }
    }

    #[test]
    fn the_next_opening_is_within_a_week_or_now() {
        let next = windows(&["Tue 00:00-00:01"]).next_after(at(0, 23, 59));
        assert_eq!(next.as_deref(), Some("Tue 00:00 UTC"));
        let next = windows(&["Mon 22:00-23:00"]).next_after(at(0, 23, 0));
        assert_eq!(next.as_deref(), Some("Mon 22:00 UTC"));
        assert_eq!(windows(&["Mon-Sun"]).next_after(7 * DAY), None);
    }
}
