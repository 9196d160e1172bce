//! From text to a scenario: names are replaced by what they stand for, and every mistake is told with its line and field.
//! Decides what a correct file is; builds nothing.
//!
//! ```text
//!   text ─ TOML ─► tree with places ─ names, presets ─► tree ─ serde ─► Scenario ─ check
//!                                          │                  │             │
//!                                          └────── line, field, sentence ◄──┘
//! ```

use std::fmt;
use std::ops::Range;

use serde::Deserialize;
use toml::Spanned;
use toml::de::{DeTable, DeValue, Deserializer};

use super::Scenario;

mod check;
mod names;

/// A mistake in a file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ScenarioError {
    /// Counted from 1.
    pub line: usize,
    /// Such as `router[home].nat.ports.step`; empty for the file itself.
    pub field: String,
    /// One sentence.
    pub message: String,
}

impl fmt::Display for ScenarioError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}", self.line)?;
        if !self.field.is_empty() {
            write!(f, ", {}", self.field)?;
        }
        write!(f, ": {}", self.message)
    }
}

pub(super) fn parse(text: &str) -> Result<Scenario, ScenarioError> {
    let original = DeTable::parse(text).map_err(|error| told(text, None, &error))?;
    let mut tree = original.clone();
    names::resolve(tree.get_mut()).map_err(|error| error.at(text, original.get_ref()))?;
    let scenario = Scenario::deserialize(Deserializer::from(tree))
        .map_err(|error| told(text, Some(original.get_ref()), &error))?;
    check::check(&scenario).map_err(|error| error.at(text, original.get_ref()))?;
    Ok(scenario)
}

/// A mistake at a place that is known by its path in the tree.
#[derive(Debug)]
struct Mistake {
    path: Vec<Step>,
    message: String,
}

/// One step into the tree.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Key(String),
    Index(usize),
}

impl Mistake {
    fn new(path: &[Step], message: impl fmt::Display) -> Self {
        Self {
            path: path.to_vec(),
            message: message.to_string(),
        }
    }

    /// With its line: that of the deepest part of the path that is in the file.
    fn at(self, text: &str, tree: &DeTable<'_>) -> ScenarioError {
        let mut place = 0..0;
        let mut here = Node::Table(tree);
        for step in &self.path {
            let Some((span, next)) = here.step(step) else {
                break;
            };
            place = span;
            here = next;
        }
        ScenarioError {
            line: line_of(text, place.start),
            field: describe(tree, &self.path),
            message: self.message,
        }
    }
}

/// A place in the tree.
#[derive(Clone, Copy)]
enum Node<'a, 'i> {
    Table(&'a DeTable<'i>),
    Value(&'a DeValue<'i>),
}

impl<'a, 'i> Node<'a, 'i> {
    fn step(self, step: &Step) -> Option<(Range<usize>, Self)> {
        let table = match self {
            Node::Table(table) => Some(table),
            Node::Value(value) => value.as_table(),
        };
        match (step, self) {
            (Step::Key(name), _) => {
                let (key, value) = table?.get_key_value(name.as_str())?;
                Some((key.span(), Node::Value(value.get_ref())))
            }
            (Step::Index(index), Node::Value(value)) => {
                let value = value.as_array()?.get(*index)?;
                Some((value.span(), Node::Value(value.get_ref())))
            }
            (Step::Index(_), Node::Table(_)) => None,
        }
    }
}

/// What serde or TOML says, with the field in which it is.
fn told(text: &str, tree: Option<&DeTable<'_>>, error: &toml::de::Error) -> ScenarioError {
    let span = error.span().unwrap_or(0..0);
    let path = tree.and_then(|tree| find(tree, &span)).unwrap_or_default();
    ScenarioError {
        line: line_of(text, span.start),
        field: tree.map_or_else(String::new, |tree| describe(tree, &path)),
        message: error.message().replace('\n', "; "),
    }
}

/// The path to the smallest part of the tree around a span.
fn find(tree: &DeTable<'_>, span: &Range<usize>) -> Option<Vec<Step>> {
    let mut best: Option<(usize, Vec<Step>)> = None;
    visit(Node::Table(tree), &mut Vec::new(), &mut |place, path| {
        let around = place.start <= span.start && span.end <= place.end;
        let size = place.end.saturating_sub(place.start);
        if around && best.as_ref().is_none_or(|(smallest, _)| size <= *smallest) {
            best = Some((size, path.to_vec()));
        }
    });
    best.map(|(_, path)| path)
}

fn visit(node: Node<'_, '_>, path: &mut Vec<Step>, found: &mut impl FnMut(Range<usize>, &[Step])) {
    let table = match node {
        Node::Table(table) => Some(table),
        Node::Value(value) => value.as_table(),
    };
    for (key, value) in table.into_iter().flatten() {
        path.push(Step::Key(key.get_ref().to_string()));
        found(key.span(), path);
        found(value.span(), path);
        visit(Node::Value(value.get_ref()), path, found);
        path.pop();
    }
    let Node::Value(DeValue::Array(items)) = node else {
        return;
    };
    for (index, item) in items.iter().enumerate() {
        path.push(Step::Index(index));
        found(item.span(), path);
        visit(Node::Value(item.get_ref()), path, found);
        path.pop();
    }
}

/// A path for people: what has a name is called by it, other things are counted from 1.
fn describe(tree: &DeTable<'_>, path: &[Step]) -> String {
    let mut text = String::new();
    let mut here = Some(Node::Table(tree));
    for step in path {
        here = here.and_then(|node| node.step(step)).map(|(_, next)| next);
        match step {
            Step::Key(key) if text.is_empty() => text.push_str(key),
            Step::Key(key) => text.extend([".", key]),
            Step::Index(index) => {
                let name = here.and_then(|node| match node {
                    Node::Value(value) => value.as_table()?.get("name")?.get_ref().as_str(),
                    Node::Table(_) => None,
                });
                let number = (index + 1).to_string();
                text.extend(["[", name.unwrap_or(&number), "]"]);
            }
        }
    }
    text
}

fn line_of(text: &str, place: usize) -> usize {
    let before = text.as_bytes().get(..place.min(text.len()));
    let breaks = before.map_or(0, |before| {
        before.iter().filter(|&&byte| byte == b'\n').count()
    });
    1 + breaks
}

fn key(name: &str) -> Step {
    Step::Key(name.to_owned())
}

/// A value without a place in the file.
fn placeless(value: DeValue<'_>) -> Spanned<DeValue<'_>> {
    Spanned::new(0..0, value)
}
