//! The toolbox as a program: one component with many commands.

use std::io::IsTerminal;
use std::process::ExitCode;

use toolbox::Streams;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().collect();
    let talks = toolbox::is_bare(&args) && std::io::stdin().is_terminal();
    let (mut stdin, mut stdout, mut stderr) = (std::io::stdin().lock(), std::io::stdout().lock(), std::io::stderr());
    let mut streams = Streams { stdin: &mut stdin, stdout: &mut stdout, stderr: &mut stderr };
    if talks { toolbox::talk(&mut streams) } else { toolbox::run(&args, &mut streams) }
}
