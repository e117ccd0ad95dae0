//! Runs one part for so many blocks of messages, for a tool that counts what it does.

use std::process::ExitCode;

use costs::{BLOCK, NAMES, NoGauge, part};

fn main() -> ExitCode {
    let arguments = std::env::args().skip(1).collect::<Vec<_>>();
    let [name, blocks] = &arguments[..] else { return usage() };
    let (Some(mut part), Ok(blocks)) = (part(name), blocks.parse::<usize>()) else {
        return usage();
    };
    (0..blocks).for_each(|_| part.handle_block(&mut NoGauge));
    println!("{}", blocks * BLOCK);
    ExitCode::SUCCESS
}

fn usage() -> ExitCode {
    eprintln!("Usage: costs PART BLOCKS\nParts: {}", NAMES.join(", "));
    ExitCode::from(2)
}
