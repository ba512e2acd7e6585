//! The data of a fake device: made when it is read, so that gigabytes of it take no memory.
//!
//! 40 bytes of header (magic, ids of the device, length, seed, checksum of these), so many bytes that follow from the seed,
//! and a CRC-32 of them. All numbers little-endian.

use crc32fast::Hasher;

/// What is in a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Content {
    /// What it is, in a number.
    pub seed: u64,
    /// How many bytes it takes to say so.
    pub length: u64,
}

impl Default for Content {
    /// What a reset leaves: 256 KiB.
    fn default() -> Self {
        Self { seed: 0, length: 256 << 10 }
    }
}

const MAGIC: &[u8; 8] = b"FAKEMIG1";
const HEAD: usize = 40;
const TAIL: u64 = 4;

/// So many bytes of it are alike, but for the stamp at their beginning.
const BLOCK: u64 = 64 << 10;

/// Vendor and device id.
pub(super) type Ids = (u16, u16);

impl Content {
    /// How long the data is, header and checksum included.
    pub(super) const fn data_length(self) -> u64 {
        HEAD as u64 + self.length + TAIL
    }

    fn head(self, ids: Ids) -> [u8; HEAD] {
        let mut head = [0; HEAD];
        head[..8].copy_from_slice(MAGIC);
        head[8..10].copy_from_slice(&ids.0.to_le_bytes());
        head[10..12].copy_from_slice(&ids.1.to_le_bytes());
        head[16..24].copy_from_slice(&self.length.to_le_bytes());
        head[24..32].copy_from_slice(&self.seed.to_le_bytes());
        let sum = crc32fast::hash(&head[..32]);
        head[32..36].copy_from_slice(&sum.to_le_bytes());
        head
    }

    /// What a block begins with.
    const fn stamp(self, block: u64) -> [u8; 8] {
        // splitmix64
        let mut z = self.seed ^ block.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)).to_le_bytes()
    }

    /// Fills with the bytes from `at` on: blocks of one byte, each with a stamp at its beginning, so that it costs what memory
    /// costs.
    fn fill(self, mut at: u64, mut into: &mut [u8]) {
        let byte = u8::try_from(self.seed & 0xff).unwrap_or_default() ^ 0x5a;
        while !into.is_empty() {
            let within = at % BLOCK;
            let length = usize::try_from(BLOCK - within).unwrap_or(usize::MAX).min(into.len());
            let (piece, rest) = into.split_at_mut(length);
            piece.fill(byte);
            let stamp = self.stamp(at / BLOCK);
            let left = usize::try_from(within).ok().and_then(|within| stamp.get(within..)).unwrap_or_default();
            let left = &left[..left.len().min(length)];
            piece[..left.len()].copy_from_slice(left);
            at += length as u64;
            into = rest;
        }
    }
}

/// The data, as it is read.
pub(super) struct Source {
    content: Content,
    head: [u8; HEAD],
    at: u64,
    sum: Hasher,
}

impl Source {
    pub(super) fn new(content: Content, ids: Ids) -> Self {
        Self { content, head: content.head(ids), at: 0, sum: Hasher::new() }
    }

    /// How many bytes were read.
    pub(super) const fn at(&self) -> u64 {
        self.at
    }

    /// Reads on, up to byte `end` of the data at most.
    pub(super) fn read(&mut self, into: &mut [u8], end: u64) -> usize {
        let end = end.min(self.content.data_length());
        let mut done = 0;
        while done < into.len() && self.at < end {
            let room = usize::try_from(end - self.at).unwrap_or(usize::MAX).min(into.len() - done);
            done += self.piece(&mut into[done..done + room]);
        }
        done
    }

    /// Reads on within header, content or checksum.
    fn piece(&mut self, into: &mut [u8]) -> usize {
        let body_end = HEAD as u64 + self.content.length;
        let upto = |end: u64, at: u64| usize::try_from(end - at).unwrap_or(usize::MAX);
        let count = if let Some(rest) = usize::try_from(self.at).ok().and_then(|at| self.head.get(at..))
            && !rest.is_empty()
        {
            let count = rest.len().min(into.len());
            into[..count].copy_from_slice(&rest[..count]);
            count
        } else if self.at < body_end {
            let count = upto(body_end, self.at).min(into.len());
            self.content.fill(self.at - HEAD as u64, &mut into[..count]);
            self.sum.update(&into[..count]);
            count
        } else {
            let sum = self.sum.clone().finalize().to_le_bytes();
            let rest = sum.get(upto(self.at, body_end)..).unwrap_or_default();
            let count = rest.len().min(into.len());
            into[..count].copy_from_slice(&rest[..count]);
            count
        };
        self.at += count as u64;
        count
    }
}

/// What is wrong with data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bad {
    /// It is not such data.
    Head,
    /// It is another kind of device's.
    Foreign,
    /// There is more than there should be.
    TooLong,
    /// There is less.
    Cut,
    /// The checksum is another.
    Sum,
}

/// The data, as it is written.
#[derive(Default)]
pub(super) struct Sink {
    head: Vec<u8>,
    body: u64,
    sum: Hasher,
    tail: Vec<u8>,
}

impl Sink {
    /// Whether nothing was written.
    pub(super) fn is_empty(&self) -> bool {
        self.head.is_empty()
    }

    /// Takes more of it.
    pub(super) fn write(&mut self, mut data: &[u8], ids: Ids) -> Result<(), Bad> {
        let head = data.len().min(HEAD - self.head.len());
        self.head.extend(&data[..head]);
        data = &data[head..];
        if self.head.len() < HEAD {
            return Ok(());
        }
        let content = self.content(ids)?;
        let body = usize::try_from(content.length - self.body).unwrap_or(usize::MAX).min(data.len());
        self.sum.update(&data[..body]);
        self.body += body as u64;
        self.tail.extend(&data[body..]);
        if self.tail.len() as u64 > TAIL { Err(Bad::TooLong) } else { Ok(()) }
    }

    /// What the header says.
    pub(super) fn content(&self, ids: Ids) -> Result<Content, Bad> {
        let number =
            |at: usize| self.head.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).map(u64::from_le_bytes);
        if self.head.len() < HEAD {
            return Err(Bad::Cut);
        }
        let (Some(length), Some(seed)) = (number(16), number(24)) else { return Err(Bad::Cut) };
        let content = Content { seed, length };
        if self.head == content.head(ids) {
            return Ok(content);
        }
        let other = |at: usize| u16::from_le_bytes([self.head[at], self.head[at + 1]]);
        Err(if self.head == content.head((other(8), other(10))) { Bad::Foreign } else { Bad::Head })
    }

    /// What was written, when all of it was.
    pub(super) fn finish(&self, ids: Ids) -> Result<Content, Bad> {
        let content = self.content(ids)?;
        let Ok(sum) = <[u8; 4]>::try_from(&self.tail[..]) else { return Err(Bad::Cut) };
        if u32::from_le_bytes(sum) == self.sum.clone().finalize() { Ok(content) } else { Err(Bad::Sum) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDS: Ids = (0x15b3, 0x101e);

    fn all(content: Content, piece: usize) -> Vec<u8> {
        let mut source = Source::new(content, IDS);
        let (mut data, mut buffer) = (Vec::new(), vec![0; piece]);
        loop {
            match source.read(&mut buffer, u64::MAX) {
                0 => return data,
                count => data.extend(&buffer[..count]),
            }
        }
    }

    fn loaded(data: &[u8], piece: usize) -> Result<Content, Bad> {
        let mut sink = Sink::default();
        for part in data.chunks(piece) {
            sink.write(part, IDS)?;
        }
        sink.finish(IDS)
    }

    #[test]
    fn what_is_read_is_the_same_in_any_pieces() {
        for length in [0, 1, 7, 8, 4097] {
            let content = Content { seed: 5, length };
            let whole = all(content, 1 << 16);
            assert_eq!(whole.len() as u64, content.data_length());
            for piece in [1, 3, 8, 41, 4096] {
                assert_eq!(all(content, piece), whole, "{length} bytes in pieces of {piece}");
                assert_eq!(loaded(&whole, piece), Ok(content));
            }
        }
    }

    #[test]
    fn what_is_damaged_is_told() {
        let whole = all(Content { seed: 1, length: 100 }, 64);
        for end in 0..whole.len() {
            assert_eq!(loaded(&whole[..end], 16), Err(Bad::Cut), "{end} bytes");
        }
        for at in 0..whole.len() {
            let mut data = whole.clone();
            data[at] ^= 0x10;
            assert!(loaded(&data, 16).is_err(), "byte {at}");
        }
        assert_eq!(loaded(&[&whole[..], &[0]].concat(), 16), Err(Bad::TooLong));
        let mut sink = Sink::default();
        assert_eq!(sink.write(&whole, (0x8086, 1)), Err(Bad::Foreign));
    }
}
