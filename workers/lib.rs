#![doc = include_str!("README.md")]

pub mod api;
pub mod css;
pub mod depth;
pub mod env;
pub mod fields;
pub mod freshness;
pub mod keyed_hash;
pub mod merge;
pub mod personal_data;
pub mod pointer;
pub mod problem;
pub mod safe_text;
pub mod trail;

pub use env::{Env, Storage};
