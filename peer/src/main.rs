//! The program.

fn main() -> std::process::ExitCode {
    kuguri::cli::main()
}
