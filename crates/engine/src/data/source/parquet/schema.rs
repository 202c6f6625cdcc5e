//! The columns of a Parquet file as a tree, and what each leaf of it needs to be read.

use super::Failed;
use super::thrift::Thrift;

/// Types nest no deeper than this.
const MAX_DEPTH: usize = 32;

/// A part of a row.
#[derive(Clone, Debug)]
pub(super) enum Node {
    /// A column, by its number.
    Leaf(usize),
    Struct(Parts),
    /// There where the definition level is at least `defined`.
    Optional {
        defined: u32,
        inner: Box<Node>,
    },
    /// A list: empty below the definition level, going on at the repetition level.
    Repeated {
        defined: u32,
        repeated: u32,
        inner: Box<Node>,
    },
}

impl Node {
    /// The first column of this part.
    pub(super) fn first_leaf(&self) -> usize {
        match self {
            Self::Leaf(leaf) => *leaf,
            Self::Struct(fields) => fields.first().map_or(0, |(_, field)| field.first_leaf()),
            Self::Optional { inner, .. } | Self::Repeated { inner, .. } => inner.first_leaf(),
        }
    }
}

/// How a column's values are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Physical {
    Bool,
    Int32,
    Int64,
    Float,
    Double,
    Bytes,
    /// Of this many bytes each; without a JSON form.
    Fixed(usize),
}

/// A column.
#[derive(Clone, Debug)]
pub(super) struct Spec {
    pub(super) name: String,
    pub(super) physical: Physical,
    /// Integers are unsigned.
    pub(super) unsigned: bool,
    /// The largest definition level: there the value is.
    pub(super) max_def: u32,
    /// The largest repetition level.
    pub(super) max_rep: u32,
}

/// The named parts of a row.
type Parts = Vec<(String, Node)>;

/// The named parts of a row, and the columns in their order.
pub(super) fn read(elements: &[Thrift]) -> Failed<(Parts, Vec<Spec>)> {
    let mut walk = Walk { elements, at: 0, leaves: Vec::new() };
    let root = walk.next()?;
    let mut columns = Vec::new();
    for _ in 0..root.size(5)? {
        columns.push(walk.part(0, 0, 0)?);
    }
    Ok((columns, walk.leaves))
}

struct Walk<'a> {
    elements: &'a [Thrift],
    at: usize,
    leaves: Vec<Spec>,
}

impl<'a> Walk<'a> {
    fn next(&mut self) -> Failed<&'a Thrift> {
        let element = self.elements.get(self.at).ok_or("its schema is cut short")?;
        self.at += 1;
        Ok(element)
    }

    fn part(&mut self, def: u32, rep: u32, depth: usize) -> Failed<(String, Node)> {
        if depth > MAX_DEPTH {
            return Err("its types nest too deeply".into());
        }
        let element = self.next()?;
        let name = element.text(4);
        let repetition = element.int(3)?.unwrap_or(0);
        let (def, rep) = match repetition {
            0 => (def, rep),
            1 => (def + 1, rep),
            _ => (def + 1, rep + 1),
        };
        let children = element.int(5)?.unwrap_or(0);
        let mut node = if children > 0 {
            let mut fields = Vec::new();
            for _ in 0..children {
                fields.push(self.part(def, rep, depth + 1)?);
            }
            if is_list(element) { unwrapped(fields) } else { Node::Struct(fields) }
        } else if element.has(1) {
            self.leaves.push(spec(element, &name, def, rep)?);
            Node::Leaf(self.leaves.len() - 1)
        } else {
            return Err(format!("column `{name}` has no type"));
        };
        node = match repetition {
            0 => node,
            1 => Node::Optional { defined: def, inner: Box::new(node) },
            _ => Node::Repeated { defined: def, repeated: rep, inner: Box::new(node) },
        };
        Ok((name, node))
    }
}

/// LIST, by the older or the newer mark.
fn is_list(element: &Thrift) -> bool {
    matches!(element.int(6), Ok(Some(3))) || element.inner(10).is_some_and(|kind| kind.has(3))
}

/// A list is a group around a repeated group around the element; older writers leave the middle out.
fn unwrapped(mut fields: Parts) -> Node {
    let single = fields.len() == 1;
    match fields.pop() {
        Some((name, Node::Repeated { defined, repeated, inner })) if single => {
            let inner = match *inner {
                Node::Struct(mut items)
                    if items.len() == 1 && name != "array" && !name.ends_with("_tuple") =>
                {
                    items.pop().map_or(Node::Struct(Vec::new()), |(_, item)| item)
                }
                other => other,
            };
            Node::Repeated { defined, repeated, inner: Box::new(inner) }
        }
        last => {
            fields.extend(last);
            Node::Struct(fields)
        }
    }
}

fn spec(element: &Thrift, name: &str, max_def: u32, max_rep: u32) -> Failed<Spec> {
    let physical = match element.int(1)?.unwrap_or(-1) {
        0 => Physical::Bool,
        1 => Physical::Int32,
        2 => Physical::Int64,
        3 => Physical::Fixed(12),
        4 => Physical::Float,
        5 => Physical::Double,
        6 => Physical::Bytes,
        7 => Physical::Fixed(element.size(2)?.max(1)),
        other => return Err(format!("column `{name}` has type number {other}")),
    };
    let logical = element.inner(10).and_then(|kind| kind.inner(10));
    let unsigned = match logical {
        Some(integer) => integer.bool(2) == Some(false),
        None => matches!(element.int(6)?, Some(11..=14)),
    };
    Ok(Spec { name: name.to_string(), physical, unsigned, max_def, max_rep })
}
