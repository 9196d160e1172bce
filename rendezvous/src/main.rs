//! `kuguri-rendezvous`: the public server as a program of its own.

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser;

#[derive(Parser)]
#[command(name = "kuguri-rendezvous", version, about)]
struct Arguments {
    #[command(flatten)]
    options: kuguri_rendezvous::Options,
}

fn main() -> ExitCode {
    match kuguri_rendezvous::run(Arguments::parse().options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nothing is left to be done when stderr is closed too.
            let _ = writeln!(anstream::stderr(), "kuguri-rendezvous: {error:#}");
            ExitCode::FAILURE
        }
    }
}
