//! What the end-to-end tests and the benchmarks share; the tests are in `tests/`, the benchmarks in `benches/`.

pub mod crowded;
pub mod disk;
pub mod measure;
pub mod terminal;
