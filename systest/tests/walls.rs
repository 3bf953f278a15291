//! Walls between packages, layers and files as tests (docs/ARCHITECTURE.md, "Walls"), each with a
//! control that breaks it.

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use syn::visit::Visit;
use systest::harness::checkout::root;

/// Imports that each package may make among ours; what is missing is refused.
const ARROWS: &[(&str, &[&str])] = &[
    ("abi", &[]),
    ("engine-core", &["abi"]),
    ("engine", &["abi", "engine-core"]),
    ("engine-bench", &["abi", "engine", "engine-core"]),
    ("exchange", &["abi"]),
    ("simulator", &["abi", "engine", "engine-core", "exchange"]),
    ("agent-core", &["abi"]),
    ("agent-host", &["abi", "agent-core"]),
    ("agent-daemon", &["abi", "agent-core", "agent-host"]),
    ("agent-workers", &["abi", "agent-core", "agent-host"]),
    ("agent-boot", &["abi", "agent-core", "agent-host"]),
    ("agent-qctl", &["abi", "agent-core", "agent-host"]),
    (
        "agent",
        &[
            "abi",
            "agent-core",
            "agent-host",
            "agent-daemon",
            "agent-workers",
            "agent-boot",
            "agent-qctl",
        ],
    ),
    ("containers", &["abi", "engine-core"]),
    ("initrd", &[]),
    ("describe", &["abi"]),
    ("systest", &["abi"]),
];

/// Crates that reach a network or speak TLS. `hyper` is not one: containerd's gRPC goes over it, on
/// a Unix socket.
const NETWORK: &[&str] = &[
    "hyper-rustls",
    "native-tls",
    "openssl",
    "reqwest",
    "rustls",
    "tokio-rustls",
    "ureq",
    "vaultrs",
];

/// Crates that no package may have in its tree of dependencies, build dependencies included.
const FOREIGN: &[(&str, &[&str])] = &[
    ("agent-core", &["tokio", "mio", "socket2", "tracing"]),
    ("agent-host", NETWORK),
    ("agent-daemon", NETWORK),
    ("agent-qctl", &["prost-build", "tonic-build", "tonic-prost-build", "containerd-client"]),
    ("engine-core", &["tokio", "mio", "io-uring", "tracing"]),
];

/// Layers of the system tests, from the ground up: the first words of a module's path. What is not
/// listed is above all.
const LAYERS: &[(&str, usize)] = &[("harness", 0), ("measure", 1), ("bench", 2), ("stories", 2)];

fn metadata(more: &[&str]) -> Value {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--locked", "--offline"])
        .args(more)
        .current_dir(root())
        .output()
        .expect("cargo metadata");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("its JSON")
}

fn texts<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_else(|| panic!("no {key}"))
}

fn list<'a>(value: &'a Value, key: &str) -> &'a Vec<Value> {
    value[key].as_array().unwrap_or_else(|| panic!("no {key}"))
}

/// Arrows between packages that the table does not allow, and how many there are in all.
fn refused_arrows(metadata: &Value, allowed: &[(&str, &[&str])]) -> (Vec<String>, usize) {
    let allowed: BTreeMap<&str, &[&str]> = allowed.iter().copied().collect();
    let (mut refused, mut seen) = (Vec::new(), 0);
    for package in list(metadata, "packages") {
        let name = texts(package, "name");
        let Some(may) = allowed.get(name) else {
            refused.push(format!("{name} is in no row"));
            continue;
        };
        let ours = |other: &&Value| other["path"].is_string() && other["kind"] != "dev";
        for dependency in list(package, "dependencies").iter().filter(ours) {
            let other = texts(dependency, "name");
            seen += 1;
            if !may.contains(&other) {
                refused.push(format!("{name} imports {other}"));
            }
        }
    }
    (refused, seen)
}

#[test]
fn packages_import_downward_only() {
    let metadata = metadata(&["--no-deps"]);
    let (refused, seen) = refused_arrows(&metadata, ARROWS);
    assert_eq!(refused, Vec::<String>::new());
    assert!(seen > 25, "only {seen} imports between our packages were seen");
    // The control: without a row's permission its import is found.
    let broken: Vec<_> = ARROWS
        .iter()
        .map(|(name, may)| (*name, if *name == "agent-daemon" { &may[..2] } else { may }))
        .collect();
    let (refused, _) = refused_arrows(&metadata, &broken);
    assert_eq!(refused, ["agent-daemon imports agent-host"]);
}

/// Names of all crates below a package, without those for tests only.
fn tree_of(metadata: &Value, package: &str) -> BTreeSet<String> {
    let name_of: BTreeMap<&str, &str> = list(metadata, "packages")
        .iter()
        .map(|package| (texts(package, "id"), texts(package, "name")))
        .collect();
    let nodes: BTreeMap<&str, &Value> =
        list(&metadata["resolve"], "nodes").iter().map(|node| (texts(node, "id"), node)).collect();
    let start = name_of.iter().find(|(_, name)| **name == package).expect("the package").0;
    let (mut found, mut left) = (BTreeSet::new(), vec![*start]);
    while let Some(id) = left.pop() {
        for dependency in list(nodes[id], "deps") {
            let kinds = list(dependency, "dep_kinds");
            let is_for_tests = kinds.iter().all(|kind| kind["kind"] == "dev");
            let pkg = texts(dependency, "pkg");
            if !is_for_tests && found.insert(name_of[pkg].to_owned()) {
                left.push(pkg);
            }
        }
    }
    found
}

#[test]
fn privilege_shows_in_the_dependencies() {
    let metadata = metadata(&["--filter-platform", "x86_64-unknown-linux-gnu"]);
    for (package, foreign) in FOREIGN {
        let tree = tree_of(&metadata, package);
        let found: Vec<_> = foreign.iter().filter(|name| tree.contains(**name)).collect();
        assert!(found.is_empty(), "{package} depends on {found:?}");
    }
    // The controls: where these crates belong they are found.
    let workers = tree_of(&metadata, "agent-workers");
    for name in ["rustls", "ureq", "reqwest", "vaultrs", "tokio"] {
        assert!(workers.contains(name), "{name} is not seen below agent-workers");
    }
    let daemon = tree_of(&metadata, "agent-daemon");
    assert!(daemon.contains("containerd-client") && daemon.contains("tonic-prost-build"));
}

/// Runs clippy's driver over one function, with the walls of a package.
fn clippy_says(package: &str, line: &str) -> String {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("broken.rs");
    std::fs::write(&file, format!("pub fn broken() {{ {line} }}\n")).expect("a file");
    let output = Command::new("clippy-driver")
        .args(["--edition=2024", "--crate-type=lib", "--emit=metadata", "-Dclippy::style"])
        .arg("--out-dir")
        .arg(directory.path())
        .arg(&file)
        .env("CLIPPY_CONF_DIR", root().join(package))
        .env_remove("MAKEFLAGS")
        .output()
        .expect("clippy-driver");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn cores_have_neither_clock_nor_files_nor_threads() {
    for package in ["engine/core", "agent/core"] {
        for (line, name) in [
            ("let _ = std::time::Instant::now();", "std::time::Instant::now"),
            ("let _ = std::fs::read(\"x\");", "std::fs::read"),
            ("let _ = std::fs::File::open(\"x\");", "std::fs::File"),
            ("let _ = std::thread::spawn(|| ());", "std::thread::spawn"),
            ("let _ = std::net::UdpSocket::bind(\"x\");", "std::net::UdpSocket"),
        ] {
            let said = clippy_says(package, line);
            assert!(
                said.contains("disallowed") && said.contains(name),
                "{package}: {line}: {said}"
            );
        }
        assert_eq!(clippy_says(package, "let _ = 1 + 1;"), "");
    }
}

/// One crate's modules: the path of each, and the file that it is in.
struct Crate {
    modules: BTreeMap<Vec<String>, PathBuf>,
}

impl Crate {
    fn below(source: &Path) -> Self {
        let mut modules = BTreeMap::new();
        let mut left = vec![source.to_owned()];
        while let Some(directory) = left.pop() {
            for entry in std::fs::read_dir(&directory).expect("a directory of sources").flatten() {
                let path = entry.path();
                if path.is_dir() {
                    left.push(path);
                } else if path.extension().is_some_and(|extension| extension == "rs") {
                    let inside = path.strip_prefix(source).expect("below it").with_extension("");
                    let mut module: Vec<String> =
                        inside.iter().map(|part| part.to_string_lossy().into_owned()).collect();
                    let last = module.last().map(String::as_str);
                    match last {
                        Some("main") => continue,
                        Some("mod" | "lib") => drop(module.pop()),
                        _ => {}
                    }
                    modules.insert(module, path);
                }
            }
        }
        Self { modules }
    }

    /// The module that a path from the crate's root leads into.
    fn owner(&self, path: &[String]) -> Option<Vec<String>> {
        (1..=path.len())
            .rev()
            .map(|len| path[..len].to_vec())
            .find(|p| self.modules.contains_key(p))
    }

    /// Each module's imports from other modules of the crate.
    fn imports(&self) -> BTreeMap<Vec<String>, BTreeSet<Vec<String>>> {
        let mut all = BTreeMap::new();
        for (module, file) in &self.modules {
            let text = std::fs::read_to_string(file).expect("a source");
            let parsed = syn::parse_file(&text).expect("Rust");
            let mut seen = Paths { module, found: Vec::new(), children: children(&parsed) };
            seen.visit_file(&parsed);
            let owners = seen.found.iter().filter_map(|path| self.owner(path));
            all.insert(module.clone(), owners.filter(|owner| owner != module).collect());
        }
        all
    }
}

fn children(file: &syn::File) -> BTreeSet<String> {
    let child = |item: &syn::Item| match item {
        syn::Item::Mod(module) if module.content.is_none() => Some(module.ident.to_string()),
        _ => None,
    };
    file.items.iter().filter_map(child).collect()
}

fn is_test(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let is_cfg = attribute.path().is_ident("cfg");
        is_cfg && attribute.parse_args::<syn::Path>().is_ok_and(|path| path.is_ident("test"))
    })
}

/// Paths of one file that begin in its own crate, from the crate's root.
struct Paths<'a> {
    module: &'a [String],
    children: BTreeSet<String>,
    found: Vec<Vec<String>>,
}

impl Paths<'_> {
    fn take(&mut self, path: &[String]) {
        let mut from = self.module.to_vec();
        let mut rest = path;
        match rest.first().map(String::as_str) {
            Some("crate") => (from, rest) = (Vec::new(), &rest[1..]),
            Some("self") => rest = &rest[1..],
            Some("super") => {
                while rest.first().is_some_and(|first| first == "super") {
                    from.pop();
                    rest = &rest[1..];
                }
            }
            Some(first) if self.children.contains(first) => {}
            _ => return,
        }
        from.extend(rest.iter().cloned());
        self.found.push(from);
    }

    fn take_tree(&mut self, before: &[String], tree: &syn::UseTree) {
        let with = |name: &syn::Ident| [before, &[name.to_string()]].concat();
        match tree {
            syn::UseTree::Path(path) => self.take_tree(&with(&path.ident), &path.tree),
            syn::UseTree::Name(name) => self.take(&with(&name.ident)),
            syn::UseTree::Rename(name) => self.take(&with(&name.ident)),
            syn::UseTree::Glob(_) => self.take(before),
            syn::UseTree::Group(group) => {
                group.items.iter().for_each(|tree| self.take_tree(before, tree));
            }
        }
    }
}

impl<'ast> Visit<'ast> for Paths<'_> {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if !is_test(&item.attrs) {
            syn::visit::visit_item_mod(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.take_tree(&[], &item.tree);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let parts: Vec<String> = path.segments.iter().map(|part| part.ident.to_string()).collect();
        if parts.len() > 1 {
            self.take(&parts);
        }
        syn::visit::visit_path(self, path);
    }
}

/// A circle of imports among modules, if there is one. A module and those below it are one room:
/// they share what is private.
fn circle(imports: &BTreeMap<Vec<String>, BTreeSet<Vec<String>>>) -> Option<Vec<String>> {
    let above = |a: &[String], b: &[String]| b.starts_with(a) && !a.is_empty();
    let mut edges: BTreeMap<&Vec<String>, Vec<&Vec<String>>> = BTreeMap::new();
    for (from, to) in imports {
        let others = to.iter().filter(|to| !above(to, from) && !to.is_empty());
        edges.insert(from, others.collect());
    }
    let mut done = BTreeSet::new();
    let starts: Vec<&Vec<String>> = edges.keys().copied().collect();
    for start in starts {
        let mut path = vec![(start, 0)];
        while let Some((at, next)) = path.last().copied() {
            let Some(to) = edges.get(at).and_then(|to| to.get(next)).copied() else {
                done.insert(at);
                path.pop();
                continue;
            };
            path.last_mut().expect("it is there").1 += 1;
            if let Some(from) = path.iter().position(|(seen, _)| *seen == to) {
                return Some(path[from..].iter().map(|(module, _)| module.join("::")).collect());
            }
            if !done.contains(to) {
                path.push((to, 0));
            }
        }
    }
    None
}

fn sources() -> Vec<PathBuf> {
    let metadata = metadata(&["--no-deps"]);
    let manifests =
        list(&metadata, "packages").iter().map(|package| texts(package, "manifest_path"));
    let sources = manifests.map(|path| Path::new(path).with_file_name("src"));
    sources.filter(|source| source.is_dir()).collect()
}

#[test]
fn no_file_imports_another_in_a_circle() {
    let (mut modules, mut arrows) = (0, 0);
    for source in sources() {
        let imports = Crate::below(&source).imports();
        modules += imports.len();
        arrows += imports.values().map(BTreeSet::len).sum::<usize>();
        assert_eq!(circle(&imports), None, "{}", source.display());
    }
    assert!(modules > 200 && arrows > 400, "only {arrows} imports of {modules} modules were seen");
    // The control: one arrow back closes a circle.
    let mut imports = Crate::below(&root().join("engine/core/src")).imports();
    let ladder = vec!["ladder".to_owned()];
    imports.get_mut(&ladder).expect("the ladder").insert(vec!["book".to_owned()]);
    assert!(circle(&imports).is_some_and(|circle| circle.contains(&"ladder".to_owned())));
}

/// Imports of the system tests that go up, or from one side of a layer to the other.
fn upward(imports: &BTreeMap<Vec<String>, BTreeSet<Vec<String>>>) -> Vec<String> {
    let layer = |module: &[String]| {
        let first = module.first().map(String::as_str).unwrap_or_default();
        LAYERS.iter().find(|(name, _)| *name == first).map_or((3, ""), |(name, at)| (*at, *name))
    };
    let mut refused = Vec::new();
    for (from, to) in imports {
        for to in to {
            let ((low, here), (high, there)) = (layer(from), layer(to));
            if high > low || (high == low && high < 3 && here != there) {
                refused.push(format!("{} imports {}", from.join("::"), to.join("::")));
            }
        }
    }
    refused
}

#[test]
fn system_tests_import_downward_only() {
    let mut imports = Crate::below(&root().join("systest/src")).imports();
    assert_eq!(upward(&imports), Vec::<String>::new());
    let vm = vec!["harness".to_owned(), "vm".to_owned()];
    imports.get_mut(&vm).expect("the machine").insert(vec!["runner".to_owned()]);
    assert_eq!(upward(&imports), ["harness::vm imports runner"]);
}
