//! The process that writes what may wait: the shipped binary, asked over its socket as the tool asks it.

#![expect(clippy::disallowed_methods, reason = "a test starts the program and looks at it from outside")]

use std::fs;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};

fn pair() -> (OwnedFd, OwnedFd) {
    rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap()
}

/// Starts a crew as the tool does.
fn start() -> (Child, OwnedFd) {
    let (ours, theirs) = pair();
    let child = Command::new(env!("CARGO_BIN_EXE_vfioadm"))
        .arg0("vfioadm-worker")
        .env_clear()
        .current_dir("/")
        .stdin(theirs)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    (child, ours)
}

/// Has the crew employ a worker: its socket, and its thread id.
fn employ(control: &OwnedFd) -> (OwnedFd, u32) {
    let (ours, theirs) = pair();
    let ends = [theirs.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    assert!(ancillary.push(SendAncillaryMessage::ScmRights(&ends)));
    rustix::net::sendmsg(control, &[IoSlice::new(b"w")], &mut ancillary, SendFlags::NOSIGNAL).unwrap();
    drop(theirs);
    let mut thread = [0; 4];
    rustix::net::recv(&ours, &mut thread[..], RecvFlags::empty()).unwrap();
    (ours, u32::from_le_bytes(thread))
}

fn ask(socket: &OwnedFd, path: &str, value: &str) -> Vec<u8> {
    let length = u16::try_from(path.len()).unwrap().to_le_bytes();
    let request = [&length[..], path.as_bytes(), value.as_bytes()].concat();
    rustix::net::send(socket, &request, SendFlags::NOSIGNAL).unwrap();
    let mut answer = [0; 64];
    let (length, _) = rustix::net::recv(socket, &mut answer[..], RecvFlags::empty()).unwrap();
    answer[..length].to_vec()
}

#[test]
fn workers_answer_with_the_errno_and_hold_nothing_open() {
    let (mut child, control) = start();
    let (socket, thread) = employ(&control);
    let (other, other_thread) = employ(&control);
    assert!(thread != other_thread && thread != child.id());
    // The attribute cannot be opened: ENOENT, and EINVAL outside of /sys.
    assert_eq!(ask(&socket, "/sys/bus/pci/drivers/no-such-driver/unbind", "0000:00:00.0"), [1, 2, 0, 0, 0]);
    assert_eq!(ask(&socket, "/proc/sys/kernel/hostname", "x"), [1, 22, 0, 0, 0]);
    let proc = format!("/proc/{}", child.id());
    // A thread is found by its own number too: so an undo tells whether a worker is still at a write.
    for of in [child.id(), thread, other_thread] {
        assert_eq!(fs::read(format!("/proc/{of}/cmdline")).unwrap(), b"vfioadm-worker\0");
        assert_eq!(fs::read(format!("/proc/{of}/comm")).unwrap(), b"vfioadm-worker\n");
    }
    assert_eq!(fs::read(format!("{proc}/environ")).unwrap(), b"");
    assert_eq!(fs::read_link(format!("{proc}/cwd")).unwrap().to_str(), Some("/"));
    for stream in 0..3 {
        let stream = fs::read_link(format!("{proc}/fd/{stream}")).unwrap();
        assert_eq!(stream.to_str(), Some("/dev/null"));
    }
    drop(socket);
    while fs::exists(format!("/proc/{thread}")).unwrap() {
        std::thread::yield_now();
    }
    assert_eq!(ask(&other, "/proc/sys/kernel/hostname", "x"), [1, 22, 0, 0, 0], "the others go on");
    drop(control);
    assert!(child.try_wait().unwrap().is_none(), "it waits for the last of them");
    assert_eq!(ask(&other, "/proc/sys/kernel/hostname", "x"), [1, 22, 0, 0, 0]);
    drop(other);
    assert!(child.wait().unwrap().success(), "a crew ends when nobody can ask it");
}

#[test]
fn a_crew_without_a_socket_ends() {
    let child =
        Command::new(env!("CARGO_BIN_EXE_vfioadm")).arg0("vfioadm-worker").stdin(Stdio::null()).status().unwrap();
    assert_eq!(child.code(), Some(1));
}
