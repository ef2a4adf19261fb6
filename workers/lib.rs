#![doc = include_str!("README.md")]

pub mod api;
pub mod env;

pub use env::{Env, Storage};
