//! The product's promises, one module each, against a real Postgres and the real binary.

mod lifecycle;
mod support;
