//! The toolbox as a program: one component with many commands.

use std::process::ExitCode;

use toolbox::Streams;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    let (mut stdin, mut stdout, mut stderr) = (std::io::stdin().lock(), std::io::stdout().lock(), std::io::stderr());
    toolbox::run(&args, &mut Streams { stdin: &mut stdin, stdout: &mut stdout, stderr: &mut stderr })
}
