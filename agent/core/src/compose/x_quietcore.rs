//! `x-quietcore` of a service, as far as it is about what the container has: huge pages, and the
//! engine's counters.

use crate::compose::schema::RawService;
use crate::compose::{Bind, Refused, units};
use std::collections::BTreeMap;

/// The engine's counters page on the host.
const ENGINE_PAGES: &str = "/run/quietcore/engine";
/// Sizes of huge pages on x86-64, as cgroup files are named.
const SIZES: [(&str, u64); 2] = [("2MB", 2 << 20), ("1GB", 1 << 30)];

/// Bytes of huge pages that it may have, by their size.
///
/// # Errors
/// What is wrong, and the remedy.
pub fn huge_pages(raw: &RawService) -> Result<BTreeMap<String, u64>, Refused> {
    let given = raw.own.iter().flat_map(|own| &own.hugepages);
    let read = |(name, bytes): (&String, &crate::compose::scalar::Scalar)| {
        let remedy = "2MB or 1GB, and bytes that are whole pages of it, as in {2MB: 64m}";
        let refused = || ("x-quietcore.hugepages", format!("{name}: {}", bytes.text()), remedy);
        let (_, page) = SIZES.iter().find(|(size, _)| size == name).ok_or_else(refused)?;
        let bytes = units::bytes(&bytes.text()).filter(|bytes| bytes % page == 0);
        Ok((name.clone(), bytes.ok_or_else(refused)?))
    };
    given.map(read).collect()
}

/// The directory with the engine's counters, if it wants to see them.
///
/// # Errors
/// What is wrong, and the remedy.
pub fn engine_pages(raw: &RawService) -> Result<Option<Bind>, Refused> {
    let Some(target) = raw.own.as_ref().and_then(|own| own.engine_pages.as_ref()) else {
        return Ok(None);
    };
    if !target.starts_with('/') || target.contains("..") {
        return Err(("x-quietcore.engine_pages", target.clone(), "a path, as in /pages"));
    }
    Ok(Some(Bind {
        source: ENGINE_PAGES.into(),
        target: target.clone(),
        read_only: true,
        remote: None,
    }))
}

/// Images are fetched when they are missing, and at no other time.
///
/// # Errors
/// Another policy is asked for.
pub fn pull_policy(raw: &RawService) -> Result<(), Refused> {
    match raw.pull_policy.as_deref() {
        None | Some("missing" | "if_not_present") => Ok(()),
        Some(other) => {
            let remedy = "missing: an image is fetched once, and another one has another digest";
            Err(("pull_policy", other.into(), remedy))
        }
    }
}
