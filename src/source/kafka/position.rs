//! How far a partition was read, and how far it is to be.

use crate::time::Offset;

/// The place of a reader in a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position {
    /// No record below this is still to come.
    next: u64,
    /// No record at or above this is wanted.
    end: Option<u64>,
}

/// An offset that was there before came again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Backwards;

impl Position {
    pub fn new(next: u64, end: Option<u64>) -> Self {
        Self { next, end }
    }

    pub fn next(self) -> Offset {
        Offset(self.next)
    }

    /// Whether everything that is wanted was read.
    pub fn has_ended(self) -> bool {
        self.end.is_some_and(|end| self.next >= end)
    }

    /// A record at `offset` arrives: how many offsets before it were never delivered, and
    /// whether it is wanted.
    pub fn message(&mut self, offset: i64) -> Result<(u64, bool), Backwards> {
        let offset = u64::try_from(offset).map_err(|_| Backwards)?;
        if offset < self.next {
            return Err(Backwards);
        }
        if let Some(end) = self.end.filter(|end| offset >= *end) {
            return Ok((self.skip_to(end), false));
        }
        let gap = offset - self.next;
        self.next = offset + 1;
        Ok((gap, true))
    }

    /// The client says that `offset` is the next one to be written: how many offsets before it
    /// were never delivered.
    pub fn end_of_partition(&mut self, offset: i64) -> u64 {
        let offset = u64::try_from(offset).unwrap_or(0);
        self.skip_to(self.end.map_or(offset, |end| end.min(offset)))
    }

    fn skip_to(&mut self, offset: u64) -> u64 {
        let gap = offset.saturating_sub(self.next);
        self.next += gap;
        gap
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_counted_and_offsets_never_go_back() {
        let mut position = Position::new(5, None);
        assert_eq!(position.message(5), Ok((0, true)));
        assert_eq!(position.message(9), Ok((3, true)));
        assert_eq!(position.message(9), Err(Backwards));
        assert_eq!(position.message(-1), Err(Backwards));
        assert_eq!(position.end_of_partition(12), 2);
        assert_eq!((position.next(), position.has_ended()), (Offset(12), false));
        assert_eq!(position.end_of_partition(3), 0);
    }

    #[test]
    fn the_end_is_met_by_a_later_message_by_the_event_or_at_once() {
        let mut by_message = Position::new(0, Some(10));
        assert_eq!(by_message.message(7), Ok((7, true)));
        assert!(!by_message.has_ended());
        assert_eq!(by_message.message(15), Ok((2, false)));
        assert_eq!(
            (by_message.next(), by_message.has_ended()),
            (Offset(10), true)
        );

        let mut by_event = Position::new(8, Some(10));
        assert_eq!(by_event.end_of_partition(9), 1);
        assert!(!by_event.has_ended());
        assert_eq!(by_event.end_of_partition(30), 1);
        assert_eq!((by_event.next(), by_event.has_ended()), (Offset(10), true));

        assert!(Position::new(10, Some(10)).has_ended());
        let mut by_last = Position::new(9, Some(10));
        assert_eq!(by_last.message(9), Ok((0, true)));
        assert!(by_last.has_ended());
    }
}
