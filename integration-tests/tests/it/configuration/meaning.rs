//! Only what a file says counts, in every format, and only for the services that it is about.

use std::fs;

use testkit::alive;

use super::{Watched, uci_text};
use crate::support::{demo, until_other_pid};

#[test]
fn a_comment_reloads_nothing_and_an_option_reloads_its_own_service_alone() {
    let mut watched = Watched::new();
    for name in ["hello", "other"] {
        watched.write(name, &uci_text("1"));
        let trigger = format!("[[triggers]]\nevent = \"config.change\"\npackage = {name:?}\n");
        watched.device.define(name, &format!("{}{trigger}", demo(&[])));
    }
    watched.start();
    let (hello, other) = (watched.device.until_pid("hello"), watched.device.until_pid("other"));
    let unquoted = uci_text("1").replace('\'', "\"").replace('\t', "   ");
    watched.write("hello", &format!("# a comment\n\n{unquoted}\n# another\n"));
    watched.settle();
    assert!(alive(hello));

    watched.write("hello", &uci_text("2"));
    let reloaded = until_other_pid(&watched.device, "hello", hello);
    watched.settle();
    assert_eq!(watched.device.until_pid("hello"), reloaded);
    assert!(alive(other));

    watched.write_over("other", &uci_text("2"));
    until_other_pid(&watched.device, "other", other);
    assert!(alive(reloaded));
}

/// A format's file: its rest of a source, what it says, the same in other words, and something else.
const FORMATS: [(&str, &str, &str, &str, &str); 5] = [
    (
        "settings.json",
        "format = \"json\"",
        r#"{"a": {"b": 1}, "list": [1, 2], "word": "x"}"#,
        "{\n  \"word\": \"\\u0078\",\n  \"list\": [1,2],\n  \"a\": {\"b\": 1}\n}\n",
        r#"{"a": {"b": 1}, "list": [2, 1], "word": "x"}"#,
    ),
    (
        "settings.toml",
        "format = \"toml\"",
        "word = \"x\"\n[a]\nb = 1\n",
        "# a comment\na = { b = 0x1 }\n\nword = 'x' # another\n",
        "word = \"x\"\n[a]\nb = 2\n",
    ),
    (
        "settings.ini",
        "format = \"ini\"",
        "[one]\nkey=value\nother=2\n",
        "; a comment\n\n[one]\n  other = 2\n  key = value\n",
        "[two]\nkey=value\nother=2\n",
    ),
    (
        "hosts",
        "format = \"lines\"\ncomment = \"#\"",
        "127.0.0.1 localhost\n10.0.0.1 gate\n",
        "# names\n127.0.0.1 localhost   \n\n10.0.0.1 gate",
        "10.0.0.1 gate\n127.0.0.1 localhost\n",
    ),
    ("blob", "format = \"bytes\"", "one\n", "one\n", "one\n\n"),
];

#[test]
fn in_every_format_only_what_is_said_counts() {
    let mut watched = Watched::new();
    let folder = watched.path("files");
    fs::create_dir(&folder).unwrap();
    let paths: Vec<_> = FORMATS.iter().map(|format| folder.join(format.0)).collect();
    let sources: Vec<_> =
        paths.iter().zip(FORMATS).map(|(path, format)| (path.as_path(), format.1)).collect();
    watched.configure("", &sources);
    let service = |at: usize| format!("service{at}");
    for (at, (path, format)) in paths.iter().zip(FORMATS).enumerate() {
        fs::write(path, format.2).unwrap();
        watched.counted(&service(at), path);
    }
    watched.start();
    for (path, format) in paths.iter().zip(FORMATS) {
        fs::write(path, format.3).unwrap();
    }
    watched.settle();
    for (at, (path, format)) in paths.iter().zip(FORMATS).enumerate() {
        fs::write(path, format.4).unwrap();
        // A file that ends without a line feed is a line all the same.
        let words: Vec<&str> = format.4.split_whitespace().collect();
        watched.until_seen(&service(at), &words.join(" "));
    }
    watched.settle();
    for (at, format) in FORMATS.iter().enumerate() {
        assert_eq!(watched.seen(&service(at)).len(), 1, "{}", format.0);
    }
}

#[test]
fn a_file_that_comes_and_one_that_goes_are_changes() {
    let mut watched = Watched::new();
    watched.counted("hello", &watched.uci("hello"));
    watched.start();
    watched.write("hello", &uci_text("1"));
    watched.until_seen("hello", "value '1'");
    fs::remove_file(watched.uci("hello")).unwrap();
    testkit::until("its end is seen", || (watched.seen("hello").len() == 2).then_some(()));
    assert_eq!(watched.seen("hello")[1], "");
    watched.settle();
    watched.write("hello", &uci_text("1"));
    watched.until_seen("hello", "value '1'");
    assert_eq!(watched.seen("hello").len(), 3);
}

/// Rests of editors lie beside a file, and a folder may be moved away and come back.
#[test]
fn an_editors_files_and_a_folder_that_comes_back_unchanged_reload_nothing() {
    let mut watched = Watched::new();
    watched.write("hello", &uci_text("1"));
    watched.counted("hello", &watched.uci("hello"));
    // Between two of these steps a busy machine may take long; that would be a file that is gone.
    watched.configure("quiet = \"1s\"\nlongest = \"10s\"", &[]);
    watched.start();
    watched.write(".hello.swp", "b0VIM");
    fs::rename(watched.uci("hello"), watched.uci("hello~")).unwrap();
    watched.write("hello", &format!("# by vim\n{}", uci_text("1")));
    fs::remove_file(watched.uci(".hello.swp")).unwrap();
    fs::rename(watched.path("uci"), watched.path("away")).unwrap();
    fs::rename(watched.path("away"), watched.path("uci")).unwrap();
    watched.settle();
    assert_eq!(watched.seen("hello"), [""; 0]);
    fs::rename(watched.path("uci"), watched.path("away")).unwrap();
    fs::create_dir(watched.path("uci")).unwrap();
    watched.write("hello", &uci_text("2"));
    watched.until_seen("hello", "value '2'");
}
