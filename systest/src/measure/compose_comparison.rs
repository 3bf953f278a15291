//! Compose projects as two readers have them: qctl and docker-compose.

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

/// Parses a project that `config` wrote.
///
/// # Errors
/// It is no JSON.
pub fn read_json(text: &str) -> Result<Value> {
    // Docker writes a file that could be read again, in which a dollar is two.
    Ok(serde_json::from_str(&text.replace("$$", "$"))?)
}

/// Converts a number, or Docker's text for bytes, CPUs or a duration (seconds), to a number.
fn number(value: &Value) -> Option<f64> {
    match value {
        Value::String(text) => match text.parse() {
            Ok(number) => Some(number),
            Err(_) => seconds(text),
        },
        other => other.as_f64(),
    }
}

fn seconds(text: &str) -> Option<f64> {
    let mut sum = 0.0;
    let mut rest = text;
    while !rest.is_empty() {
        let split = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at(split);
        let end = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let unit = match &tail[..end] {
            "ms" => 0.001,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        sum += number.parse::<f64>().ok()? * unit;
        rest = &tail[end..];
    }
    Some(sum)
}

/// Limits of disks, by Docker's key: what we say, what docker-compose says.
fn disk_limits(ours: &Value, theirs: &Value) -> [(&'static str, Value, Value); 4] {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    // Debian's 2.26.1 writes the names of Go's fields.
    let either = |it: &Value, small: &str, large: &str| {
        it.get(small).or(it.get(large)).cloned().unwrap_or_default()
    };
    [
        ("device_read_bps", "read_bytes"),
        ("device_write_bps", "write_bytes"),
        ("device_read_iops", "reads"),
        ("device_write_iops", "writes"),
    ]
    .map(|(key, field)| {
        let own = list(&ours["disks"]).into_iter().filter(|it| !it[field].is_null());
        let own: Vec<_> = own.map(|it| (it["disk"].clone(), number(&it[field]))).collect();
        let others = list(&theirs["blkio_config"][key]).into_iter();
        let others: Vec<_> = others
            .map(|it| (either(&it, "path", "Path"), number(&either(&it, "rate", "Rate"))))
            .collect();
        (key, json!(own), json!(others))
    })
}

/// Compares a service as two readers have it, for the keys that both know; returns the number of
/// compared values.
fn compare(ours: &Value, theirs: &Value) -> Result<u32> {
    let mut compared = 0;
    let mut same = |key: &str, ours: Value, theirs: Value| {
        compared += 1;
        ensure!(ours == theirs, "{key}: {ours} here, {theirs} for docker-compose");
        Ok(())
    };
    same("image", ours["image"].clone(), theirs["image"].clone())?;
    for key in ["command", "entrypoint", "user"] {
        same(key, ours[key].clone(), theirs[key].clone())?;
    }
    let pairs = ours["environment"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let pairs = pairs.filter_map(|pair| pair.split_once('='));
    let own: serde_json::Map<_, _> = pairs.map(|(n, v)| (n.to_owned(), json!(v))).collect();
    let given = theirs["environment"].as_object().into_iter().flatten();
    // Without a value it is not set.
    let given = given.filter(|(_, value)| !value.is_null());
    let given = given.map(|(name, value)| (name.clone(), value.clone())).collect();
    same("environment", Value::Object(own), Value::Object(given))?;
    let limits = &theirs["deploy"]["resources"]["limits"];
    let reservations = &theirs["deploy"]["resources"]["reservations"];
    let either = |one: &Value, other: &Value| number(if one.is_null() { other } else { one });
    let memory = either(&theirs["mem_limit"], &limits["memory"]);
    same("mem_limit", json!(number(&ours["memory_bytes"])), json!(memory))?;
    let reserved = either(&theirs["mem_reservation"], &reservations["memory"]);
    same("mem_reservation", json!(number(&ours["memory_min_bytes"])), json!(reserved))?;
    let cpus = number(&ours["cpu_millis"]).map(|millis| millis / 1000.0);
    same("cpus", json!(cpus), json!(either(&theirs["cpus"], &limits["cpus"])))?;
    let pids = either(&theirs["pids_limit"], &limits["pids"]);
    same("pids_limit", json!(number(&ours["pids"])), json!(pids))?;
    if let Some(cpuset) = theirs["cpuset"].as_str() {
        same("cpuset", ours["cpuset"].clone(), json!(cpuset))?;
    }
    let restart = match theirs["restart"].as_str() {
        None => "no",
        Some("unless-stopped") => "always",
        Some(other) => other,
    };
    same("restart", ours["restart"].clone(), json!(restart))?;
    if let Some(grace) = number(&theirs["stop_grace_period"]) {
        same("stop_grace_period", ours["stop_grace_seconds"].clone(), json!(grace))?;
    }
    for volume in theirs["volumes"].as_array().into_iter().flatten() {
        let mut binds = ours["binds"].as_array().into_iter().flatten();
        let bind = binds.find(|bind| bind["target"] == volume["target"]);
        let read_only = volume["read_only"].as_bool().unwrap_or(false);
        same("volumes", json!(bind.map(|bind| &bind["read_only"])), json!(read_only))?;
    }
    for (key, ours, theirs) in disk_limits(ours, theirs) {
        same(key, ours, theirs)?;
    }
    let depends = theirs["depends_on"].as_object().cloned().unwrap_or_default();
    let depends = depends.iter().map(|(name, it)| (name.clone(), it["condition"].clone()));
    same("depends_on", ours["depends_on"].clone(), Value::Object(depends.collect()))?;
    let health = &theirs["healthcheck"];
    for key in ["interval", "timeout", "start_period"] {
        if let Some(seconds) = number(&health[key]) {
            same(key, ours["health"][format!("{key}_seconds")].clone(), json!(seconds))?;
        }
    }
    Ok(compared)
}

/// Compares projects as two readers have them; returns how many services and values were the same.
///
/// # Errors
/// The first value that is not.
pub fn compare_projects(ours: &Value, theirs: &Value) -> Result<(usize, u32)> {
    let names = |value: &Value| -> Vec<String> {
        value["services"]
            .as_object()
            .map_or(Vec::new(), |services| services.keys().cloned().collect())
    };
    ensure!(names(ours) == names(theirs), "{:?} and {:?}", names(ours), names(theirs));
    let mut compared = 0;
    for service in names(ours) {
        compared += compare(&ours["services"][&service], &theirs["services"][&service])
            .with_context(|| format!("services.{service}"))?;
    }
    Ok((names(ours).len(), compared))
}

/// Checks that another meaning is told.
///
/// # Errors
/// It is not.
pub fn control() -> Result<()> {
    let one = json!({ "image": "x", "command": null, "environment": [], "restart": "no", "depends_on": {} });
    let other = json!({ "image": "y", "environment": {} });
    if compare(&one, &other).is_ok() {
        bail!("two images are told to be one");
    }
    Ok(())
}
