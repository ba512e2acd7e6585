//! Real programs below a directory that stands for `/`. Who is not root has nobody's trust, and these tests nothing to say.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::*;
use crate::host::wait::Patience;

/// A directory in the place of `/`, with a hook whose programs are scripts.
struct Top(tempfile::TempDir);

impl Top {
    fn new(set: &str) -> Option<Self> {
        let top = Self(tempfile::tempdir().unwrap());
        let directory = top.at("");
        fs::create_dir_all(&directory).unwrap();
        for above in ["etc", "etc/vfioadm", "etc/vfioadm/hooks.d"].map(|above| top.below(above)) {
            mode(&above, 0o755);
        }
        mode(&directory, 0o755);
        top.put("set", set);
        top.put("undo", "exit 0");
        rustix::process::geteuid().is_root().then_some(top)
    }

    fn below(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn at(&self, name: &str) -> PathBuf {
        self.below("etc/vfioadm/hooks.d").join(id().to_string()).join(name)
    }

    fn put(&self, name: &str, script: &str) {
        self.write(name, &format!("#!/bin/sh\n{script}\n"));
    }

    #[expect(clippy::disallowed_methods, reason = "a test writes its fixture")]
    fn write(&self, name: &str, text: &str) {
        fs::write(self.at(name), text).unwrap();
        mode(&self.at(name), 0o755);
    }

    fn opened(&self) -> OwnedFd {
        rustix::fs::open(self.0.path(), OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap()
    }

    fn trusted(&self) -> Result<bool, HostError> {
        trusted(self.opened().as_fd(), id()).map(|found| found.is_some())
    }

    fn start(&self) -> Result<Running, HostError> {
        let (pf, parameters) = ("0000:3b:00.0".parse().unwrap(), String::from("mac=02:00:00:00:00:01 vlan=7"));
        let hook = Hook { pf, index: 2, id: id(), way: HookWay::Set, parameters };
        Running::start(self.opened().as_fd(), &hook, "0000:3b:00.4".parse().unwrap())
    }

    fn run(&self) -> Result<(), HostError> {
        self.run_until(|| false)
    }

    fn run_until(&self, is_over: impl Fn() -> bool) -> Result<(), HostError> {
        let mut running = self.start()?;
        loop {
            if let Some(answer) = running.answer(&is_over) {
                return answer;
            }
            Patience::of(Duration::from_millis(10)).readable(running.as_fd()).unwrap();
        }
    }
}

fn id() -> HookId {
    "15b3:101e".parse().unwrap()
}

#[expect(clippy::disallowed_methods, reason = "a test reads what its program wrote")]
fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap()
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

#[test]
fn what_others_than_root_can_change_is_not_run() {
    let Some(top) = Top::new("exit 0") else { return };
    assert_eq!(top.trusted(), Ok(true));
    let said = |file: &str, words: &str| {
        for refused in [top.trusted().map(drop), top.run()] {
            let refused = refused.unwrap_err().to_string();
            assert!(refused.starts_with(&format!("trust /etc{file}: ")), "{refused}");
            assert!(refused.ends_with(words), "{refused}");
        }
    };
    for (path, name, it) in [
        (top.below(""), "/vfioadm/hooks.d", "/"),
        (top.below("etc"), "/vfioadm/hooks.d", "/etc"),
        (top.below("etc/vfioadm"), "/vfioadm", "it"),
        (top.below("etc/vfioadm/hooks.d"), "/vfioadm/hooks.d", "it"),
        (top.at(""), "/vfioadm/hooks.d/15b3:101e", "it"),
        (top.at("set"), "/vfioadm/hooks.d/15b3:101e/set", "it"),
        (top.at("undo"), "/vfioadm/hooks.d/15b3:101e/undo", "it"),
    ] {
        for bits in [0o775, 0o757] {
            mode(&path, bits);
            said(name, &format!("{it} can be written by others than root (mode {bits:04o})"));
        }
        mode(&path, 0o755);
        chown(&path, Some(65534), None).unwrap();
        said(name, &format!("{it} belongs to user 65534, and must belong to root"));
        chown(&path, Some(0), None).unwrap();
    }
    mode(&top.at("set"), 0o644);
    said("/vfioadm/hooks.d/15b3:101e/set", "it is not executable (mode 0644)");
    fs::remove_file(top.at("set")).unwrap();
    said("/vfioadm/hooks.d/15b3:101e/set", "it is not there, and a hook has both set and undo");
    symlink(top.at("undo"), top.at("set")).unwrap();
    said("/vfioadm/hooks.d/15b3:101e/set", "it is a symbolic link");
    fs::remove_file(top.at("set")).unwrap();
    fs::create_dir(top.at("set")).unwrap();
    said("/vfioadm/hooks.d/15b3:101e/set", "it is no regular file");
    fs::remove_dir_all(top.at("")).unwrap();
    symlink(top.below(""), top.below("etc/vfioadm/hooks.d/15b3:101e")).unwrap();
    said("/vfioadm/hooks.d/15b3:101e", "it is a symbolic link");
    fs::remove_file(top.below("etc/vfioadm/hooks.d/15b3:101e")).unwrap();
    // Where there is none, nothing needs to be trusted.
    mode(&top.below("etc"), 0o777);
    assert_eq!(top.trusted(), Ok(false));
    assert_eq!(top.run().unwrap_err().errno, Errno::ENOENT);
}

#[test]
fn its_environment_is_clean_and_it_is_told_of_its_vf() {
    let Some(top) = Top::new("") else { return };
    let told = top.below("told");
    let file = told.display();
    top.put(
        "set",
        &format!(
            "cat /proc/self/environ | tr '\\0' '\\n' > {file}; echo \"$@\" >> {file}; pwd >> {file}; wc -c >> {file}"
        ),
    );
    assert_eq!(top.run(), Ok(()));
    let mut lines: Vec<String> = text(&told).lines().map(str::to_owned).collect();
    // What a shell adds by itself.
    lines.retain(|line| !["PWD=", "OLDPWD=", "SHLVL=", "_="].iter().any(|own| line.starts_with(own)));
    lines[..8].sort();
    assert_eq!(
        lines,
        [
            "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
            "VFIOADM_DEVICE=101e",
            "VFIOADM_OPERATION=set",
            "VFIOADM_PF=0000:3b:00.0",
            "VFIOADM_SET=mac=02:00:00:00:00:01 vlan=7",
            "VFIOADM_VENDOR=15b3",
            "VFIOADM_VF=0000:3b:00.4",
            "VFIOADM_VF_INDEX=2",
            "0000:3b:00.4",
            "/",
            "0",
        ]
    );
}

#[test]
fn one_that_fails_is_told_with_what_it_said() {
    let Some(top) = Top::new("echo asking; echo no such firmware >&2; exit 3") else { return };
    assert_eq!(
        top.run().unwrap_err().to_string(),
        "run /etc/vfioadm/hooks.d/15b3:101e/set 0000:3b:00.4: EIO (Input/output error): exit status: 3: asking; no such firmware"
    );
    top.put("set", "kill -9 $$");
    let killed = top.run().unwrap_err().to_string();
    assert!(killed.contains("signal: 9"), "{killed}");
    // The end of it is told, and nothing that would do something to a terminal.
    top.put("set", "head -c 100000 /dev/zero | tr '\\0' x; printf '\\033[2Jwhy\\n'; exit 1");
    let said = top.run().unwrap_err().said.unwrap_or_default();
    assert!(said.starts_with("exit status: 1: xxx") && said.ends_with("x [2Jwhy") && said.len() < 1000, "{said}");
    top.put("set", "while true; do head -c 100000 /dev/zero; done");
    let much = top.run().unwrap_err();
    assert_eq!(much.errno, Errno::EFBIG);
    top.write("set", "#!/nowhere\n");
    let unstarted = top.run().unwrap_err();
    assert_eq!((unstarted.errno, unstarted.said.as_deref()), (Errno::ENOENT, Some("it did not start")));
}

/// What it left running would go on after the next step.
#[test]
fn what_it_has_started_ends_with_it() {
    let Some(top) = Top::new("") else { return };
    let pids = top.below("pids");
    top.put("set", &format!("sleep 1000 & echo $! > {}", pids.display()));
    assert_eq!(top.run(), Ok(()));
    wait_until_gone(text(&pids).trim());
}

#[test]
fn one_that_nobody_waits_for_any_more_is_killed() {
    let Some(top) = Top::new("sleep 1000") else { return };
    let running = top.start().unwrap();
    let pid = running.program.pid().to_string();
    drop(running);
    wait_until_gone(&pid);
}

/// Until a process has ended, and is perhaps not waited for yet by whoever it was left to.
#[expect(clippy::disallowed_methods, reason = "a test looks at what it has started")]
fn wait_until_gone(pid: &str) {
    let started = Instant::now();
    loop {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        match stat.rsplit(") ").next().and_then(|rest| rest.chars().next()) {
            None | Some('Z' | 'X') => return,
            other => assert!(started.elapsed() < Duration::from_secs(60), "{pid} is in state {other:?}"),
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn one_that_hangs_is_killed_with_what_it_has_started() {
    let Some(top) = Top::new("") else { return };
    let pids = top.below("pids");
    let file = pids.display();
    top.put("set", &format!("sleep 1000 & echo waiting >&2; echo $! > {file}.new; mv {file}.new {file}; sleep 1000"));
    let late = top.run_until(|| pids.exists()).unwrap_err();
    assert_eq!(late.errno, Errno::ETIMEDOUT);
    assert_eq!(late.said.as_deref(), Some("it still ran and was killed: waiting"));
    wait_until_gone(text(&pids).trim());
}
