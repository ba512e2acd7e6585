//! The frame of netlink messages: headers, acknowledgements, the kernel's own text. Nothing here waits or asks.

use netlink_bindings::builtin::NlmsgerrAttrs;
use netlink_bindings::consts;

use crate::model::Errno;

/// `struct nlmsghdr`, in bytes.
const HEADER: usize = 16;

/// `NLMSG_ERROR`: an errno, or 0 as acknowledgement.
const ERROR: u16 = 2;

/// `NLMSG_DONE`: the end of a dump.
const DONE: u16 = 3;

/// `NLMSG_MIN_TYPE`: below it are the types of netlink itself.
const FIRST_TYPE: u16 = 16;

/// How a request is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// One object, or a change: an answer, if there is one, and an acknowledgement.
    Do,
    /// All objects.
    Dump,
}

/// A request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Request {
    /// `nlmsg_type`: `RTM_…`, or the number of a generic family.
    pub(super) message_type: u16,
    /// How it is answered.
    pub(super) kind: Kind,
    /// What comes after the header.
    pub(super) payload: Vec<u8>,
}

impl Request {
    /// The message as it is sent.
    pub(super) fn encode(&self, sequence: u32) -> Vec<u8> {
        let flags = consts::NLM_F_REQUEST
            | match self.kind {
                Kind::Do => consts::NLM_F_ACK,
                Kind::Dump => consts::NLM_F_DUMP,
            };
        let length = u32::try_from(HEADER + self.payload.len()).unwrap_or(u32::MAX);
        let mut bytes = Vec::with_capacity(HEADER + self.payload.len());
        bytes.extend(length.to_ne_bytes());
        bytes.extend(self.message_type.to_ne_bytes());
        bytes.extend(u16::try_from(flags).unwrap_or_default().to_ne_bytes());
        bytes.extend(sequence.to_ne_bytes());
        // The kernel knows the sender.
        bytes.extend(0u32.to_ne_bytes());
        bytes.extend(&self.payload);
        bytes
    }
}

/// The kernel's no.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    /// Why.
    pub(super) errno: Errno,
    /// `NLMSGERR_ATTR_MSG`, or nothing.
    pub(super) said: String,
}

impl From<Errno> for Refusal {
    fn from(errno: Errno) -> Self {
        Self { errno, said: String::new() }
    }
}

/// Whether more is to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// It is.
    More,
    /// The acknowledgement or the end of the dump was there.
    End,
}

/// What came in answer to one request.
#[derive(Debug, Default)]
pub(super) struct Answer {
    /// The objects, each without its `nlmsghdr`.
    pub(super) objects: Vec<Vec<u8>>,
    /// `NLM_F_DUMP_INTR`: what was listed changed meanwhile.
    pub(super) interrupted: bool,
}

impl Answer {
    /// Takes one datagram in. Messages of another sequence belong to nobody here and are left out.
    ///
    /// # Errors
    /// What the kernel refused; `EBADMSG` when the datagram is cut.
    ///
    /// # Kernel
    /// `net/netlink/af_netlink.c` `netlink_ack()`, `netlink_dump()` (7.2).
    pub(super) fn take(&mut self, datagram: &[u8], sequence: u32) -> Result<Progress, Refusal> {
        let mut rest = datagram;
        while !rest.is_empty() {
            let (header, length) = rest
                .split_first_chunk::<HEADER>()
                .map(|(header, _)| (header, number(header, 0)))
                .ok_or(Errno::EBADMSG)?;
            let length = usize::try_from(length).ok().filter(|n| (HEADER..=rest.len()).contains(n));
            let length = length.ok_or(Errno::EBADMSG)?;
            let kinds = number(header, 4).to_ne_bytes();
            let (message_type, flags) =
                (u16::from_ne_bytes([kinds[0], kinds[1]]), i32::from(u16::from_ne_bytes([kinds[2], kinds[3]])));
            let payload = &rest[HEADER..length];
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
            if number(header, 8) != sequence {
                continue;
            }
            self.interrupted |= flags & consts::NLM_F_DUMP_INTR != 0;
            match message_type {
                ERROR | DONE => return ended(message_type, flags, payload),
                FIRST_TYPE.. => self.objects.push(payload.to_vec()),
                _ => {}
            }
        }
        Ok(Progress::More)
    }
}

/// An acknowledgement, or the end of a dump: good when its number is not negative.
fn ended(message_type: u16, flags: i32, payload: &[u8]) -> Result<Progress, Refusal> {
    let code = payload.first_chunk::<4>().map_or(0, |code| i32::from_ne_bytes(*code));
    if code >= 0 {
        return Ok(Progress::End);
    }
    // Behind the number of an error lies the header of the request, and all of it when it was not capped.
    let request = match message_type {
        ERROR if flags & consts::NLM_F_CAPPED != 0 => HEADER,
        ERROR => payload.get(4..).and_then(|hdr| hdr.first_chunk::<4>()).map_or(HEADER, |length| {
            usize::try_from(u32::from_ne_bytes(*length)).map_or(HEADER, |length| length.next_multiple_of(4))
        }),
        _ => 0,
    };
    let more = payload.get(4usize.saturating_add(request)..).unwrap_or_default();
    let said = if flags & consts::NLM_F_ACK_TLVS != 0 { NlmsgerrAttrs::new(more).get_msg().ok() } else { None };
    let said = said.map(|text| text.to_string_lossy().into_owned()).unwrap_or_default();
    Err(Refusal { errno: Errno(code.saturating_neg()), said })
}

/// The 32-bit number at a place of a header.
fn number(header: &[u8; HEADER], at: usize) -> u32 {
    header.get(at..).and_then(|rest| rest.first_chunk::<4>()).map_or(0, |bytes| u32::from_ne_bytes(*bytes))
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A message as the kernel sends it.
    pub(in crate::host::netlink) fn message(message_type: u16, flags: i32, sequence: u32, payload: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(u32::try_from(HEADER + payload.len()).unwrap().to_ne_bytes());
        bytes.extend(message_type.to_ne_bytes());
        bytes.extend(u16::try_from(flags).unwrap().to_ne_bytes());
        bytes.extend(sequence.to_ne_bytes());
        bytes.extend([0; 4]);
        bytes.extend(payload);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    /// `NLMSGERR_ATTR_MSG`.
    fn text(words: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        netlink_bindings::utils::push_header(&mut bytes, 1, u16::try_from(words.len() + 1).unwrap());
        bytes.extend(words.as_bytes());
        bytes.push(0);
        bytes
    }

    #[test]
    fn an_answer_ends_with_its_acknowledgement() {
        let mut answer = Answer::default();
        let datagram =
            [message(16, 0, 7, b"abcd"), message(16, 0, 6, b"late"), message(ERROR, 0, 7, &[0; 20])].concat();
        assert_eq!(answer.take(&datagram, 7), Ok(Progress::End));
        assert_eq!(answer.objects, [b"abcd".to_vec()]);
        assert!(!answer.interrupted);
    }

    #[test]
    fn a_refusal_keeps_the_kernels_words_capped_or_not() {
        let code = (-95i32).to_ne_bytes();
        let request = Request { message_type: 20, kind: Kind::Do, payload: vec![1, 2, 3, 4, 5] };
        let whole = request.encode(7);
        let mut padded = whole.clone();
        padded.resize(whole.len().next_multiple_of(4), 0);
        let capped = [&code[..], &whole[..HEADER], &text("not here")].concat();
        let uncapped = [&code[..], &padded, &text("not here")].concat();
        let tlvs = consts::NLM_F_ACK_TLVS;
        let wanted = Err(Refusal { errno: Errno::EOPNOTSUPP, said: "not here".to_owned() });
        for (flags, payload) in [(tlvs | consts::NLM_F_CAPPED, capped), (tlvs, uncapped)] {
            assert_eq!(Answer::default().take(&message(ERROR, flags, 7, &payload), 7), wanted);
        }
        let silent = [&code[..], &whole[..HEADER]].concat();
        let answer = Answer::default().take(&message(ERROR, consts::NLM_F_CAPPED, 7, &silent), 7);
        assert_eq!(answer, Err(Errno::EOPNOTSUPP.into()));
        let done = [&code[..], &text("gone")].concat();
        let answer = Answer::default().take(&message(DONE, tlvs, 7, &done), 7);
        assert_eq!(answer, Err(Refusal { errno: Errno::EOPNOTSUPP, said: "gone".to_owned() }));
    }

    #[test]
    fn a_dump_that_was_interrupted_says_so() {
        let mut answer = Answer::default();
        assert_eq!(answer.take(&message(16, consts::NLM_F_MULTI, 1, b"one."), 1), Ok(Progress::More));
        assert_eq!(answer.take(&message(DONE, consts::NLM_F_DUMP_INTR, 1, &[0; 4]), 1), Ok(Progress::End));
        assert!(answer.interrupted && answer.objects.len() == 1);
    }

    #[test]
    fn a_cut_datagram_is_no_answer() {
        let whole = message(16, 0, 1, b"abcd");
        for cut in 1..whole.len() {
            assert_eq!(Answer::default().take(&whole[..cut], 1), Err(Errno::EBADMSG.into()), "{cut}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic_or_run_on(bytes in proptest::collection::vec(any::<u8>(), 0..120), seq: u32) {
            drop(Answer::default().take(&bytes, seq));
            drop(Answer::default().take(&message(ERROR, 0x300, seq, &bytes), seq));
        }
    }
}
