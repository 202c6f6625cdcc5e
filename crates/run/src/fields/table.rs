//! The macro that passes the rows on, and the table made from them.

use serde_json::{Map, Value};

use super::choices::*;
use super::{Argument, Class, Field, Group, Kind, Level};

/// Calls each group's macro in turn, which adds its rows; the last call is the one asked for.
macro_rules! rows {
    ([] $finish:ident $members:tt $others:tt) => { $finish! { $members $others } };
    ([$first:ident $($rest:ident)*] $finish:ident $members:tt $others:tt) => {
        $first! { [$($rest)*] $finish $members $others }
    };
    ($finish:ident) => {
        rows! {
            [model_rows data_rows method_rows training_rows output_rows runtime_rows]
            $finish {} {}
        }
    };
}

macro_rules! class {
    (done) => {
        Class::Done
    };
    (later) => {
        Class::Refused("not supported yet")
    };
    (idle $why:literal) => {
        Class::NoEffect($why)
    };
    (never $why:literal) => {
        Class::Refused($why)
    };
}

macro_rules! table {
    (
        { $($group:ident { $(
            $class:ident $(($why:literal))? $name:ident: $type:ty = $default:literal, $level:ident,
            $help:literal $({ $($key:ident: $value:expr),* $(,)? })?;
        )* })* }
        { $($other_group:ident { $(
            $other_class:ident ($other_why:literal) { $(
                $other_name:ident: $other_type:ty = $other_default:literal
                $({ $($other_key:ident: $other_value:expr),* $(,)? })?;
            )* }
        )* })* }
    ) => {
        /// Every argument: first those that `Config` has a member for, then the others.
        pub static FIELDS: &[Field] = &[
            $($(Field {
                name: stringify!($name),
                group: Group::$group,
                default: $default,
                class: class!($class $($why)?),
                level: Level::$level,
                help: $help,
                $($($key: $value,)*)?
                ..base::<$type>()
            },)*)*
            $($($(Field {
                name: stringify!($other_name),
                group: Group::$other_group,
                default: $other_default,
                class: class!($other_class $other_why),
                $($($other_key: $other_value,)*)?
                ..base::<$other_type>()
            },)*)*)*
        ];
    };
}

rows!(table);

/// What the type alone says of a field.
const fn base<T: Argument>() -> Field {
    Field {
        name: "",
        group: Group::Runtime,
        kind: T::KIND,
        default: "",
        class: Class::Done,
        level: Level::Advanced,
        help: "",
        choices: T::CHOICES,
        not_yet: &[],
        min: None,
        max: None,
        unit: "",
        optional: T::OPTIONAL,
        keep_empty: false,
        secret: false,
        needs: None,
        canonical: canonical::<T>,
    }
}

fn canonical<T: Argument>(value: &Value) -> Result<Value, String> {
    T::read(value).map(|read| read.emit())
}
