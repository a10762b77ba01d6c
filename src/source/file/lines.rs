//! Cuts a stream of bytes into lines, handing the read buffer itself on.
//!
//! Bytes are read into a buffer of about a chunk; its complete lines become one batch whose bytes
//! are that buffer, and only the unfinished line at its end is copied to the next buffer. A line
//! longer than [`Limits::line`] is reduced to its first [`Limits::head`] bytes, so that memory
//! stays bounded whatever the input is.

use memchr::{memchr, memchr_iter};

use crate::source::{RawBatch, RawRecord};
use crate::time::Offset;

/// How much is read, held and handed on at once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Bytes that one read asks for.
    pub chunk: usize,
    /// Records of one batch.
    pub records: usize,
    /// Bytes of the longest line that is delivered whole, without its line end.
    pub line: usize,
    /// Bytes that are delivered of a longer one.
    pub head: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            chunk: 256 << 10,
            records: 4096,
            line: 16 << 20,
            head: 64 << 10,
        }
    }
}

/// A line that has outgrown the limit and whose end is still to come.
struct LongLine {
    offset: Offset,
    head: Vec<u8>,
}

/// The lines of one stream.
pub(super) struct Lines {
    limits: Limits,
    /// All of it is initialised; `start..end` holds what was read and not handed on.
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// There is no line end in `start..searched`.
    searched: usize,
    /// The position in the stream of `buffer[start]`.
    position: u64,
    long: Option<LongLine>,
}

impl Lines {
    /// The lines of a stream of which `position` bytes are past.
    pub fn new(limits: Limits, position: u64) -> Self {
        Self {
            limits,
            buffer: Vec::new(),
            start: 0,
            end: 0,
            searched: 0,
            position,
            long: None,
        }
    }

    /// How many bytes of the stream have been read so far.
    pub fn read_to(&self) -> u64 {
        self.position + (self.end - self.start) as u64
    }

    /// Where the next bytes of the stream are to be put: never empty.
    pub fn space(&mut self) -> &mut [u8] {
        let enough = self.limits.chunk.div_ceil(2);
        if self.buffer.is_empty() {
            self.buffer = vec![0; self.limits.chunk];
        } else if self.buffer.len() - self.end < enough {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.searched -= self.start;
            self.start = 0;
            if self.buffer.len() - self.end < enough {
                let most = self.limits.line + self.limits.chunk;
                let len = (2 * self.buffer.len()).min(most).max(self.end + enough);
                self.buffer.resize(len, 0);
            }
        }
        &mut self.buffer[self.end..]
    }

    /// `count` bytes have been put into [`Lines::space`].
    pub fn filled(&mut self, count: usize) {
        self.end += count;
    }

    /// The complete lines, as many as fit into a batch. A batch of blank lines has no records.
    pub fn next_batch(&mut self) -> Option<RawBatch> {
        if self.long.is_some() {
            return self.end_long_line();
        }
        let mut batch = RawBatch::default();
        let (from, mut line) = (self.searched, self.start);
        for found in memchr_iter(b'\n', &self.buffer[from..self.end]) {
            self.add_line(&mut batch, line, from + found);
            line = from + found + 1;
            if batch.records.len() == self.limits.records {
                break;
            }
        }
        if line == self.start {
            self.searched = self.end;
            self.begin_long_line();
            return None;
        }
        Some(self.hand_out(batch, line))
    }

    /// What follows the last line end, at the end of the stream.
    pub fn finish(&mut self) -> Option<RawBatch> {
        if let Some(long) = self.long.take() {
            return Some(self.truncated(long));
        }
        let mut batch = RawBatch::default();
        let line = self.start..self.end;
        (!line.is_empty()).then(|| {
            self.add(&mut batch, line.start, line.end);
            self.hand_out(batch, line.end)
        })
    }

    fn add_line(&self, batch: &mut RawBatch, line: usize, newline: usize) {
        let carriage_return = newline > line && self.buffer[newline - 1] == b'\r';
        self.add(batch, line, newline - usize::from(carriage_return));
    }

    fn add(&self, batch: &mut RawBatch, line: usize, end: usize) {
        if self.is_blank(line, end) {
            batch.blank += 1;
            return;
        }
        let offset = Offset(self.position + (line - self.start) as u64);
        let end = if end - line > self.limits.line {
            batch.truncated.push(offset);
            line + self.limits.head
        } else {
            end
        };
        let value = Some((line as u32, end as u32));
        batch.records.push(RawRecord {
            offset,
            value,
            key: None,
            append_time: None,
        });
    }

    /// A line that is too long for the buffer is none, whatever stands in it.
    fn is_blank(&self, line: usize, end: usize) -> bool {
        end - line <= self.limits.line && self.buffer[line..end].iter().all(u8::is_ascii_whitespace)
    }

    /// Completes `batch` with the bytes up to `end`. A buffer that is mostly used up goes with
    /// the batch; of any other only the used part is copied, so that short batches are small.
    fn hand_out(&mut self, mut batch: RawBatch, end: usize) -> RawBatch {
        let used = end - self.start;
        self.position += used as u64;
        batch.next_offset = Offset(self.position);
        if 2 * used >= self.buffer.len() {
            let rest = self.end - end;
            let mut next = vec![0; self.limits.chunk.max(2 * rest)];
            next[..rest].copy_from_slice(&self.buffer[end..self.end]);
            batch.bytes = std::mem::replace(&mut self.buffer, next);
            batch.bytes.truncate(end);
            (self.start, self.end) = (0, rest);
        } else {
            batch.bytes = self.buffer[self.start..end].to_vec();
            let moved = self.start as u32;
            for (from, to) in batch.records.iter_mut().filter_map(|r| r.value.as_mut()) {
                *from -= moved;
                *to -= moved;
            }
            self.start = end;
        }
        self.searched = self.start;
        batch
    }

    fn begin_long_line(&mut self) {
        // One more byte is allowed for: it may be the `\r` of a line end.
        if self.end - self.start <= self.limits.line + 1 {
            return;
        }
        let head = self.buffer[self.start..][..self.limits.head].to_vec();
        self.long = Some(LongLine {
            offset: Offset(self.position),
            head,
        });
        self.buffer = Vec::new();
        self.position += (self.end - self.start) as u64;
        (self.start, self.end, self.searched) = (0, 0, 0);
    }

    /// Drops bytes up to the line end. The record waits for it, because the position after the
    /// record is not known earlier.
    fn end_long_line(&mut self) -> Option<RawBatch> {
        let rest = &self.buffer[self.start..self.end];
        let (dropped, ended) = match memchr(b'\n', rest) {
            Some(newline) => (newline + 1, true),
            None => (rest.len(), false),
        };
        self.start += dropped;
        self.searched = self.start;
        self.position += dropped as u64;
        let long = if ended { self.long.take() } else { None };
        long.map(|long| self.truncated(long))
    }

    fn truncated(&self, long: LongLine) -> RawBatch {
        let value = Some((0, long.head.len() as u32));
        let record = RawRecord {
            offset: long.offset,
            value,
            key: None,
            append_time: None,
        };
        RawBatch {
            bytes: long.head,
            records: vec![record],
            next_offset: Offset(self.position),
            truncated: vec![long.offset],
            ..RawBatch::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Line = (u64, Vec<u8>, bool);

    /// What was read: lines, blank ones, and the position after them.
    #[derive(Debug, Default, PartialEq)]
    struct Taken {
        lines: Vec<Line>,
        blank: u64,
        next: u64,
    }

    const SMALL: Limits = Limits {
        chunk: 16,
        records: 3,
        line: 40,
        head: 5,
    };

    /// The definition: split at line ends, position by position.
    fn naive(text: &[u8], from: usize, limits: Limits) -> Taken {
        let mut taken = Taken {
            next: text.len() as u64,
            ..Taken::default()
        };
        let mut start = from;
        while start < text.len() {
            let newline = text[start..].iter().position(|byte| *byte == b'\n');
            let end = newline.map_or(text.len(), |found| start + found);
            let mut line = &text[start..end];
            if newline.is_some() && line.last() == Some(&b'\r') {
                line = &line[..line.len() - 1];
            }
            let long = line.len() > limits.line;
            if !long && line.iter().all(u8::is_ascii_whitespace) {
                taken.blank += 1;
            } else {
                let kept = if long { limits.head } else { line.len() };
                let line = (start as u64, line[..kept].to_vec(), long);
                taken.lines.push(line);
            }
            start = end + 1;
        }
        taken
    }

    fn collect(batch: Option<RawBatch>, limits: Limits, taken: &mut Taken) {
        let Some(batch) = batch else { return };
        assert!(batch.records.len() <= limits.records);
        assert!(batch.next_offset.0 > taken.next, "each batch moves on");
        taken.next = batch.next_offset.0;
        taken.blank += batch.blank;
        for record in &batch.records {
            assert!(record.offset < batch.next_offset);
            let value = batch.value(record).expect("a line has a value").to_vec();
            taken.lines.push((
                record.offset.0,
                value,
                batch.truncated.contains(&record.offset),
            ));
        }
    }

    /// Reads `text` from `from` in pieces of at most `piece` bytes.
    fn read(text: &[u8], from: usize, piece: usize, limits: Limits) -> Taken {
        let mut reader = Lines::new(limits, from as u64);
        let mut taken = Taken {
            next: from as u64,
            ..Taken::default()
        };
        let mut rest = &text[from..];
        while !rest.is_empty() {
            let space = reader.space();
            let count = piece.min(space.len()).min(rest.len());
            space[..count].copy_from_slice(&rest[..count]);
            reader.filled(count);
            rest = &rest[count..];
            while let Some(batch) = reader.next_batch() {
                collect(Some(batch), limits, &mut taken);
            }
            assert_eq!(reader.read_to(), (text.len() - rest.len()) as u64);
            assert!(reader.buffer.len() <= limits.line + 2 * limits.chunk);
        }
        collect(reader.finish(), limits, &mut taken);
        taken
    }

    #[test]
    fn a_long_line_is_cut_and_the_next_one_is_whole() {
        let mut text = vec![b'x'; 1000];
        text.extend_from_slice(b"\nnext\r\n\n\r\n \t\nlast");
        let taken = read(&text, 0, 7, SMALL);
        assert_eq!(
            taken.lines,
            [
                (0, b"xxxxx".to_vec(), true),
                (1001, b"next".to_vec(), false),
                (1013, b"last".to_vec(), false),
            ]
        );
        assert_eq!((taken.blank, taken.next), (3, text.len() as u64));
    }

    #[test]
    fn a_line_of_ten_megabytes_is_delivered_whole() {
        let mut text = b"before\n".to_vec();
        text.extend((0..10_000_000_u32).map(|i| b'a' + (i % 26) as u8));
        text.extend_from_slice(b"\nafter\n");
        let limits = Limits::default();
        assert_eq!(read(&text, 0, usize::MAX, limits), naive(&text, 0, limits));
    }

    #[test]
    fn a_line_beyond_the_limit_is_cut_by_default_too() {
        let limits = Limits::default();
        let mut text = vec![b'x'; limits.line + 1];
        text.extend_from_slice(b"\nafter\n");
        let lines = read(&text, 0, usize::MAX, limits).lines;
        assert_eq!((lines[0].1.len(), lines[0].2), (limits.head, true));
        assert_eq!(lines[1].1, b"after");
        let lines = read(&text[1..], 0, usize::MAX, limits).lines;
        assert_eq!((lines[0].1.len(), lines[0].2), (limits.line, false));
    }

    proptest! {
        #[test]
        fn lines_are_those_of_the_definition(
            parts in prop::collection::vec(("[ab \r]{0,60}", prop::bool::ANY), 0..40),
            ending in "[ab ]{0,60}",
            piece in 1_usize..70,
            chunk in 1_usize..64,
            cut in any::<prop::sample::Index>(),
        ) {
            let mut text = Vec::new();
            let mut starts = vec![0];
            for (line, crlf) in &parts {
                text.extend_from_slice(line.as_bytes());
                text.extend_from_slice(if *crlf { b"\r\n" } else { b"\n" });
                starts.push(text.len());
            }
            text.extend_from_slice(ending.as_bytes());
            let limits = Limits { chunk, ..SMALL };
            let from = *cut.get(&starts);
            prop_assert_eq!(read(&text, from, piece, limits), naive(&text, from, limits));
        }
    }
}
