//! Which replica leads, and until when. The requests are in [`crate::kubernetes::leader`].

pub mod holder;
pub mod leadership;
pub mod lease;
