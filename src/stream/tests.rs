use proptest::prelude::*;

use super::*;

fn kind() -> Kind {
    Kind { driver: "mlx5_vfio_pci".to_owned(), model: "15b3:101e 15b3:0058".to_owned() }
}

fn header() -> Header {
    Header::new(kind(), "0000:3b:00.2".to_owned(), "7.2.12".to_owned())
}

fn file(pieces: &[&[u8]]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new(), &header()).unwrap();
    for piece in pieces {
        writer.room()[..piece.len()].copy_from_slice(piece);
        writer.piece(piece.len()).unwrap();
    }
    writer.end().unwrap()
}

fn content(file: &[u8]) -> Result<(Header, Vec<u8>), StreamError> {
    let (header, mut reader) = Reader::new(file)?;
    let mut content = Vec::new();
    while let Some(piece) = reader.piece()? {
        content.extend_from_slice(piece);
    }
    assert_eq!(reader.read(), content.len() as u64);
    Ok((header, content))
}

#[test]
fn what_goes_in_comes_out() {
    let (read, bytes) = content(&file(&[b"abc", b"", b"defg"])).unwrap();
    assert_eq!((read, bytes.as_slice()), (header(), &b"abcdefg"[..]));
    assert_eq!(content(&file(&[])).unwrap().1, b"");
    let large = vec![0xa5; PIECE_BYTES];
    assert_eq!(content(&file(&[&large, b"x"])).unwrap().1.len(), PIECE_BYTES + 1);
}

#[test]
fn a_cut_anywhere_is_told_from_an_end() {
    let whole = file(&[b"abc", b"defg"]);
    for length in 0..whole.len() {
        let said = content(&whole[..length]).expect_err("a part is not the whole");
        match length {
            0 => assert!(matches!(said, StreamError::Empty)),
            1..8 => assert!(matches!(said, StreamError::Foreign)),
            _ => assert!(matches!(said, StreamError::Cut(_)), "{length}: {said}"),
        }
    }
}

#[test]
fn every_flipped_bit_is_found() {
    let whole = file(&[b"abc", b"defg"]);
    for bit in 0..whole.len() * 8 {
        let mut damaged = whole.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        content(&damaged).expect_err("it is damaged");
    }
}

#[test]
fn a_damaged_piece_is_not_given_out() {
    let mut damaged = file(&[b"abc", b"defg"]);
    let at = damaged.windows(4).position(|bytes| bytes == b"defg").unwrap();
    damaged[at] ^= 1;
    let (_, mut reader) = Reader::new(damaged.as_slice()).unwrap();
    assert_eq!(reader.piece().unwrap(), Some(&b"abc"[..]));
    assert!(matches!(reader.piece(), Err(StreamError::Damaged(3))));
}

#[test]
fn a_piece_lost_doubled_or_out_of_order_is_found() {
    let whole = file(&[b"abcd", b"efgh"]);
    let start = whole.windows(4).position(|bytes| bytes == b"abcd").unwrap() - HEAD_BYTES;
    let [first, second] = [start, start + 12].map(|at| whole[at..at + 12].to_vec());
    let (before, after) = (&whole[..start], &whole[start + 24..]);
    for pieces in [vec![&first], vec![&second], vec![&second, &first], vec![&first, &first, &second], vec![]] {
        let forged: Vec<u8> = before.iter().chain(pieces.into_iter().flatten()).chain(after).copied().collect();
        assert!(matches!(content(&forged), Err(StreamError::Damaged(_))));
    }
}

#[test]
fn what_follows_the_end_is_found() {
    let mut more = file(&[b"abc"]);
    more.push(0);
    assert!(matches!(content(&more), Err(StreamError::Trailing(3))));
}

#[test]
fn something_else_is_no_state() {
    assert!(matches!(content(b"\x7fELF\x02\x01\x01\0\0\0\0\0"), Err(StreamError::Foreign)));
    let other = Header { format: "vfioadm-state/2".to_owned(), ..header() };
    let file = Writer::new(Vec::new(), &other).unwrap().end().unwrap();
    let said = content(&file).unwrap_err().to_string();
    assert_eq!(said, "its header is of another version, or damaged: vfioadm-state/2");
}

#[test]
fn a_length_that_is_too_great_takes_no_memory() {
    let mut forged = MAGIC.to_vec();
    forged.extend_from_slice(&u32::MAX.to_le_bytes());
    forged.extend_from_slice(&[0; 4]);
    assert!(matches!(content(&forged), Err(StreamError::Damaged(0))));
}

#[test]
fn a_state_fits_its_own_kind_alone() {
    header().fits(&kind()).unwrap();
    let other = Kind { model: "15b3:101e 15b3:0059".to_owned(), ..kind() };
    let said = header().fits(&other).unwrap_err().to_string();
    assert_eq!(
        said,
        "it is of 15b3:101e 15b3:0058 on mlx5_vfio_pci, and the device is 15b3:101e 15b3:0059 on mlx5_vfio_pci"
    );
}

proptest! {
    #[test]
    fn any_pieces_come_back(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..20)) {
        let slices: Vec<&[u8]> = pieces.iter().map(Vec::as_slice).collect();
        prop_assert_eq!(content(&file(&slices)).unwrap().1, pieces.concat());
    }

    #[test]
    fn anything_else_ends_in_an_error_and_nowhere_else(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let file = [&MAGIC[..], &bytes].concat();
        prop_assert!(content(&file).is_err());
    }
}
