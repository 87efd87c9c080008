//! The `antipode` binary: all of it is in the library.

fn main() -> std::process::ExitCode {
    antipode::cli::main().into()
}
