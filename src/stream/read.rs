//! The way out of a file.

use std::io::{ErrorKind, Read};

use super::{FORMAT, HEAD_BYTES, HEADER_LIMIT_BYTES, Header, MAGIC, PIECE_LIMIT_BYTES, StreamError, Sum};

/// A state on its way out of a file.
pub struct Reader<R> {
    from: R,
    sum: Sum,
    read: u64,
    buffer: Vec<u8>,
    ended: bool,
}

impl<R: Read> Reader<R> {
    /// Reads the header.
    ///
    /// # Errors
    /// [`StreamError`]: it is empty, something else, damaged, or cannot be read.
    pub fn new(mut from: R) -> Result<(Header, Self), StreamError> {
        let mut magic = [0; MAGIC.len()];
        match fill(&mut from, &mut magic)? {
            0 => return Err(StreamError::Empty),
            length if length < magic.len() || magic != MAGIC => return Err(StreamError::Foreign),
            _ => {}
        }
        let mut reader = Self { from, sum: Sum::default(), read: 0, buffer: Vec::new(), ended: false };
        reader.sum.add(&magic);
        let text = reader.get(HEADER_LIMIT_BYTES)?;
        let text = &reader.buffer[..text];
        // What another version has is not known, but that it is another.
        let said: serde_json::Value =
            serde_json::from_slice(text).map_err(|error| StreamError::Header(error.to_string()))?;
        match said["format"].as_str() {
            Some(FORMAT) => {}
            other => return Err(StreamError::Header(other.unwrap_or("it names no format").to_owned())),
        }
        let header = serde_json::from_value(said).map_err(|error| StreamError::Header(error.to_string()))?;
        Ok((header, reader))
    }

    /// The next piece; `None` at the end, where nothing may follow.
    ///
    /// # Errors
    /// [`StreamError`]: it is damaged or cut off here, or cannot be read.
    pub fn piece(&mut self) -> Result<Option<&[u8]>, StreamError> {
        if self.ended {
            return Ok(None);
        }
        let length = self.get(PIECE_LIMIT_BYTES)?;
        if length == 0 {
            self.ended = true;
            return match fill(&mut self.from, &mut [0])? {
                0 => Ok(None),
                _ => Err(StreamError::Trailing(self.read)),
            };
        }
        self.read += length as u64;
        Ok(Some(&self.buffer[..length]))
    }

    /// How many bytes of the device were read.
    #[must_use]
    pub const fn read(&self) -> u64 {
        self.read
    }

    /// A length, a sum and what they are of, into the buffer: a length of 0 is the end, with the count of all.
    fn get(&mut self, limit: usize) -> Result<usize, StreamError> {
        let mut head = [0; HEAD_BYTES];
        self.exactly(&mut head)?;
        let [a, b, c, d, sum @ ..] = head;
        let size = u32::from_le_bytes([a, b, c, d]);
        let length = usize::try_from(size).ok().filter(|length| *length <= limit);
        let length = length.ok_or(StreamError::Damaged(self.read))?;
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.resize(if length == 0 { 8 } else { length }, 0);
        self.exactly(&mut buffer)?;
        self.sum.add(&head[..4]);
        self.sum.add(&buffer);
        let counts = length != 0 || buffer == self.read.to_le_bytes();
        self.buffer = buffer;
        if self.sum.0 != u32::from_le_bytes(sum) || !counts {
            return Err(StreamError::Damaged(self.read));
        }
        Ok(length)
    }

    fn exactly(&mut self, buffer: &mut [u8]) -> Result<(), StreamError> {
        match fill(&mut self.from, buffer)? {
            length if length == buffer.len() => Ok(()),
            _ => Err(StreamError::Cut(self.read)),
        }
    }
}

/// Reads until the buffer is full or there is no more; how much that was.
fn fill(from: &mut impl Read, buffer: &mut [u8]) -> Result<usize, StreamError> {
    let mut length = 0;
    while length < buffer.len() {
        match from.read(&mut buffer[length..]) {
            Ok(0) => break,
            Ok(more) => length += more,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(length)
}
