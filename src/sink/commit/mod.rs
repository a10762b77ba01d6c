//! How sinks commit each epoch exactly once: the rules, apart from the world that they rule.
//!
//! Each committer is a plain struct over a small trait. A method of such a trait is one atomic step
//! outside (a transaction, a lock, a cut, a put), and so are its pauses: nothing here has a thread,
//! a clock or a sleep of its own.
//!
//! | module | what it holds |
//! |---|---|
//! | [`table`] | rows and their epoch in one guarded transaction |

pub mod table;
