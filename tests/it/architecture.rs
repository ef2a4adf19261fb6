//! What docs/ARCHITECTURE.md says is absent is absent.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Crates of ours that each crate of ours is built on. What only its tests use is not counted.
fn arrows() -> BTreeMap<String, BTreeSet<String>> {
    let workspace: toml::Table = parse(&root().join("Cargo.toml"));
    let members = workspace["workspace"]["members"].as_array().expect("a list");
    let mut arrows = BTreeMap::new();
    for member in members {
        let manifest = parse(&root().join(member.as_str().expect("a path")).join("Cargo.toml"));
        let name = manifest["package"]["name"].as_str().expect("a name").to_owned();
        let mut on = BTreeSet::new();
        for section in ["dependencies", "build-dependencies"] {
            let names = manifest.get(section).and_then(toml::Value::as_table).into_iter().flat_map(toml::Table::keys);
            on.extend(names.filter(|name| name.starts_with("backhaul")).cloned());
        }
        arrows.insert(name, on);
    }
    arrows
}

fn parse(manifest: &Path) -> toml::Table {
    let text = fs::read_to_string(manifest).unwrap_or_else(|error| panic!("{}: {error}", manifest.display()));
    text.parse().unwrap_or_else(|error| panic!("{}: {error}", manifest.display()))
}

/// Every Rust file of the product below `folders`, without tests.
fn sources(folders: &[&str]) -> Vec<PathBuf> {
    let mut open: Vec<PathBuf> = folders.iter().map(|folder| root().join(folder)).collect();
    let mut files = Vec::new();
    while let Some(path) = open.pop() {
        if path.is_dir() {
            let entries = fs::read_dir(&path).expect("a readable folder");
            open.extend(entries.map(|entry| entry.expect("a readable entry").path()));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    assert!(files.len() > 20, "the sources are not where this test looks for them");
    files
}

/// The lines of a file before its unit tests, without comments, numbered.
fn code(file: &Path) -> Vec<(usize, String)> {
    let text = fs::read_to_string(file).expect("a readable file");
    text.lines()
        .enumerate()
        .map(|(n, line)| (n + 1, line.trim().to_owned()))
        .take_while(|(_, line)| line != "#[cfg(test)]")
        .filter(|(_, line)| !line.starts_with("//"))
        .collect()
}

/// Lines of the product in which one of `words` occurs, as `path:line`, except in files that `may` accepts.
fn mentions(folders: &[&str], words: &[&str], may: impl Fn(&str) -> bool) -> Vec<String> {
    let mut found = Vec::new();
    for file in sources(folders) {
        let path = file.strip_prefix(root()).expect("below the root").to_string_lossy().into_owned();
        if may(&path) || path.contains("/tests/") || path.ends_with("tests.rs") {
            continue;
        }
        for (line, text) in code(&file) {
            if words.iter().any(|word| text.contains(word)) {
                found.push(format!("{path}:{line}: {text}"));
            }
        }
    }
    found
}

#[test]
fn crates_depend_on_each_other_as_the_map_says() {
    let arrows = arrows();
    for (name, may) in [
        ("backhaul-engine", &[][..]),
        ("backhaul-outbound", &[]),
        ("backhaul-simulator", &[]),
        ("backhaul-sinks", &["backhaul-engine", "backhaul-outbound"]),
        ("backhaul-workers", &["backhaul-engine", "backhaul-outbound"]),
        ("backhaul-ingress", &["backhaul-engine", "backhaul-outbound"]),
    ] {
        let on = arrows.get(name).unwrap_or_else(|| panic!("{name} is no member of the workspace"));
        let wrong: Vec<_> = on.iter().filter(|on| !may.contains(&on.as_str())).collect();
        assert!(wrong.is_empty(), "{name} may not depend on {wrong:?}");
    }
    let at_top: Vec<_> = arrows.iter().filter(|(_, on)| on.contains("backhaul")).map(|(name, _)| name).collect();
    assert!(at_top.is_empty(), "nothing depends on the binary: {at_top:?}");
}

/// The engine knows no HTTP and no command line; the simulator no database.
#[test]
fn rooms_do_without_what_is_not_their_business() {
    for (member, without) in [
        ("src/engine", &["reqwest", "axum", "clap", "hyper", "tower-http"][..]),
        ("src/outbound", &["sqlx", "axum", "clap"]),
        ("src/simulator", &["sqlx", "clap"]),
        ("workers", &["axum", "clap", "apalis", "apalis-core"]),
    ] {
        let manifest = parse(&root().join(member).join("Cargo.toml"));
        let dependencies = manifest["dependencies"].as_table().expect("a table");
        let wrong: Vec<_> = dependencies.keys().filter(|name| without.contains(&name.as_str())).collect();
        assert!(wrong.is_empty(), "{member} may not depend on {wrong:?}");
    }
}

/// apalis drives, our tables decide: one module speaks to it. The benchmark measures it as a peer.
#[test]
fn only_one_module_names_apalis() {
    let words = ["apalis_core", "apalis_sql", "apalis_postgres", "apalis::layers", "apalis::prelude", "use apalis"];
    let found =
        mentions(&["src", "workers"], &words, |path| path == "src/engine/apalis.rs" || path.starts_with("src/bench/"));
    assert!(found.is_empty(), "{found:#?}");
}

/// Time is an argument. The wall clock is read where a clock is made, and where a person or a certificate asks for it.
#[test]
fn the_wall_clock_is_read_in_few_places() {
    let may = [
        "src/engine/clock.rs",
        "src/outbound/clock.rs",
        "src/simulator/clock.rs",
        // Certificates are valid by everybody's calendar.
        "src/simulator/certificates.rs",
        // Compares this host's clock with the database's.
        "src/commands/doctor/checks.rs",
    ];
    let found = mentions(&["src", "workers"], &["Utc::now(", "SystemTime::now(", "Local::now("], |path| {
        may.contains(&path) || path.starts_with("src/bench/")
    });
    assert!(found.is_empty(), "take the time as an argument, or from a Clock: {found:#?}");
}

/// `From` for a failure, retries, leases: nothing outside the engine writes its tables.
#[test]
fn only_the_engine_and_the_commands_know_the_queues_tables() {
    let words = ["insert into backhaul.", "update backhaul.", "delete from backhaul."];
    let found = mentions(&["src/outbound", "src/simulator", "src/sinks", "workers"], &words, |_| false);
    assert!(found.is_empty(), "{found:#?}");
}

/// Crates of ours in the binary that is built with `arguments`.
fn built_with(arguments: &[&str]) -> BTreeSet<String> {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["tree", "--locked", "--package", "backhaul", "--edges", "normal", "--prefix", "none"]).args(arguments);
    let output = cargo.current_dir(root()).output().expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("text");
    let names = text.lines().filter_map(|line| line.split_whitespace().next());
    names.filter(|name| name.starts_with("backhaul")).map(str::to_owned).collect()
}

/// What is released has no simulator in it, and nothing that is measured against; the container image is built so.
#[test]
fn the_released_worker_has_no_simulator() {
    assert!(built_with(&[]).contains("backhaul-simulator"), "the tree is not read as it is printed");
    let released = built_with(&["--no-default-features"]);
    assert!(released.contains("backhaul-workers"), "{released:?}");
    for absent in ["backhaul-simulator", "backhaul-bench"] {
        assert!(!released.contains(absent), "{released:?}");
    }
    let compose = fs::read_to_string(root().join("docker-compose.yml")).expect("readable");
    let image = compose.split("AS worker").next().expect("a part");
    assert!(
        image.contains("--no-default-features && install target/debug/backhaul /usr/local/bin/backhaul\n"),
        "the image's binary is built with the default features"
    );
}
