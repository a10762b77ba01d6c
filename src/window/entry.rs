//! What a checkpoint keeps of windows: entries by key, of which a later one replaces an earlier
//! one. Nothing is ever removed: what a window no longer needs is a function of the border
//! watermark, and is left out when the entries are read again.

use serde::{Deserialize, Serialize};

use crate::rows::Pane;
use crate::time::EventTime;

/// Where an entry belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Place {
    /// The pane that starts here.
    Pane(EventTime),
    /// What reached the window that ends here apart from its panes.
    Extra(EventTime),
    /// What the window that ends here has emitted and may still revise.
    Fired(EventTime),
}

/// The contents of an entry.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Entry<S> {
    /// Of [`Place::Pane`].
    Pane(S),
    /// Of [`Place::Extra`].
    Extra {
        /// On time for the window, but not in its panes.
        on_time: Option<S>,
        /// Late, but within `keep`.
        revision: Option<S>,
    },
    /// Of [`Place::Fired`].
    Fired {
        /// The aggregate.
        state: S,
        /// What was said about the last pane.
        pane: Pane,
    },
}
