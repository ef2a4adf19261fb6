//! Strict reading of a JSON object that reports every problem with its pointer.
//!
//! serde stops at the first error; whoever repairs a payload wants all of them.

use serde_json::{Map, Value};

use crate::{pointer::Pointer, problem::Problems};

/// A value and its place.
pub type Placed<'v> = (&'v Value, Pointer);

/// Reads the members of one object. Members that nobody asked for are problems, and so is `null`: a member is there
/// or it is not.
pub struct Fields<'v> {
    object: Option<&'v Map<String, Value>>,
    at: Pointer,
    asked: Vec<&'static str>,
}

impl<'v> Fields<'v> {
    /// Starts to read `value`, which must be an object.
    pub fn of(value: &'v Value, at: Pointer, problems: &mut Problems) -> Self {
        let object = value.as_object();
        if object.is_none() {
            problems.add(&at, "must be an object");
        }
        Self { object, at, asked: Vec::new() }
    }

    /// The member `name`, which must be there.
    pub fn required(&mut self, name: &'static str, problems: &mut Problems) -> Option<Placed<'v>> {
        let found = self.optional(name, problems);
        if let Some(object) = self.object
            && !object.contains_key(name)
        {
            problems.add(&self.at.member(name), "is required");
        }
        found
    }

    /// The member `name`, where it is there.
    pub fn optional(&mut self, name: &'static str, problems: &mut Problems) -> Option<Placed<'v>> {
        self.asked.push(name);
        let value = self.object?.get(name)?;
        if value.is_null() {
            problems.add(&self.at.member(name), "must not be null; leave the member out instead");
            return None;
        }
        Some((value, self.at.member(name)))
    }

    /// Reports the members that nobody asked for.
    pub fn end(self, problems: &mut Problems) {
        let Some(object) = self.object else { return };
        for name in object.keys().filter(|name| !self.asked.contains(&name.as_str())) {
            problems.add(&self.at.member(name), format!("unknown member; known are {}", self.asked.join(", ")));
        }
    }
}

/// The text at a place, not empty and at most `units_max` UTF-16 units long: the documents' validator counts those.
pub fn text<'v>((value, at): Placed<'v>, units_max: usize, problems: &mut Problems) -> Option<&'v str> {
    let Some(text) = value.as_str() else {
        problems.add(&at, "must be a string");
        return None;
    };
    let units = utf16_units(text);
    if units == 0 {
        problems.add(&at, "must not be empty");
        return None;
    }
    if units > units_max {
        problems.add(&at, format!("has {units} UTF-16 units, more than {units_max}"));
        return None;
    }
    Some(text)
}

/// The items of the list at a place, at most `items_max` of them.
pub fn list<'v>((value, at): &Placed<'v>, items_max: usize, problems: &mut Problems) -> Vec<Placed<'v>> {
    let Some(items) = value.as_array() else {
        problems.add(at, "must be a list");
        return Vec::new();
    };
    if items.len() > items_max {
        problems.add(at, format!("has {} items, more than {items_max}", items.len()));
        return Vec::new();
    }
    items.iter().enumerate().map(|(index, item)| (item, at.item(index))).collect()
}

/// The length of `text` as JavaScript counts it: characters beyond U+FFFF count two.
pub fn utf16_units(text: &str) -> usize {
    text.chars().map(char::len_utf16).sum()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_problem_is_reported_with_its_place() {
        let payload = json!({"b": null, "c": 5, "d": "", "typo": 1});
        let mut problems = Problems::new();
        let mut fields = Fields::of(&payload, Pointer::root(), &mut problems);
        assert!(fields.required("a", &mut problems).is_none());
        assert!(fields.optional("b", &mut problems).is_none());
        let c = fields.required("c", &mut problems).expect("is there");
        assert!(text(c, 3, &mut problems).is_none());
        let d = fields.required("d", &mut problems).expect("is there");
        assert!(text(d, 3, &mut problems).is_none());
        fields.end(&mut problems);
        let places: Vec<&str> = problems.list().iter().map(|problem| problem.pointer.as_str()).collect();
        assert_eq!(places, ["/a", "/b", "/c", "/d", "/typo"]);
    }

    /// Covers row 103.
    #[test]
    fn lengths_count_utf16_units() {
        let mut problems = Problems::new();
        let fits = json!("😀".repeat(32));
        assert!(text((&fits, Pointer::root()), 64, &mut problems).is_some());
        let exceeds = json!("😀".repeat(33));
        assert!(text((&exceeds, Pointer::root()), 64, &mut problems).is_none());
        assert_eq!(problems.list().len(), 1);
    }
}
