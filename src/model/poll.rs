//! The numbers of polls.

/// The number of a poll, counted from 1 by the index for all servers together. 0 is "never".
pub type PollNumber = u64;
