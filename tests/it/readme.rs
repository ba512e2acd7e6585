//! README's transcripts, run.

use std::path::Path;

use crate::vfioadm;

/// The transcripts, each with its commands and what they print.
fn transcripts() -> Vec<Vec<(&'static str, &'static str)>> {
    let readme = include_str!("../../README.md");
    let blocks = readme.split("```console\n").skip(1).filter_map(|rest| rest.split("```").next());
    let pieces = |block: &'static str| {
        let starts = block.match_indices("$ ").map(|(at, _)| at).filter(|at| *at == 0 || block[..*at].ends_with('\n'));
        let starts: Vec<usize> = starts.chain([block.len()]).collect();
        starts.windows(2).map(|ends| block[ends[0] + 2..ends[1]].split_once('\n').unwrap()).collect()
    };
    blocks.map(pieces).collect()
}

#[test]
fn the_transcript_of_the_readme_is_what_is_printed() {
    let commands = &transcripts()[0];
    for (line, wanted) in commands {
        let said = vfioadm(line.strip_prefix("vfioadm ").unwrap());
        assert_eq!(format!("{}{}", said.out, said.err), *wanted, "$ {line}");
    }
    assert_eq!(commands.len(), 3);
}

#[test]
fn the_transcript_of_a_command_that_was_killed_is_what_is_printed() {
    let commands = &transcripts()[1];
    let directory = tempfile::tempdir().unwrap();
    let place = format!("{}/", directory.path().display());
    for (line, wanted) in commands {
        let line = line.replace("my.host", &format!("{place}my.host"));
        let said = match line.strip_prefix("vfioadm ") {
            Some(words) => vfioadm(words),
            None => {
                cut_last_line(line.strip_prefix("sed -i '$d' ").unwrap().as_ref());
                continue;
            }
        };
        let pid = format!("pid {}:", std::process::id());
        let text = format!("{}{}", said.out, said.err).replace(&place, "").replace(&pid, "pid 4711:");
        assert_eq!(text, *wanted, "$ {line}");
    }
    assert_eq!(commands.len(), 6);
}

#[test]
fn the_readme_counts_the_rules_of_a_qualification() {
    let words = format!("{} rules of the kernel's interface", vfioadm::prove::qualify::cases().count());
    assert!(include_str!("../../README.md").contains(&words), "README.md does not say: {words}");
}

#[expect(clippy::disallowed_methods, reason = "a test changes a journal")]
fn cut_last_line(file: &Path) {
    let text = std::fs::read_to_string(file).unwrap();
    let end = text.trim_end().rfind('\n').unwrap();
    std::fs::write(file, &text[..=end]).unwrap();
}
