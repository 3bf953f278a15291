//! Compose project resolution: variables, env files, services that extend others, profiles. `qctl`
//! resolves all of it beside the file; the host gets a self-contained file. Source: Compose
//! Specification, "Interpolation", "extends", "env_file", "Profiles".

use crate::env_file;
use crate::interpolation::interpolate;
use agent_core::compose::plain_scalars;
use anyhow::{Context, Result, bail, ensure};
use serde_yaml_ng::{Mapping, Value};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Files that extend others, one inside the other.
const EXTENDS_MAX: usize = 8;

/// Where a file is applied from.
#[derive(Debug, Clone, Default)]
pub struct Surroundings {
    /// Variables, of the environment and of `.env`.
    pub variables: BTreeMap<String, String>,
    /// Profiles that are on.
    pub profiles: Vec<String>,
}

impl Surroundings {
    /// This process's environment, before what `.env` beside the file says.
    ///
    /// # Errors
    /// `.env` is there and can't be understood.
    pub fn of(file: &Path, profiles: &[String]) -> Result<Self> {
        let beside = file.with_file_name(".env");
        let process: BTreeMap<String, String> = std::env::vars().collect();
        let mut variables = match std::fs::read_to_string(&beside) {
            Ok(text) => {
                env_file::parse(&text, &process).with_context(|| beside.display().to_string())?
            }
            Err(_) => BTreeMap::new(),
        };
        variables.extend(process);
        Ok(Self { variables, profiles: profiles.to_vec() })
    }
}

/// A file that stands for itself: the text as it is if it leaves nothing open.
///
/// # Errors
/// One line: where, what, the remedy.
pub fn resolve(file: &Path, surroundings: &Surroundings) -> Result<String> {
    let text = std::fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
    let open = ["$", "env_file", "extends", "profiles", "configs"];
    if !open.iter().any(|word| text.contains(word)) && !names_alone(&text) {
        return Ok(text);
    }
    let mut value = load(file, surroundings, 0)?;
    let services = services(&mut value).with_context(|| file.display().to_string())?;
    let mut kept = Mapping::new();
    for (name, mut service) in std::mem::take(services) {
        let shown = name.as_str().unwrap_or("?").to_owned();
        if let Value::Mapping(keys) = &mut service {
            if !is_on(keys.remove("profiles"), &surroundings.profiles) {
                continue;
            }
            let files = keys.remove("env_file");
            if files.is_some() || keys.contains_key("environment") {
                add_environment(keys, files.as_ref(), file, &surroundings.variables)
                    .with_context(|| format!("services.{shown}.env_file"))?;
            }
        }
        kept.insert(name, service);
    }
    *services = kept;
    read_configs(&mut value, file)?;
    let text = serde_yaml_ng::to_string(&value).context("write the file anew")?;
    Ok(plain_scalars::quote(&text)?)
}

/// Whether a service has a variable without a value, which is this process's.
fn names_alone(text: &str) -> bool {
    let Ok(value) = serde_yaml_ng::from_str::<Value>(text) else { return false };
    let services = value.get("services").and_then(Value::as_mapping);
    services.into_iter().flatten().any(|(_, service)| match service.get("environment") {
        Some(Value::Mapping(own)) => own.values().any(Value::is_null),
        Some(Value::Sequence(own)) => {
            own.iter().any(|entry| entry.as_str().is_some_and(|entry| !entry.contains('=')))
        }
        _ => false,
    })
}

/// Puts the files that configurations are to be read from in their place, as they are.
fn read_configs(value: &mut Value, of: &Path) -> Result<()> {
    let configs = value.get_mut("configs").and_then(Value::as_mapping_mut);
    for (name, config) in configs.into_iter().flat_map(|configs| configs.iter_mut()) {
        let Some(path) = config.get("file").and_then(Value::as_str) else { continue };
        let path = beside(of, path);
        let content = std::fs::read_to_string(&path).with_context(|| {
            format!("configs.{}.file: read {}", name.as_str().unwrap_or("?"), path.display())
        })?;
        let keys = config.as_mapping_mut().context("a mapping, since it has a key")?;
        keys.remove("file");
        keys.insert("content".into(), content.into());
    }
    Ok(())
}

/// Reads a file, with its variables put in and its services extended.
fn load(file: &Path, surroundings: &Surroundings, depth: usize) -> Result<Value> {
    let named = || file.display().to_string();
    ensure!(depth < EXTENDS_MAX, "{}: extends goes round, or deeper than {EXTENDS_MAX}", named());
    let text = std::fs::read_to_string(file).with_context(|| format!("read {}", named()))?;
    let mut value: Value = serde_yaml_ng::from_str(&text).with_context(named)?;
    value.apply_merge().with_context(named)?;
    // Written anew, a word has lost its quotes.
    plain_scalars::check(&text).with_context(named)?;
    interpolate(&mut value, &surroundings.variables, "").with_context(named)?;
    let mut names: Vec<String> = Vec::new();
    for name in services(&mut value).with_context(named)?.keys() {
        let shown = || serde_yaml_ng::to_string(name).unwrap_or_default().trim().to_owned();
        let text = name.as_str().with_context(|| {
            format!("{}: services.{}: write the name in quotes", named(), shown())
        })?;
        names.push(text.to_owned());
    }
    for name in names {
        extend(&mut value, &[&name], file, surroundings, depth)
            .with_context(|| format!("{}: services.{name}.extends", named()))?;
    }
    Ok(value)
}

fn services(value: &mut Value) -> Result<&mut Mapping> {
    let services = value.get_mut("services").and_then(Value::as_mapping_mut);
    services.context("services: a mapping of names to services is expected")
}

/// Puts what a service extends, the last of a chain in this file, below its own keys.
fn extend(
    value: &mut Value,
    chain: &[&str],
    file: &Path,
    surroundings: &Surroundings,
    depth: usize,
) -> Result<()> {
    let name = chain[chain.len() - 1];
    let service = services(value)?.get_mut(name).and_then(Value::as_mapping_mut);
    let Some(extends) = service.and_then(|service| service.remove("extends")) else {
        return Ok(());
    };
    let of = match &extends {
        Value::String(of) => of.clone(),
        other => other.get("service").and_then(Value::as_str).context("no service")?.to_owned(),
    };
    let mut other;
    let from = match extends.get("file").and_then(Value::as_str) {
        None => {
            ensure!(!chain.contains(&&*of), "{} extend each other in a circle", chain.join(", "));
            extend(value, &[chain, &[&*of]].concat(), file, surroundings, depth)?;
            services(value)?.get(&of).cloned()
        }
        Some(path) => {
            let path = beside(file, path);
            other = load(&path, surroundings, depth + 1)?;
            let mut service = services(&mut other)?.get(&of).cloned();
            if let Some(files) = service.as_mut().and_then(|it| it.get_mut("env_file")) {
                // They are beside the file that names them.
                let folder = path.parent().unwrap_or(Path::new(""));
                let folder = folder.strip_prefix(file.parent().unwrap_or(Path::new("")));
                rebase(files, folder.unwrap_or(path.parent().unwrap_or(Path::new(""))));
            }
            service
        }
    };
    let mut from = from.with_context(|| format!("there is no service {of}"))?;
    let own = services(value)?.get_mut(name).expect("it was there before");
    merge(&mut from, std::mem::take(own));
    *own = from;
    Ok(())
}

/// Puts a folder before the paths of env files.
fn rebase(files: &mut Value, folder: &Path) {
    match files {
        Value::String(path) => *path = folder.join(&*path).display().to_string(),
        Value::Sequence(all) => all.iter_mut().for_each(|one| rebase(one, folder)),
        Value::Mapping(keys) => {
            if let Some(path) = keys.get_mut("path") {
                rebase(path, folder);
            }
        }
        _ => {}
    }
}

/// Mapping of a list of `NAME=value`, for a merge with a mapping; a name alone has no value.
fn list_as_mapping(value: Value) -> Value {
    let Value::Sequence(list) = value else { return value };
    let pair = |entry: &Value| {
        let entry = entry.as_str()?;
        Some(match entry.split_once('=') {
            Some((name, value)) => (name.into(), value.into()),
            None => (entry.into(), Value::Null),
        })
    };
    match list.iter().map(pair).collect::<Option<Mapping>>() {
        Some(mapping) => Value::Mapping(mapping),
        None => Value::Sequence(list),
    }
}

fn as_list(value: Value) -> Value {
    match value {
        Value::Sequence(_) => value,
        one => Value::Sequence(vec![one]),
    }
}

/// Mappings key by key, lists one after the other, and of anything else the later (Compose
/// Specification, "Merge").
fn merge(base: &mut Value, over: Value) {
    match (base, over) {
        (Value::Mapping(base), Value::Mapping(over)) => {
            for (key, value) in over {
                let key_is = |of: &[&str]| key.as_str().is_some_and(|key| of.contains(&key));
                // Words to start with are one thing.
                let whole = key_is(&["command", "entrypoint", "test"]);
                // Either form says the same; mixed, the later counts name by name.
                let is_pairs = key_is(&["environment", "labels", "sysctls", "extra_hosts"]);
                // One of these alone is a list of one.
                let is_list = key_is(&["env_file", "tmpfs"]);
                match base.get_mut(&key) {
                    Some(old) if is_pairs => {
                        *old = list_as_mapping(std::mem::take(old));
                        merge(old, list_as_mapping(value));
                    }
                    Some(old) if is_list => {
                        *old = as_list(std::mem::take(old));
                        merge(old, as_list(value));
                    }
                    Some(old) if !whole => merge(old, value),
                    _ => drop(base.insert(key, value)),
                }
            }
        }
        (Value::Sequence(base), Value::Sequence(over)) => base.extend(over),
        (base, over) => *base = over,
    }
}

fn beside(file: &Path, path: &str) -> PathBuf {
    file.parent().unwrap_or(Path::new("")).join(path)
}

fn is_on(profiles: Option<Value>, wanted: &[String]) -> bool {
    let Some(Value::Sequence(profiles)) = profiles else { return true };
    profiles.is_empty()
        || profiles
            .iter()
            .filter_map(Value::as_str)
            .any(|profile| wanted.iter().any(|wanted| wanted == profile || wanted == "*"))
}

/// Puts the variables of env files below those that the service has itself.
fn add_environment(
    keys: &mut Mapping,
    files: Option<&Value>,
    of: &Path,
    variables: &BTreeMap<String, String>,
) -> Result<()> {
    let one = |value: &Value| match value {
        Value::String(path) => Ok((path.clone(), true)),
        other => {
            let path = other.get("path").and_then(Value::as_str).context("no path")?;
            let required = other.get("required").and_then(Value::as_bool).unwrap_or(true);
            Ok((path.to_owned(), required))
        }
    };
    let files = match files {
        None => Vec::new(),
        Some(Value::Sequence(files)) => files.iter().map(one).collect::<Result<Vec<_>>>()?,
        Some(one_file) => vec![one(one_file)?],
    };
    let mut all: BTreeMap<String, Value> = BTreeMap::new();
    for (path, required) in files {
        let path = beside(of, &path);
        match std::fs::read_to_string(&path) {
            Ok(text) => {
                let read = env_file::parse(&text, variables);
                let read = read.with_context(|| path.display().to_string())?;
                all.extend(read.into_iter().map(|(name, value)| (name, value.into())));
            }
            Err(error) if required => {
                return Err(error).with_context(|| format!("read {}", path.display()));
            }
            Err(_) => {}
        }
    }
    for (name, value) in as_variables(keys.remove("environment").unwrap_or_default(), variables)? {
        match value {
            Some(value) => all.insert(name, value),
            // Said to be this process's, which does not have it: not the file's either.
            None => all.remove(&name),
        };
    }
    let all = all.into_iter().map(|(name, value)| (Value::from(name), value));
    keys.insert("environment".into(), Value::Mapping(all.collect()));
    Ok(())
}

/// Reads `environment`, a mapping or a list. Without a value the variable is this process's; one
/// that it does not have is left out.
fn as_variables(
    value: Value,
    variables: &BTreeMap<String, String>,
) -> Result<BTreeMap<String, Option<Value>>> {
    let own = match list_as_mapping(value) {
        Value::Null => Mapping::new(),
        Value::Mapping(own) => own,
        Value::Sequence(_) => bail!("a variable is no text"),
        _ => bail!("environment is neither a mapping nor a list"),
    };
    let mut all = BTreeMap::new();
    for (name, value) in own {
        let name = name.as_str().context("a variable's name is no text")?.to_owned();
        let value = match value.is_null() {
            true => variables.get(&name).cloned().map(Value::from),
            false => Some(value),
        };
        all.insert(name, value);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables() -> BTreeMap<String, String> {
        [("A", "one"), ("EMPTY", "")].map(|(n, v)| (n.to_owned(), v.to_owned())).into()
    }

    #[test]
    fn a_file_is_made_to_stand_for_itself() {
        let temporary = tempfile::tempdir().unwrap();
        let root = temporary.path().to_path_buf();
        let write = |name: &str, text: &str| std::fs::write(root.join(name), text).unwrap();
        write(
            "base.yaml",
            "services:\n  base:\n    image: x:$TAG\n    command: [a]\n    volumes: [/run/quietcore/a:/a]\n",
        );
        write("own.env", "# why\nexport A=1\nB='two words' \nC=3 # three\n");
        write(
            "compose.yaml",
            "services:\n  a:\n    extends: {file: base.yaml, service: base}\n    command: [b]\n    volumes: [/run/quietcore/b:/b]\n    env_file: own.env\n    environment: {A: 9}\n  b:\n    extends: a\n    restart: always\n  c:\n    image: y\n    profiles: [tools]\n",
        );
        let file = root.join("compose.yaml");
        let mut surroundings = Surroundings::default();
        let error = format!("{:#}", resolve(&file, &surroundings).unwrap_err());
        assert!(error.contains("base.yaml: services.base.image: TAG is not set"), "{error}");
        surroundings.variables.insert("TAG".into(), "7".into());
        let text = resolve(&file, &surroundings).unwrap();
        let cores = abi::hostplan::CorePlan::from_kernel("0-1", "").unwrap();
        let read = agent_core::compose::parse(&text, &cores).unwrap();
        assert_eq!(read.len(), 2, "{text}");
        let (a, b) = (&read[0], &read[1]);
        assert_eq!(
            (&*a.image, a.command.clone().unwrap().join(" "), a.binds.len()),
            ("x:7", "b".into(), 2)
        );
        assert_eq!(a.environment, ["A=9", "B=two words", "C=3"]);
        assert_eq!((&b.image, b.policy.restart), (&a.image, agent_core::compose::Restart::Always));
        surroundings.profiles.push("tools".into());
        assert!(resolve(&file, &surroundings).unwrap().contains("image: y"));
        write("compose.yaml", "services:\n  a: {extends: b}\n  b: {extends: a}\n");
        let error = format!("{:#}", resolve(&file, &surroundings).unwrap_err());
        assert!(error.contains("a, b extend each other in a circle"), "{error}");
        write("conf.toml", "price = \"$5\"\n");
        write(
            "compose.yaml",
            "services:\n  a: {image: x, configs: [c]}\nconfigs: {c: {file: conf.toml}}\n",
        );
        let text = resolve(&file, &surroundings).unwrap();
        let a = agent_core::compose::parse(&text, &cores).unwrap().remove(0);
        assert_eq!(a.configs[0].content, "price = \"$5\"\n");
        // What leaves nothing open is sent as it is, and its lines are right.
        write("compose.yaml", "services: # as it is\n  a: {image: x}\n");
        assert!(resolve(&file, &surroundings).unwrap().contains("# as it is"));
    }

    #[test]
    fn an_environment_is_what_docker_compose_makes_of_it() {
        let temporary = tempfile::tempdir().unwrap();
        let root = temporary.path();
        std::fs::create_dir(root.join("common")).unwrap();
        let write = |name: &str, text: &str| std::fs::write(root.join(name), text).unwrap();
        write("common/.env.common", "WHERE=common\nTOKEN=of the file\nHOME_DIR=${A}/x\n");
        write(
            "common/base.yaml",
            "services:\n  base:\n    image: x\n    env_file: .env.common\n    environment: [B=1, C=1]\n",
        );
        write(
            "compose.yaml",
            "services:\n  a:\n    extends: {file: common/base.yaml, service: base}\n    environment: {B: 2, TOKEN: null, A: null}\n",
        );
        let file = root.join("compose.yaml");
        let surroundings = Surroundings { variables: variables(), profiles: Vec::new() };
        let text = resolve(&file, &surroundings).unwrap();
        let cores = abi::hostplan::CorePlan::from_kernel("0-1", "").unwrap();
        let a = agent_core::compose::parse(&text, &cores).unwrap().remove(0);
        // The later B counts; TOKEN is this process's, which has none; A is this process's.
        assert_eq!(a.environment, ["A=one", "B=2", "C=1", "HOME_DIR=one/x", "WHERE=common"]);
        write("compose.yaml", "services:\n  1: {image: \"x:$A\"}\n");
        let error = format!("{:#}", resolve(&file, &surroundings).unwrap_err());
        assert!(error.contains("services.1: write the name in quotes"), "{error}");
    }
}
