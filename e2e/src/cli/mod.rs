//! The commands of `bed`.

pub(crate) mod demo;
pub(crate) mod demo_scene;
pub(crate) mod faults;
pub(crate) mod place;
pub(crate) mod say;
pub(crate) mod scale;
pub(crate) mod supervisor;
pub(crate) mod up;
pub(crate) mod waves;
