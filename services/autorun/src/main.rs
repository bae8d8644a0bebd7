//! `vestal-autorun` as a program of its own; in `vestal-suite` it is one of many.

fn main() -> std::process::ExitCode {
    vestal_autorun::main()
}
