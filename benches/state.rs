//! What saving a state costs beside reading and writing it: the fake's device of 4 GiB, to /dev/null, by `prove::save` and by a
//! bare loop with the same buffer and the same checksum. Prints the ratio of one run, median of five; judges nothing.

use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Write};
use std::time::Instant;

use vfioadm::cli::{Env, Terminal, run};
use vfioadm::host::device::{Data, State};
use vfioadm::host::fake::{Content, FakeHost};
use vfioadm::host::opening::{Manner, open_device};
use vfioadm::host::{Device, HostPath};
use vfioadm::model::{Address, Bdf};
use vfioadm::prove::{Precopying, Watch, save};
use vfioadm::stream::{Header, Kind, PIECE_BYTES};

const ROUNDS: usize = 5;
const LENGTH: u64 = 4 << 30;
const VF: &str = "0000:3b:00.2";

type Error = Box<dyn std::error::Error>;

/// The demo host with a VF of ConnectX on mlx5_vfio_pci.
#[expect(clippy::disallowed_methods, reason = "a benchmark reads what it has had recorded")]
fn host() -> Result<FakeHost, Error> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("bench.host").display().to_string();
    for words in [["--host", "demo", "record", &file].as_slice(), &["--host", &file, "--save", "bind", VF]] {
        let words = std::iter::once(&"vfioadm").chain(words).map(OsString::from);
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let exit = run(words, &mut Env { out: &mut out, err: &mut err, terminal: Terminal::default() });
        if exit != 0 {
            return Err(String::from_utf8_lossy(&err).into_owned().into());
        }
    }
    Ok(FakeHost::from_text(&std::fs::read(&file)?)?)
}

struct Silent;

impl Watch for Silent {
    fn moved(&self, _bytes: u64, _about: Option<u64>) {}
}

fn bare(device: &dyn Device) -> Result<u64, Error> {
    let Some(Data::Saving(mut stream)) = device.set_state(State::StopCopy)? else { return Err("no stream".into()) };
    let (mut buffer, mut sum, mut all) = (vec![0; PIECE_BYTES], crc32fast::Hasher::new(), 0);
    let mut out = null()?;
    loop {
        let length = stream.read(&mut buffer)?;
        if length == 0 {
            break;
        }
        sum.update(&buffer[..length]);
        out.write_all(&buffer[..length])?;
        all += length as u64;
    }
    std::hint::black_box(sum.finalize());
    device.set_state(State::Running)?;
    Ok(all)
}

fn null() -> Result<File, Error> {
    Ok(File::options().write(true).open("/dev/null")?)
}

fn saved(device: &dyn Device, host: &FakeHost) -> Result<u64, Error> {
    let kind = Kind { driver: "mlx5_vfio_pci".to_owned(), model: "15b3:101e".to_owned() };
    let header = Header::new(kind, VF.to_owned(), "7.2.12".to_owned());
    let (_, saved) =
        save(device, host, (&header, Precopying::No), null()?, &Silent).map_err(|failure| failure.why.to_string())?;
    Ok(saved.bytes)
}

#[expect(clippy::disallowed_methods, reason = "a benchmark measures")]
fn timed(what: impl FnOnce() -> Result<u64, Error>) -> Result<(u64, f64), Error> {
    let started = Instant::now();
    let bytes = what()?;
    Ok((bytes, started.elapsed().as_secs_f64()))
}

#[expect(clippy::print_stdout, reason = "a benchmark tells its figures")]
fn main() -> Result<(), Error> {
    let host = host()?;
    let bdf: Bdf = VF.parse()?;
    let address = Address::from(bdf);
    let device = open_device(&host, &HostPath::pci(bdf), &address, &Manner::default())?;
    host.fill(&address, Content { seed: 7, length: LENGTH });
    let mut times = [Vec::new(), Vec::new()];
    for round in 0..ROUNDS {
        // Whoever comes second finds the machine warmer.
        for which in [round % 2, 1 - round % 2] {
            let (bytes, seconds) = match which {
                0 => timed(|| bare(device.as_ref()))?,
                _ => timed(|| saved(device.as_ref(), &host))?,
            };
            if bytes < LENGTH {
                return Err(format!("{bytes} bytes of {LENGTH}").into());
            }
            times[which].push(seconds);
        }
    }
    let [bare, saved] = times.map(|mut all| {
        all.sort_by(f64::total_cmp);
        all[ROUNDS / 2]
    });
    println!(
        "4 GiB of state to /dev/null: bare loop {bare:.2} s, state save {saved:.2} s, {:.2} times as long",
        saved / bare
    );
    Ok(())
}
