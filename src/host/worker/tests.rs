//! Both ends of the socket, and a closure for the kernel.

use std::sync::mpsc;

use super::*;

const UNBIND: &str = "/sys/bus/pci/drivers/vfio-pci/unbind";
const LONG: Duration = Duration::from_secs(3600);

fn path(text: &str) -> HostPath {
    HostPath::parse(text).unwrap()
}

fn request(path: &str, value: &str) -> Vec<u8> {
    let mut buffer = [0; LIMIT_BYTES];
    let length = Request { path, value }.encode(&mut buffer).unwrap();
    buffer[..length].to_vec()
}

/// Sends a request and waits for the answer.
fn ask(socket: &OwnedFd, request: &[u8], patience: &Patience<'_>) -> Result<Result<(), Refusal>, Errno> {
    rustix::net::send(socket, request, SendFlags::NOSIGNAL).map_err(gone)?;
    let worker = Worker { socket: rustix::io::dup(socket).unwrap(), thread: 0 };
    worker.wait(patience)
}

/// The same of a worker.
fn write(worker: &Worker, value: &str) -> Result<Result<(), Refusal>, Errno> {
    worker.ask(&path(UNBIND), value)?;
    worker.wait(&Patience::of(LONG))
}

/// Has one request answered by a worker that does `write`, in a thread.
fn answered(
    request: &[u8],
    write: impl Fn(&HostPath, &str) -> Result<(), Refusal> + Send,
) -> Result<Result<(), Refusal>, Errno> {
    let (ours, theirs) = pair().unwrap();
    std::thread::scope(|scope| {
        let served = scope.spawn(move || serve(&theirs, write));
        let answer = ask(&ours, request, &Patience::of(LONG));
        drop(ours);
        assert_eq!(served.join().unwrap(), Ok(()), "it ends when the other end is closed");
        answer
    })
}

#[test]
fn a_request_is_understood_as_it_was_meant() {
    for (path, value) in [(UNBIND, "0000:3b:00.2"), ("/sys/x", ""), ("", "\n"), (UNBIND, "ü\0")] {
        assert_eq!(Request::decode(&request(path, value)), Some(Request { path, value }));
    }
}

#[test]
fn a_torn_request_is_none() {
    let whole = request(UNBIND, "0000:3b:00.2");
    for length in 0..UNBIND.len() + 2 {
        assert_eq!(Request::decode(&whole[..length]), None);
    }
    assert_eq!(Request::decode(&[1, 0, 0xff]), None, "no text");
}

#[test]
fn what_does_not_fit_is_not_sent() {
    let mut buffer = [0; LIMIT_BYTES];
    let fits = "x".repeat(LIMIT_BYTES - 2 - UNBIND.len());
    assert_eq!(Request { path: UNBIND, value: &fits }.encode(&mut buffer), Ok(LIMIT_BYTES));
    let more = format!("{fits}x");
    assert_eq!(Request { path: UNBIND, value: &more }.encode(&mut buffer), Err(Errno::E2BIG));
    let long = "x".repeat(1 << 16);
    assert_eq!(Request { path: &long, value: "" }.encode(&mut buffer), Err(Errno::E2BIG));
}

#[test]
fn an_answer_says_which_call_was_refused() {
    let refused = |verb, errno| Err(Refusal { verb, errno });
    for done in [
        Ok(()),
        refused(Verb::Open, Errno::ENOENT),
        refused(Verb::Write, Errno::ENODEV),
        refused(Verb::Write, Errno(4095)),
    ] {
        assert_eq!(decode(encode(done)), Some(done));
    }
    assert_eq!(decode([3, 0, 0, 0, 0]), None);
}

#[test]
fn a_worker_writes_one_value_after_the_other() {
    let (ours, theirs) = pair().unwrap();
    let written = std::sync::Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        let served = scope.spawn(|| {
            serve(&theirs, |path, value| {
                written.lock().unwrap().push((path.to_string(), value.to_owned()));
                if value == "b" { Err(Refusal { verb: Verb::Write, errno: Errno::ENODEV }) } else { Ok(()) }
            })
        });
        let ask = |value| ask(&ours, &request(UNBIND, value), &Patience::of(LONG));
        assert_eq!(ask("a"), Ok(Ok(())));
        assert_eq!(ask("b"), Ok(Err(Refusal { verb: Verb::Write, errno: Errno::ENODEV })));
        assert_eq!(ask("c"), Ok(Ok(())));
        rustix::net::shutdown(&ours, rustix::net::Shutdown::Both).unwrap();
        assert_eq!(served.join().unwrap(), Ok(()));
    });
    let all = written.into_inner().unwrap();
    assert_eq!(all, ["a", "b", "c"].map(|value| (UNBIND.to_owned(), value.to_owned())));
}

#[test]
fn a_worker_writes_below_sys_alone() {
    let none = Ok(Err(Refusal { verb: Verb::Open, errno: Errno::EINVAL }));
    for bad in ["/proc/sysrq-trigger", "/sys/../etc/passwd", "/sys", "", "bind"] {
        assert_eq!(answered(&request(bad, "b"), |_, _| panic!("nothing is written to {bad}")), none);
    }
    assert_eq!(answered(&[0xff], |_, _| panic!("no request")), none);
}

#[test]
fn a_worker_that_waits_is_left_behind_and_ends_after_its_write() {
    let (ours, theirs) = pair().unwrap();
    let (close, closed) = mpsc::channel();
    std::thread::scope(|scope| {
        let served = scope.spawn(move || {
            serve(&theirs, |_, _| {
                closed.recv().unwrap();
                Ok(())
            })
        });
        let asked = ask(&ours, &request(UNBIND, "0000:3b:00.2"), &Patience::of(Duration::ZERO));
        assert_eq!(asked, Err(Errno::ETIMEDOUT));
        drop(ours);
        close.send(()).unwrap();
        assert_eq!(served.join().unwrap(), Err(rustix::io::Errno::PIPE), "nobody is there to be answered");
    });
}

#[test]
fn a_worker_that_is_gone_is_no_answer() {
    let (ours, theirs) = pair().unwrap();
    drop(theirs);
    assert_eq!(ask(&ours, &request(UNBIND, "x"), &Patience::of(LONG)), Err(Errno::EINTR));
    let (ours, theirs) = pair().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let mut buffer = [0; LIMIT_BYTES];
            // Killed after it was asked.
            assert!(rustix::net::recv(&theirs, &mut buffer[..], RecvFlags::empty()).is_ok());
        });
        assert_eq!(ask(&ours, &request(UNBIND, "x"), &Patience::of(LONG)), Err(Errno::EINTR));
    });
}

#[test]
fn what_takes_the_lock_of_a_device_is_a_workers() {
    let seconds = |at: &str| deadline(&path(at)).map(|deadline| deadline.as_secs());
    let device = |attribute: &str| format!("/sys/bus/pci/devices/0000:3b:00.2/{attribute}");
    assert_eq!(seconds(UNBIND), Some(25));
    assert_eq!(seconds("/sys/bus/pci/drivers/vfio-pci/bind"), Some(60));
    assert_eq!(seconds("/sys/bus/pci/drivers/nvgrace_gpu_vfio_pci/bind"), Some(300));
    assert_eq!(seconds("/sys/bus/pci/drivers_probe"), Some(60));
    assert_eq!(seconds("/sys/bus/pci/rescan"), Some(60));
    assert_eq!(seconds(&device("remove")), Some(25));
    assert_eq!(seconds(&device("reset")), Some(30));
    assert_eq!(seconds(&device("sriov_numvfs")), Some(120));
    assert_eq!(seconds("/sys/bus/mdev/devices/83b8f4f2-509f-382f-3c1e-e6bfe0fa1001/remove"), Some(25));
    for attribute in ["driver_override", "sriov_drivers_autoprobe", "d3cold_allowed", "reset_method"] {
        assert_eq!(seconds(&device(attribute)), None, "{attribute}");
    }
}

#[test]
fn a_crew_makes_a_worker_of_every_socket_and_ends_with_the_last() {
    let (control, theirs) = pair().unwrap();
    std::thread::scope(|scope| {
        let crew = scope.spawn(move || {
            employ(&theirs, || {
                |_: &HostPath, value: &str| match value {
                    "no" => Err(Refusal { verb: Verb::Write, errno: Errno::ENODEV }),
                    _ => Ok(()),
                }
            })
        });
        let worker = || {
            let (socket, theirs) = pair().unwrap();
            hand_over(&control, &theirs).unwrap();
            drop(theirs);
            let mut thread = [0; 4];
            assert_eq!(rustix::net::recv(&socket, &mut thread[..], RecvFlags::empty()).unwrap().0, 4);
            Worker { socket, thread: u32::from_le_bytes(thread) }
        };
        let (one, two) = (worker(), worker());
        assert_ne!(one.thread(), two.thread());
        assert_eq!(one.answer(), Ok(None), "nothing was asked");
        assert_eq!(write(&one, "yes"), Ok(Ok(())));
        let no = Refusal { verb: Verb::Write, errno: Errno::ENODEV };
        assert_eq!(write(&two, "no"), Ok(Err(no)));
        drop(one);
        let two = two.if_there().unwrap();
        drop(control);
        assert_eq!(write(&two, "yes"), Ok(Ok(())));
        drop(two);
        assert_eq!(crew.join().unwrap(), Ok(()));
    });
}

#[test]
fn a_worker_that_was_ended_is_seen_to_be() {
    let (socket, theirs) = pair().unwrap();
    let worker = Worker { socket, thread: 1 }.if_there().unwrap();
    drop(theirs);
    assert!(worker.if_there().is_none());
}

#[test]
fn a_message_without_a_socket_ends_the_crew() {
    let (control, theirs) = pair().unwrap();
    rustix::net::send(&control, b"w", SendFlags::NOSIGNAL).unwrap();
    assert_eq!(employ(&theirs, || |_: &HostPath, _: &str| Ok(())), Err(rustix::io::Errno::BADMSG));
}
