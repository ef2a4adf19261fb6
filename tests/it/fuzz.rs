//! A bounded run of the fuzz targets: the seeds, and a few thousand inputs made of them, the same in every run.

mod mutate;
#[path = "../../fuzz/properties/mod.rs"]
mod properties;

use std::{
    collections::BTreeSet,
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
};

use rand::{SeedableRng, rngs::StdRng};

use self::mutate::Mutator;

/// Inputs for each target, besides its seeds.
const INPUTS: usize = 3_000;
/// Where the pseudo-random inputs begin. Another number is another run.
const SEED: u64 = 20_260_301;

fn home() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

/// The names of the entries of a folder, without their endings.
fn entries(folder: &str) -> BTreeSet<String> {
    let paths = fs::read_dir(home().join(folder)).expect(folder).map(|entry| entry.expect("readable").path());
    paths.map(|path| path.file_stem().expect("a name").to_string_lossy().into_owned()).collect()
}

fn seeds(target: &str) -> Vec<Vec<u8>> {
    let folder = home().join("seeds").join(target);
    let mut paths: Vec<PathBuf> =
        fs::read_dir(&folder).expect("a folder of seeds").map(|entry| entry.expect("readable").path()).collect();
    // The order of a folder is the file system's.
    paths.sort();
    paths.into_iter().map(|path| fs::read(path).expect("readable")).collect()
}

/// Runs a target on its seeds and on what becomes of them. Tells the input that breaks it.
fn drive(target: &str) {
    let seeds = seeds(target);
    let mut mutator = Mutator::new(StdRng::seed_from_u64(SEED), &seeds);
    let made = (0..INPUTS).map(|_| mutator.next());
    for input in seeds.iter().cloned().chain(made) {
        if catch_unwind(AssertUnwindSafe(|| properties::run(target, &input))).is_err() {
            panic!("{target} does not hold for {:?}: add it to fuzz/seeds/{target}", String::from_utf8_lossy(&input));
        }
    }
}

macro_rules! targets {
    ($($name:ident,)+) => {
        $(#[test]
        fn $name() {
            drive(stringify!($name));
        })+

        /// Every target is in the table, has a driver of its own for `cargo fuzz`, seeds, and a test above.
        #[test]
        fn no_target_is_left_out() {
            let tested: BTreeSet<String> = [$(stringify!($name)),+].map(str::to_owned).into();
            let table: BTreeSet<String> = properties::TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
            assert_eq!(table, tested);
            assert_eq!(entries("targets"), tested);
            assert_eq!(entries("seeds"), tested);
            let manifest: toml::Table =
                fs::read_to_string(home().join("Cargo.toml")).expect("readable").parse().expect("TOML");
            let bins = manifest["bin"].as_array().expect("a list");
            let named: BTreeSet<String> = bins.iter().map(|bin| bin["name"].as_str().expect("text").to_owned()).collect();
            assert_eq!(named, tested);
        }
    };
}

targets! {
    address, crm_envelope, enrichment, handshake, ingress_body, ingress_path, merge, origin, path_template,
    personal_data, retry_after, theme, timetable, widget_patch,
}

/// The run is worth something only while validators accept some of what is made: else the grammars are never looked at.
#[test]
fn some_inputs_are_accepted() {
    use backhaul_workers::widget_patch::{payload, settings::Rules};
    let seeds = seeds("widget_patch");
    let mut mutator = Mutator::new(StdRng::seed_from_u64(SEED), &seeds);
    let payloads = (0..INPUTS).filter_map(|_| serde_json::from_slice(&mutator.next()).ok());
    let (accepted, refused): (Vec<bool>, Vec<bool>) =
        payloads.map(|value| payload::check(&value, &Rules::default()).is_ok()).partition(|accepted| *accepted);
    assert!(accepted.len() > INPUTS / 50 && refused.len() > INPUTS / 4, "{} and {}", accepted.len(), refused.len());
}
