//! The program that the claims are about.

use std::path::PathBuf;
use std::process::Command;

/// The program under test.
#[derive(Clone, Debug)]
pub struct Program(PathBuf);

impl Program {
    /// The one that Cargo built; or, where that file cannot be reached, the copy that `KUGURI_UNDER_TEST` names.
    #[must_use]
    pub fn new(built: &str) -> Self {
        let copy = std::env::var_os("KUGURI_UNDER_TEST");
        Self(copy.map_or_else(|| built.into(), PathBuf::from))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &std::path::Path {
        &self.0
    }

    /// A call of it that sees nothing of the caller's own settings.
    #[must_use]
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.0);
        command.args(arguments);
        for setting in ["KUGURI_STATE", "KUGURI_INVITE", "KUGURI_LOG"] {
            command.env_remove(setting);
        }
        command
    }
}
