//! README's transcript, run.

use crate::vfioadm;

#[test]
fn the_transcript_of_the_readme_is_what_is_printed() {
    let readme = include_str!("../../README.md");
    let transcript = readme.split("```console\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let mut commands = 0;
    for piece in transcript.split("$ vfioadm ").skip(1) {
        let (line, wanted) = piece.split_once('\n').unwrap();
        let said = vfioadm(line);
        assert_eq!(format!("{}{}", said.out, said.err), wanted, "$ vfioadm {line}");
        commands += 1;
    }
    assert_eq!(commands, 3);
}
