//! From columns to payloads.

use serde_json::{Map, Value};

/// Deepest path of a heading; payloads are refused long before.
const PATH_PARTS_MAX: usize = 16;

/// The type that a heading's ending names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Type {
    Text,
    Number,
    Bool,
    Json,
    List,
}

/// Where a column's cells go in the payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Column {
    path: Vec<String>,
    kind: Type,
}

/// The members that every payload gets.
#[derive(Debug, Clone, Default)]
pub(super) struct Mapping {
    constants: Vec<(Column, Value)>,
}

impl Mapping {
    /// Reads the arguments of `--set`.
    pub(super) fn parse(set: &[String]) -> Result<Self, String> {
        let constants = set
            .iter()
            .map(|pair| {
                let (path, value) = pair.split_once('=').ok_or_else(|| format!("--set {pair}: write path=value"))?;
                let column = Column::parse(path)?;
                let value = match column.kind {
                    Type::Text => serde_json::from_str(value).unwrap_or_else(|_| Value::String(value.to_owned())),
                    _ => column.value(value).map_err(|problem| format!("--set {pair}: {problem}"))?,
                };
                Ok((column, value))
            })
            .collect::<Result<_, String>>()?;
        Ok(Self { constants })
    }

    /// Adds the constants to `payload`.
    pub(super) fn complete(&self, payload: &mut Value) -> Result<(), String> {
        self.constants.iter().try_for_each(|(column, value)| column.put(payload, value.clone()))
    }
}

impl Column {
    /// Reads a heading such as `attributes.score:number`.
    pub(super) fn parse(heading: &str) -> Result<Self, String> {
        let heading = heading.trim();
        let (path, kind) = match heading.rsplit_once(':') {
            None => (heading, Type::Text),
            Some((path, "text")) => (path, Type::Text),
            Some((path, "number")) => (path, Type::Number),
            Some((path, "bool")) => (path, Type::Bool),
            Some((path, "json")) => (path, Type::Json),
            Some((path, "list")) => (path, Type::List),
            Some((_, other)) => {
                return Err(format!("heading {heading:?}: {other:?} is none of text, number, bool, json, list"));
            }
        };
        let path: Vec<String> = path.split('.').map(str::to_owned).collect();
        if path.iter().any(String::is_empty) || path.len() > PATH_PARTS_MAX {
            return Err(format!("heading {heading:?}: a path is 1 to {PATH_PARTS_MAX} names with dots between them"));
        }
        Ok(Self { path, kind })
    }

    /// Whether two headings lead to the same member, whatever type they give it.
    pub(super) fn is_same_member(&self, other: &Self) -> bool {
        self.path == other.path
    }

    /// The member's path with dots.
    pub(super) fn name(&self) -> String {
        self.path.join(".")
    }

    /// Puts a cell into the payload; an empty one is left out.
    pub(super) fn put_cell(&self, payload: &mut Value, cell: &str) -> Result<(), String> {
        if cell.is_empty() {
            return Ok(());
        }
        let value = self.value(cell).map_err(|problem| format!("{}: {problem}", self.path.join(".")))?;
        self.put(payload, value)
    }

    /// Messages name the column and never hold the cell, which may be personal data.
    fn value(&self, cell: &str) -> Result<Value, String> {
        match self.kind {
            Type::Text => Ok(Value::String(cell.to_owned())),
            Type::Number => match serde_json::from_str(cell.trim()) {
                Ok(Value::Number(number)) => Ok(Value::Number(number)),
                _ => Err("is no number".to_owned()),
            },
            Type::Bool => match cell.trim() {
                "true" => Ok(Value::Bool(true)),
                "false" => Ok(Value::Bool(false)),
                _ => Err("is neither true nor false".to_owned()),
            },
            Type::Json => {
                serde_json::from_str(cell).map_err(|error| format!("is not JSON (column {})", error.column()))
            }
            Type::List => {
                let words = cell.split(';').map(str::trim).filter(|word| !word.is_empty());
                Ok(Value::Array(words.map(|word| Value::String(word.to_owned())).collect()))
            }
        }
    }

    fn put(&self, payload: &mut Value, value: Value) -> Result<(), String> {
        let mut place = payload;
        let Some((last, parents)) = self.path.split_last() else {
            return Ok(());
        };
        for part in parents {
            let members = object(place).ok_or_else(|| self.in_the_way())?;
            place = members.entry(part.clone()).or_insert_with(|| Value::Object(Map::new()));
        }
        object(place).ok_or_else(|| self.in_the_way())?.insert(last.clone(), value);
        Ok(())
    }

    fn in_the_way(&self) -> String {
        format!("{}: one of its parents is not an object", self.path.join("."))
    }
}

fn object(value: &mut Value) -> Option<&mut Map<String, Value>> {
    value.as_object_mut()
}
