//! `vestal-driver`: a dynamic program, because a static one can't load a driver; not part of `vestal-suite`.

fn main() -> std::process::ExitCode {
    vestal_driver::main()
}
