//! What must hold whatever comes in: nothing panics, and what is accepted lies within its grammar.
//!
//! Each property takes bytes and panics where it does not hold. `cargo fuzz` drives them without end
//! (`fuzz/targets`), and `tests/it/fuzz.rs` with a few thousand inputs from a fixed seed. The grammars are written anew
//! here, in another way than in the product: a check that repeats the code would repeat its mistakes.

mod documents;
mod ingress;
mod payloads;
mod texts;

/// A target's name, which is also its folder of seeds, and what must hold for any input.
pub(crate) type Target = (&'static str, fn(&[u8]));

/// What is fuzzed.
pub(crate) const TARGETS: [Target; 14] = [
    ("address", texts::address),
    ("crm_envelope", payloads::crm_envelope),
    ("enrichment", payloads::enrichment),
    ("handshake", payloads::handshake),
    ("ingress_body", ingress::body),
    ("ingress_path", ingress::path),
    ("merge", documents::merge),
    ("origin", texts::origin),
    ("path_template", texts::path_template),
    ("personal_data", documents::personal_data),
    ("retry_after", texts::retry_after),
    ("theme", texts::theme),
    ("timetable", texts::timetable),
    ("widget_patch", payloads::widget_patch),
];

/// Runs one target on one input.
pub(crate) fn run(target: &str, bytes: &[u8]) {
    let (_, property) = TARGETS.iter().find(|(name, _)| *name == target).expect("a target of the table");
    property(bytes);
}

/// The input as text, where it is one.
fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok()
}

/// The input as JSON, where it is that.
fn json(bytes: &[u8]) -> Option<serde_json::Value> {
    serde_json::from_slice(bytes).ok()
}

/// Whether `text` is not empty and made of these characters only.
fn made_of(text: &str, allowed: impl Fn(char) -> bool) -> bool {
    !text.is_empty() && text.chars().all(allowed)
}
