//! What columns an Arrow file has.

use super::Failed;
use super::flat::Table;

/// Types nest no deeper than this.
const MAX_DEPTH: usize = 64;

/// How values lie in their buffers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Type {
    Null,
    Bool,
    /// Integers, and dates and times as the numbers that they are.
    Int {
        bytes: usize,
        signed: bool,
    },
    Float {
        bytes: usize,
    },
    /// Texts, or bytes; `wide` offsets have 64 bits.
    Bytes {
        wide: bool,
    },
    /// Texts, or bytes, of which short ones lie in the view itself.
    View,
    /// Values without a JSON form, of a fixed width.
    Fixed(usize),
    List {
        wide: bool,
    },
    FixedList(usize),
    Struct,
}

/// A column, or a part of one.
#[derive(Clone, Debug)]
pub(super) struct Field {
    pub(super) name: String,
    pub(super) kind: Type,
    pub(super) children: Vec<Field>,
    /// The dictionary's id and the type of its indices, where the values are indices.
    pub(super) dictionary: Option<(i64, Type)>,
}

impl Field {
    /// The field whose dictionary has this id, here or below.
    pub(super) fn of_dictionary(&self, id: i64) -> Option<&Self> {
        if self.dictionary.is_some_and(|(own, _)| own == id) {
            return Some(self);
        }
        self.children.iter().find_map(|child| child.of_dictionary(id))
    }

    /// The field as its dictionary holds it.
    pub(super) fn values(&self) -> Self {
        Self { dictionary: None, ..self.clone() }
    }
}

/// The fields of a schema message.
pub(super) fn fields(schema: &Table<'_>) -> Failed<Vec<Field>> {
    if schema.i16(0)? != 0 {
        return Err("its numbers are big-endian".into());
    }
    let fields = schema.vector(1, 4)?;
    (0..fields.len).map(|i| field(&fields.table(i)?, 0)).collect()
}

fn field(table: &Table<'_>, depth: usize) -> Failed<Field> {
    if depth > MAX_DEPTH {
        return Err("its types nest too deeply".into());
    }
    let name = table.text(0)?;
    let kind = kind(table, &name)?;
    let children = table.vector(5, 4)?;
    let children = (0..children.len)
        .map(|i| field(&children.table(i)?, depth + 1))
        .collect::<Failed<Vec<_>>>()?;
    let wanted = matches!(kind, Type::List { .. } | Type::FixedList(_));
    if wanted && children.len() != 1 {
        return Err(format!("column `{name}` is a list of {} types", children.len()));
    }
    let dictionary = table.table(4)?.map(|encoding| {
        let index = match encoding.table(1)? {
            Some(index) => int(&index, 0, 1)?,
            None => Type::Int { bytes: 4, signed: true },
        };
        Ok::<_, String>((encoding.i64(0)?, index))
    });
    Ok(Field { name, kind, children, dictionary: dictionary.transpose()? })
}

fn int(table: &Table<'_>, width: usize, signed: usize) -> Failed<Type> {
    match table.i32(width)? {
        bits @ (8 | 16 | 32 | 64) => {
            Ok(Type::Int { bytes: bits as usize / 8, signed: table.u8(signed)? != 0 })
        }
        bits => Err(format!("integers of {bits} bits are not known")),
    }
}

fn kind(table: &Table<'_>, name: &str) -> Failed<Type> {
    let number = table.u8(2)?;
    let details = table.table(3)?;
    let details = details.ok_or_else(|| format!("column `{name}` has no type"))?;
    let signed = |bytes| Type::Int { bytes, signed: true };
    Ok(match number {
        1 => Type::Null,
        2 => int(&details, 0, 1)?,
        3 => Type::Float { bytes: 2 << details.i16(0)?.clamp(0, 2) },
        4 | 5 => Type::Bytes { wide: false },
        6 => Type::Bool,
        7 => Type::Fixed(match details.i32(2)? {
            0 => 16,
            bits => usize::try_from(bits).unwrap_or(128) / 8,
        }),
        // A date's unit is left out where it is the millisecond.
        8 => signed(if details.i16(0)? == 0 { 4 } else { 8 }),
        9 => signed(if details.i32(1)? == 64 { 8 } else { 4 }),
        10 | 18 => signed(8),
        11 => Type::Fixed([4, 8, 16][usize::try_from(details.i16(0)?).unwrap_or(0).min(2)]),
        12 | 17 => Type::List { wide: false },
        13 => Type::Struct,
        15 => Type::Fixed(usize::try_from(details.i32(0)?).map_err(|e| e.to_string())?),
        16 => Type::FixedList(usize::try_from(details.i32(0)?).map_err(|e| e.to_string())?),
        19 | 20 => Type::Bytes { wide: true },
        21 => Type::List { wide: true },
        23 | 24 => Type::View,
        other => {
            return Err(format!(
                "column `{name}` has type number {other}, which is not supported; leave the column out"
            ));
        }
    })
}
