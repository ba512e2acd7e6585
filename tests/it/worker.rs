//! The process that writes what may wait: the shipped binary, asked over its socket as the tool asks it.

#![expect(clippy::disallowed_methods, reason = "a test starts the program and looks at it from outside")]

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

/// Starts a worker as the tool does.
fn start() -> (Child, OwnedFd) {
    let (ours, theirs) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
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

fn ask(socket: &OwnedFd, path: &str, value: &str) -> Vec<u8> {
    let length = u16::try_from(path.len()).unwrap().to_le_bytes();
    let request = [&length[..], path.as_bytes(), value.as_bytes()].concat();
    rustix::net::send(socket, &request, SendFlags::NOSIGNAL).unwrap();
    let mut answer = [0; 64];
    let (length, _) = rustix::net::recv(socket, &mut answer[..], RecvFlags::empty()).unwrap();
    answer[..length].to_vec()
}

#[test]
fn a_worker_answers_with_the_errno_and_holds_nothing_open() {
    let (mut child, socket) = start();
    // The attribute cannot be opened: ENOENT, and EINVAL outside of /sys.
    assert_eq!(ask(&socket, "/sys/bus/pci/drivers/no-such-driver/unbind", "0000:00:00.0"), [1, 2, 0, 0, 0]);
    assert_eq!(ask(&socket, "/proc/sys/kernel/hostname", "x"), [1, 22, 0, 0, 0]);
    let proc = format!("/proc/{}", child.id());
    assert_eq!(fs::read(format!("{proc}/cmdline")).unwrap(), b"vfioadm-worker\0");
    assert_eq!(fs::read(format!("{proc}/comm")).unwrap(), b"vfioadm-worker\n");
    assert_eq!(fs::read(format!("{proc}/environ")).unwrap(), b"");
    assert_eq!(fs::read_link(format!("{proc}/cwd")).unwrap().to_str(), Some("/"));
    for stream in 0..3 {
        let stream = fs::read_link(format!("{proc}/fd/{stream}")).unwrap();
        assert_eq!(stream.to_str(), Some("/dev/null"));
    }
    drop(socket);
    assert!(child.wait().unwrap().success(), "a worker ends when nobody can ask it");
}

#[test]
fn a_worker_that_nobody_asks_ends() {
    let child =
        Command::new(env!("CARGO_BIN_EXE_vfioadm")).arg0("vfioadm-worker").stdin(Stdio::null()).status().unwrap();
    assert_eq!(child.code(), Some(1));
}
