//! The program `kuguri` under a name of its own: Cargo builds it for the claims about real processes.

fn main() -> std::process::ExitCode {
    kuguri::cli::main()
}
