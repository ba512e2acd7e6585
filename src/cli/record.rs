//! `vfioadm record FILE`

use std::path::Path;

use super::args::RecordArgs;
use super::report::{Exit, Trouble};
use super::{Session, open};
use crate::host::record::{Privacy, print, record};

pub(super) fn run(args: &RecordArgs, session: &mut Session<'_, '_>) -> Result<Exit, Trouble> {
    let opened = session.open(None)?;
    let privacy = if args.keep_identity { Privacy::Keep } else { Privacy::Strip };
    let (tree, warnings) = record(opened.host(), privacy)?;
    session.warn(&warnings);
    let text = print(&tree);
    if args.file == Path::new("-") {
        session.print(format_args!("{text}"));
        return Ok(Exit::Done);
    }
    open::write_file(&args.file, text.as_bytes()).map_err(|error| {
        let message = format!("{} was not written: {error}", args.file.display());
        Trouble::new(Exit::Failed, "not-written", message).remedy("name a file in a directory that you can write to")
    })?;
    if session.json() {
        let file = args.file.display().to_string();
        session.print_json(&serde_json::json!({ "schema": "vfioadm.record/1", "file": file, "error": null }));
    }
    Ok(Exit::Done)
}
