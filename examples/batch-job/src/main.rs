//! A program with an end: sums the numbers up to N and exits 0, or with the code it is told.
//!
//! `batch-job [--up-to N] [--exit CODE]`

use std::process::ExitCode;

fn main() -> ExitCode {
    match options(std::env::args().skip(1)) {
        Ok((up_to, code)) => {
            println!("the sum of 1 to {up_to} is {}", (1..=u128::from(up_to)).sum::<u128>());
            kogia_sdk::exit(code)
        }
        Err(message) => {
            eprintln!("{message}\nusage: batch-job [--up-to N] [--exit CODE]");
            kogia_sdk::exit(2)
        }
    }
}

fn options(mut args: impl Iterator<Item = String>) -> Result<(u32, u8), String> {
    let (mut up_to, mut code) = (1_000_000, 0);
    while let Some(flag) = args.next() {
        let value = args.next().ok_or_else(|| format!("{flag} wants a number"))?;
        let wrong = |error: std::num::ParseIntError| format!("{flag} {value}: {error}");
        match flag.as_str() {
            "--up-to" => up_to = value.parse().map_err(wrong)?,
            "--exit" => code = value.parse().map_err(wrong)?,
            _ => return Err(format!("{flag} is not known")),
        }
    }
    Ok((up_to, code))
}
