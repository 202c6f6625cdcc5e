//! `Config` itself: a member for each row that is done, or can become so by changing one word.

use indexmap::IndexMap;
use serde_json::{Map, Value};

use crate::fields::*;

macro_rules! config_struct {
    (
        { $($group:ident { $(
            $class:ident $(($why:literal))? $name:ident: $type:ty = $default:literal, $level:ident,
            $help:literal $({ $($rest:tt)* })?;
        )* })* }
        $others:tt
    ) => {
        /// A checked set of arguments, with LLaMA-Factory's defaults.
        ///
        /// A member whose row is refused always has its default.
        #[derive(Debug, Clone, PartialEq)]
        pub struct Config {
            $($(#[doc = $help] pub $name: $type,)*)*
            /// Arguments without effect that were given, as they were given.
            pub inert: IndexMap<String, Value>,
        }

        impl Default for Config {
            fn default() -> Self {
                Self {
                    $($($name: default_of($default),)*)*
                    inert: IndexMap::new(),
                }
            }
        }

        impl Config {
            /// The value of a member by its name; `None` where there is no such member.
            #[must_use]
            pub fn get(&self, name: &str) -> Option<Value> {
                match name {
                    $($(stringify!($name) => Some(self.$name.emit()),)*)*
                    _ => None,
                }
            }

            /// Sets a member by its name; the value was checked by its field.
            pub(super) fn set(&mut self, name: &str, value: &Value) -> Result<(), String> {
                match name {
                    $($(stringify!($name) => self.$name = Argument::read(value)?,)*)*
                    _ => return Err("there is no such member".to_owned()),
                }
                Ok(())
            }
        }
    };
}

rows!(config_struct);

/// A test reads every default of the table, so the fallback is never needed.
fn default_of<T: Argument>(text: &str) -> T {
    T::read(&Value::from(text)).unwrap_or_default()
}
