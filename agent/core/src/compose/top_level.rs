//! Top-level keys of a compose file that services use: named volumes, configurations, secrets. Each
//! service gets a copy of what it uses, so that it can be parsed alone. Source: Compose
//! Specification, "Configs", "Secrets", "Volumes".

use crate::compose::remote_volumes::Remote;
use crate::compose::scalar::Scalar;
use crate::compose::schema::{RawDriver, RawGrant, RawGrantLong, RawVolumeLong};
use crate::compose::{ComposeError, VOLUMES, binds};
use crate::limits::CONFIG_LEN_MAX;
use serde::Serialize;
use serde_yaml_ng::{Mapping, Value};

/// A sealed secret of this host, as a file below `/run/secrets`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Secret {
    /// Name of the sealed secret on this host.
    pub source: String,
    /// The file's name.
    pub file: String,
    /// Whose it is, and who may read it.
    pub access: Access,
}

/// A text of the compose file, as a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Config {
    /// Where, in the container.
    pub target: String,
    /// Whose it is, and who may read it.
    pub access: Access,
    /// Text of the file, up to 64 KiB.
    pub content: String,
}

/// Whose a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Access {
    /// User number of the owner; without one the container's user.
    pub uid: Option<u32>,
    /// Group number of the owner; without one the container's group.
    pub gid: Option<u32>,
    /// Permission bits (chmod(2)).
    pub mode: u32,
}

/// Puts what a service uses of the file's top into it.
///
/// # Errors
/// It uses what is not there.
pub fn put_in(
    name: &str,
    service: &mut Value,
    top: &Mapping,
    left: &mut u64,
) -> Result<(), ComposeError> {
    let refuse = |key: &'static str, value: &str, remedy: String| ComposeError::Value {
        service: name.into(),
        key,
        value: value.into(),
        remedy,
    };
    let find = |kind: &str, name: &str| top.get(kind).and_then(|all| all.get(name)).cloned();
    for volume in list(service, "volumes") {
        let name = match &*volume {
            Value::String(text) => text.split(':').next().unwrap_or_default().to_owned(),
            long if long.get("driver").is_some() => {
                let remedy = "driver_opts at the file's top, under volumes".into();
                return Err(refuse("volumes", "driver", remedy));
            }
            long => source_of(long),
        };
        if !is_name(&name) {
            continue;
        }
        let Some(said) = find("volumes", &name) else {
            let remedy = format!("write it down: volumes: {{{name}: {{}}}}");
            return Err(refuse("volumes", &name, remedy));
        };
        put_in_volume(volume, &name, said);
    }
    for secret in list(service, "secrets") {
        let source = source_of(secret);
        if source.starts_with("quietcore.") {
            return Err(refuse("secrets", &source, "another name: that is this host's own".into()));
        }
        if find("secrets", &source).is_none() {
            let remedy = format!("write it down: secrets: {{{source}: {{external: true}}}}");
            return Err(refuse("secrets", &source, remedy));
        }
    }
    for config in list(service, "configs") {
        let source = source_of(config);
        let content = find("configs", &source).and_then(|it| it.get("content").cloned());
        let Some(content) = content else {
            let remedy = format!("write it down: configs: {{{source}: {{content: ...}}}}");
            return Err(refuse("configs", &source, remedy));
        };
        if config.get("content").is_some() {
            return Err(refuse("configs", &source, "its content stands at the top".into()));
        }
        // Each that uses it has all of it.
        let len = content.as_str().map_or(0, str::len) as u64;
        let Some(rest) = left.checked_sub(len) else {
            let remedy = "fewer of them: a file has 4 MiB once they are put in".into();
            return Err(refuse("configs", &source, remedy));
        };
        *left = rest;
        if !config.is_mapping() {
            *config = Value::Mapping([("source".into(), source.into())].into_iter().collect());
        }
        config.as_mapping_mut().expect("just made one").insert("content".into(), content);
    }
    Ok(())
}

/// A named volume as what it is: a directory of this host, or what the top says of one on another
/// host.
fn put_in_volume(volume: &mut Value, name: &str, said: Value) {
    let opts = said.get("driver_opts").and_then(Value::as_mapping);
    let is_remote = opts.is_some_and(|opts| !opts.is_empty());
    if let Value::String(text) = volume {
        if !is_remote {
            *volume = Value::from(format!("{VOLUMES}{text}"));
            return;
        }
        // What is no volume is told where the key is read.
        let Ok(RawVolumeLong { source, target, read_only, .. }) = binds::short(text) else {
            return;
        };
        let pairs: [(Value, Value); 3] = [
            ("source".into(), source.into()),
            ("target".into(), target.into()),
            ("read_only".into(), read_only.into()),
        ];
        let long = pairs.into_iter().collect();
        *volume = Value::Mapping(long);
    }
    let Value::Mapping(long) = volume else { return };
    match is_remote {
        true => long.insert("driver".into(), said),
        false => long.insert("source".into(), format!("{VOLUMES}{name}").into()),
    };
}

/// Checks that top-level volumes, secrets and configurations use only supported keys.
///
/// # Errors
/// It says something else.
pub fn check_top(top: &Mapping) -> Result<(), ComposeError> {
    let refuse = |what: String| Err(ComposeError::Schema(what));
    for (kind, all) in top {
        let kind = kind.as_str().unwrap_or("?");
        let Value::Mapping(all) = all else {
            return refuse(format!("{kind}: a mapping of names is expected"));
        };
        for (name, said) in all {
            let name = name.as_str().unwrap_or("?");
            let keys: Vec<&str> = said
                .as_mapping()
                .into_iter()
                .flat_map(Mapping::keys)
                .filter_map(Value::as_str)
                .collect();
            if kind == "volumes" && !keys.is_empty() {
                let read = serde_yaml_ng::from_value::<RawDriver>(said.clone());
                let read = read.map_err(|error| error.to_string());
                if let Err(why) = read.and_then(|driver| Remote::of(&driver)) {
                    return refuse(format!("volumes.{name}: write {why}"));
                }
            }
            let good = is_name(name)
                && match kind {
                    "volumes" => true,
                    "secrets" => {
                        keys == ["external"]
                            && said.get("external").and_then(Value::as_bool) == Some(true)
                    }
                    _ => {
                        let content = said.get("content").and_then(Value::as_str);
                        keys == ["content"]
                            && content.is_some_and(|text| text.len() as u64 <= CONFIG_LEN_MAX)
                    }
                };
            if !good {
                let remedy = match kind {
                    "volumes" => "{}: a directory of this host under /var/lib/quietcore/volumes",
                    "secrets" => "{external: true}, and bring it with qctl secret set NAME",
                    _ => "{content: TEXT} or, for qctl apply, {file: PATH}, up to 64 KiB",
                };
                return refuse(format!("{kind}.{name}: write {remedy}"));
            }
        }
    }
    Ok(())
}

/// The secrets of a service as it is written.
///
/// # Errors
/// Value and remedy.
pub fn secrets(raw: &[RawGrant]) -> Result<Vec<Secret>, (String, String)> {
    let one = |raw: &RawGrant| {
        let raw = long(raw);
        let file = raw.target.clone().unwrap_or_else(|| raw.source.clone());
        let file = file.strip_prefix("/run/secrets/").unwrap_or(&file).to_owned();
        if !is_name(&file) {
            return Err((file, "a file's name: secrets are below /run/secrets".to_owned()));
        }
        Ok(Secret { file, access: access(&raw, 0o400)?, source: raw.source })
    };
    raw.iter().map(one).collect()
}

/// The configurations of a service as it is written.
///
/// # Errors
/// Value and remedy.
pub fn configs(raw: &[RawGrant]) -> Result<Vec<Config>, (String, String)> {
    let one = |raw: &RawGrant| {
        let raw = long(raw);
        let target = raw.target.clone().unwrap_or_else(|| format!("/{}", raw.source));
        if !target.starts_with('/') || target.contains("..") {
            return Err((target, "a path from the root".to_owned()));
        }
        let access = access(&raw, 0o444)?;
        Ok(Config { target, access, content: raw.content.unwrap_or_default() })
    };
    raw.iter().map(one).collect()
}

fn access(raw: &RawGrantLong, mode: u32) -> Result<Access, (String, String)> {
    let number = |text: &Option<Scalar>| match text.as_ref().map(Scalar::text) {
        None => Ok(None),
        Some(text) => text.parse().map(Some).map_err(|_| (text, "a number".to_owned())),
    };
    let mode = match &raw.mode {
        None => Ok(mode),
        // YAML 1.2 reads 0o440 as the number that it is, and 0440 as a text.
        Some(Scalar::Integer(number)) => u32::try_from(*number).map_err(|_| number.to_string()),
        Some(other) => {
            let text = other.text();
            u32::from_str_radix(text.trim_start_matches("0o"), 8).map_err(|_| text)
        }
    };
    let mode = mode.map_err(|text| (text, "octal digits, as in \"0440\"".to_owned()))?;
    if mode > 0o777 {
        return Err((format!("{mode:o}"), "octal digits, as in \"0440\"".into()));
    }
    Ok(Access { uid: number(&raw.uid)?, gid: number(&raw.gid)?, mode })
}

fn long(raw: &RawGrant) -> RawGrantLong {
    match raw {
        RawGrant::Long(long) => long.clone(),
        RawGrant::Name(name) => RawGrantLong { source: name.clone(), ..RawGrantLong::default() },
    }
}

fn list<'a>(service: &'a mut Value, key: &str) -> std::slice::IterMut<'a, Value> {
    let list = service.get_mut(key).and_then(Value::as_sequence_mut);
    list.map_or_else(Default::default, |list| list.iter_mut())
}

fn source_of(grant: &Value) -> String {
    let source = grant.as_str().or_else(|| grant.get("source").and_then(Value::as_str));
    source.unwrap_or_default().to_owned()
}

/// Whether a text can be the name of a secret, a configuration or a volume.
pub fn is_name(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    (1..=63).contains(&text.len()) && !text.starts_with('.') && text.bytes().all(plain)
}
