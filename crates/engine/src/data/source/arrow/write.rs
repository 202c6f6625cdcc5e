//! Writing an Arrow stream of list columns: what encoded rows are kept in.

use std::io::{self, Write};

/// A column of lists of integers.
pub(in crate::data) struct Column<'a> {
    /// Its name.
    pub name: &'static str,
    /// Bytes of one integer: 1, 4 or 8.
    pub bytes: usize,
    /// The list of a row.
    pub list: &'a dyn Fn(usize) -> Vec<i64>,
}

/// Rows that one record batch holds, as `datasets` does it.
const BATCH: usize = 1000;
/// Buffers begin at multiples of this.
const ALIGNMENT: usize = 64;

/// Writes `rows` rows of these columns as an Arrow stream.
///
/// # Errors
/// What `out` returns.
pub(in crate::data) fn write(
    out: &mut impl Write,
    rows: usize,
    columns: &[Column<'_>],
) -> io::Result<()> {
    let fields = columns.iter().map(field).collect();
    let schema = Node::Table(vec![(1, Node::Tables(fields))]);
    message(out, 1, schema, &[])?;
    for from in (0..rows).step_by(BATCH) {
        let count = BATCH.min(rows - from);
        let mut body = Vec::new();
        let (mut nodes, mut buffers) = (Vec::new(), Vec::new());
        for column in columns {
            let mut offsets = vec![0_i32];
            let mut data = Vec::new();
            for row in from..from + count {
                let list = (column.list)(row);
                for value in &list {
                    data.extend_from_slice(&value.to_le_bytes()[..column.bytes]);
                }
                let end = data.len() / column.bytes;
                offsets.push(i32::try_from(end).map_err(io::Error::other)?);
            }
            nodes.push([count as i64, 0]);
            nodes.push([(data.len() / column.bytes) as i64, 0]);
            let offsets: Vec<u8> = offsets.iter().flat_map(|o| o.to_le_bytes()).collect();
            // No validity bitmaps: nothing is null.
            for buffer in [&[][..], &offsets, &[], &data] {
                buffers.push([body.len() as i64, buffer.len() as i64]);
                body.extend_from_slice(buffer);
                body.resize(body.len().next_multiple_of(ALIGNMENT), 0);
            }
        }
        let batch = Node::Table(vec![
            (0, Node::I64(count as i64)),
            (1, Node::Pairs(nodes)),
            (2, Node::Pairs(buffers)),
        ]);
        message(out, 3, batch, &body)?;
    }
    out.write_all(&[0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0])
}

/// A nullable list of nullable integers.
fn field(column: &Column<'_>) -> Node {
    let int = Node::Table(vec![(0, Node::I32(8 * column.bytes as i32)), (1, Node::U8(1))]);
    let named = |name: &str, kind: u8, details: Node, children: Vec<Node>| {
        Node::Table(vec![
            (0, Node::Text(name.to_string())),
            (1, Node::U8(1)),
            (2, Node::U8(kind)),
            (3, details),
            (5, Node::Tables(children)),
        ])
    };
    let item = named("item", 2, int, Vec::new());
    named(column.name, 12, Node::Table(Vec::new()), vec![item])
}

fn message(out: &mut impl Write, kind: u8, header: Node, body: &[u8]) -> io::Result<()> {
    let message = Node::Table(vec![
        (0, Node::I16(4)),
        (1, Node::U8(kind)),
        (2, header),
        (3, Node::I64(body.len() as i64)),
    ]);
    let mut bytes = vec![0; 4];
    let at = message.write(&mut bytes);
    bytes[..4].copy_from_slice(&(at as u32).to_le_bytes());
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    out.write_all(&[0xff; 4])?;
    out.write_all(&(bytes.len() as u32).to_le_bytes())?;
    out.write_all(&bytes)?;
    out.write_all(body)
}

/// A flatbuffer value.
enum Node {
    U8(u8),
    I16(i16),
    I32(i32),
    I64(i64),
    Text(String),
    /// Fields by their index.
    Table(Vec<(usize, Node)>),
    Tables(Vec<Node>),
    /// A vector of structs of two numbers.
    Pairs(Vec<[i64; 2]>),
}

impl Node {
    /// The bytes that stand in a table; four of an offset where the value stands elsewhere.
    fn inline(&self) -> Vec<u8> {
        match self {
            Self::U8(v) => vec![*v],
            Self::I16(v) => v.to_le_bytes().to_vec(),
            Self::I32(v) => v.to_le_bytes().to_vec(),
            Self::I64(v) => v.to_le_bytes().to_vec(),
            _ => vec![0; 4],
        }
    }

    fn is_inline(&self) -> bool {
        matches!(self, Self::U8(_) | Self::I16(_) | Self::I32(_) | Self::I64(_))
    }

    /// Appends a value that stands for itself and returns where it begins.
    fn write(&self, out: &mut Vec<u8>) -> usize {
        match self {
            Self::Table(fields) => write_table(fields, out),
            Self::Text(text) => {
                out.resize(out.len().next_multiple_of(4), 0);
                let at = out.len();
                out.extend_from_slice(&(text.len() as u32).to_le_bytes());
                out.extend_from_slice(text.as_bytes());
                out.push(0);
                at
            }
            Self::Tables(items) => {
                out.resize(out.len().next_multiple_of(4), 0);
                let at = out.len();
                out.extend_from_slice(&(items.len() as u32).to_le_bytes());
                out.resize(out.len() + 4 * items.len(), 0);
                for (i, item) in items.iter().enumerate() {
                    point(out, at + 4 + 4 * i, item);
                }
                at
            }
            Self::Pairs(pairs) => {
                // The elements, not the count before them, begin at a multiple of eight.
                out.resize((out.len() + 4).next_multiple_of(8) - 4, 0);
                let at = out.len();
                out.extend_from_slice(&(pairs.len() as u32).to_le_bytes());
                out.extend(pairs.iter().flatten().flat_map(|v| v.to_le_bytes()));
                at
            }
            _ => out.len(),
        }
    }
}

/// Writes `target` behind everything and its distance into the four bytes at `at`.
fn point(out: &mut Vec<u8>, at: usize, target: &Node) {
    let place = target.write(out);
    out[at..at + 4].copy_from_slice(&((place - at) as u32).to_le_bytes());
}

fn write_table(fields: &[(usize, Node)], out: &mut Vec<u8>) -> usize {
    let slots = fields.iter().map(|(i, _)| i + 1).max().unwrap_or(0);
    // The largest first, so that each lies at a multiple of its size; the table's own four bytes
    // come before all.
    let mut by_size: Vec<&(usize, Node)> = fields.iter().collect();
    by_size.sort_by_key(|(_, node)| std::cmp::Reverse(node.inline().len()));
    let mut inline = vec![0; 4];
    let mut places = vec![0_u16; slots];
    for (i, node) in &by_size {
        let bytes = node.inline();
        inline.resize(inline.len().next_multiple_of(bytes.len()), 0);
        places[*i] = inline.len() as u16;
        inline.extend_from_slice(&bytes);
    }
    out.resize(out.len().next_multiple_of(8), 0);
    let vtable = out.len();
    out.extend_from_slice(&(4 + 2 * slots as u16).to_le_bytes());
    out.extend_from_slice(&(inline.len() as u16).to_le_bytes());
    out.extend(places.iter().flat_map(|place| place.to_le_bytes()));
    out.resize(out.len().next_multiple_of(8), 0);
    let at = out.len();
    inline[..4].copy_from_slice(&((at - vtable) as i32).to_le_bytes());
    out.extend_from_slice(&inline);
    for (i, node) in fields.iter().filter(|(_, node)| !node.is_inline()) {
        point(out, at + usize::from(places[*i]), node);
    }
    at
}
