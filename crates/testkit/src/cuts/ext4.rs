//! A file system after a power cut, made good with the tool that the device itself would use, and looked at without mounting it.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use anyhow::{Context as _, Result, ensure};

/// Where these tools are, if not in PATH.
const FOLDERS: [&str; 2] = ["/usr/sbin", "/sbin"];

/// Replays the journal as a device does at its start. What is left must be without any fault.
///
/// # Errors
/// What is wrong with it.
pub(super) fn recover(image: &Path) -> Result<()> {
    let preened = tool("e2fsck", &["-p"], image)?;
    // 1: something was put right, such as an orphan; 4 and more: something is left that takes a person.
    let code = preened.status.code();
    ensure!(matches!(code, Some(0 | 1)), "the file system can't be recovered: {}", told(&preened));
    let checked = tool("e2fsck", &["-fn"], image)?;
    ensure!(checked.status.success(), "the file system is damaged: {}", told(&checked));
    Ok(())
}

/// Writes all files of it into a folder, which is emptied before.
///
/// # Errors
/// What can't be read.
pub(super) fn dump(image: &Path, into: &Path) -> Result<()> {
    match fs::remove_dir_all(into) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
        _ => fs::create_dir(into)?,
    }
    let output = tool("debugfs", &["-R", &format!("rdump / {}", into.display())], image)?;
    let errors = String::from_utf8_lossy(&output.stderr);
    // It tells its version first, and, to an ordinary user, that files of others are the user's now.
    let problem = errors.lines().skip(1).find(|line| !line.contains("ownership"));
    let read = output.status.success() && problem.is_none();
    ensure!(read, "the files can't be read: {}", problem.unwrap_or_default());
    Ok(())
}

fn tool(name: &str, options: &[&str], image: &Path) -> Result<Output> {
    let program = FOLDERS.map(|folder| Path::new(folder).join(name)).into_iter();
    let program =
        program.into_iter().find(|path| path.is_file()).unwrap_or_else(|| PathBuf::from(name));
    let output = Command::new(&program).args(options).arg(image).output();
    output.with_context(|| format!("{}: install e2fsprogs", program.display()))
}

/// What a tool said, on one line.
fn told(output: &Output) -> String {
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    let text = String::from_utf8_lossy(&text).trim().replace('\n', "; ");
    format!("{}: {text:.600}", output.status)
}
