//! The way into a file.

use std::io::Write;

use super::{HEAD_BYTES, Header, MAGIC, PIECE_BYTES, StreamError, Sum};

/// Where a piece begins in the buffer: as well aligned as the buffer is, for whoever fills it and sums it up.
const LEAD_BYTES: usize = 64;

/// Where its length does.
const HEAD_AT: usize = LEAD_BYTES - HEAD_BYTES;

/// A state on its way into a file.
pub struct Writer<W> {
    out: W,
    sum: Sum,
    written: u64,
    /// A piece, with room before it for its length and sum: both go in one write.
    buffer: Vec<u8>,
}

impl<W: Write> Writer<W> {
    /// Writes the header.
    ///
    /// # Errors
    /// What `out` answers.
    pub fn new(out: W, header: &Header) -> Result<Self, StreamError> {
        let mut writer = Self { out, sum: Sum::default(), written: 0, buffer: vec![0; LEAD_BYTES + PIECE_BYTES] };
        writer.sum.add(&MAGIC);
        writer.out.write_all(&MAGIC)?;
        let text = serde_json::to_vec(header).map_err(|error| StreamError::Header(error.to_string()))?;
        writer.buffer.splice(LEAD_BYTES..LEAD_BYTES + text.len(), text.iter().copied());
        writer.put(text.len())?;
        writer.buffer.resize(LEAD_BYTES + PIECE_BYTES, 0);
        Ok(writer)
    }

    /// Where the next piece goes.
    pub fn room(&mut self) -> &mut [u8] {
        &mut self.buffer[LEAD_BYTES..]
    }

    /// Writes so much of what was put into [`room`](Self::room); nothing is no piece.
    ///
    /// # Errors
    /// What `out` answers.
    pub fn piece(&mut self, length: usize) -> Result<(), StreamError> {
        if length == 0 {
            return Ok(());
        }
        self.put(length)?;
        self.written += length as u64;
        Ok(())
    }

    /// How many bytes of the device were written.
    #[must_use]
    pub const fn written(&self) -> u64 {
        self.written
    }

    /// Writes the end, and gives back what it was written to.
    ///
    /// # Errors
    /// What `out` answers.
    pub fn end(mut self) -> Result<W, StreamError> {
        let count = self.written.to_le_bytes();
        let mut end = [0; HEAD_BYTES + 8];
        end[HEAD_BYTES..].copy_from_slice(&count);
        self.sum.add(&end[..4]);
        self.sum.add(&count);
        end[4..HEAD_BYTES].copy_from_slice(&self.sum.0.to_le_bytes());
        self.out.write_all(&end)?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn put(&mut self, length: usize) -> Result<(), StreamError> {
        let size = u32::try_from(length).map_err(|_| StreamError::Header("too long".to_owned()))?.to_le_bytes();
        self.sum.add(&size);
        self.sum.add(&self.buffer[LEAD_BYTES..LEAD_BYTES + length]);
        self.buffer[HEAD_AT..HEAD_AT + 4].copy_from_slice(&size);
        self.buffer[HEAD_AT + 4..LEAD_BYTES].copy_from_slice(&self.sum.0.to_le_bytes());
        Ok(self.out.write_all(&self.buffer[HEAD_AT..LEAD_BYTES + length])?)
    }
}
