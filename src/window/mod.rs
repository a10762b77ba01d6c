//! Windows of event time: which records they hold, when they fire, what they emit.
//!
//! * [`WindowSpec`]: the shape (size, slide, offset) and `keep`; which windows hold a time.
//! * [`Assigner`]: gives each record its fate and folds it into partial results, on the worker
//!   that read it.
//! * [`WindowState`]: merges partial results per key and emits changes at each epoch's border.
//! * [`Entry`]: what a checkpoint keeps of it.
//! * [`settle`]: records that are held until nothing can come before them; [`Deduplicator`] keeps
//!   one of several copies, [`Lag`] gives each the one before it.
//!
//! None of this knows timely; the operator that wires it is in `flow`.

pub use self::assign::{Assigner, Partial, Slot};
pub use self::dedup::Deduplicator;
pub use self::entry::{Entry, Place};
pub use self::lag::{Lag, LagPlace, Successive};
pub use self::settle::{Admission, Placed, Settle};
pub use self::spec::{Late, WindowSpec, WindowSpecError};
pub use self::state::{Change, WindowState};

mod assign;
mod dedup;
mod entry;
mod lag;
pub mod settle;
mod spec;
mod state;
