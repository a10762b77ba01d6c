//! How each kind of target commits every epoch exactly once: the logic alone, behind traits whose
//! methods are single steps of the world outside. No threads, clocks or clients in here.
//!
//! | module | targets |
//! |---|---|
//! | [`topic`] | topics with transactions |

pub mod topic;
