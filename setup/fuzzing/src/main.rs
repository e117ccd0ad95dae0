//! Turns corpora into files for a fuzzer and back; `setup/fuzz.sh` uses it.

use std::path::Path;
use std::{env, fs, process};

use fuzzing::Corpus;

fn main() {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let result = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["unpack", file, directory] => unpack(Path::new(file), Path::new(directory)),
        ["pack", directory, file] => pack(Path::new(directory), Path::new(file)),
        _ => Err("usage: fuzz-corpus unpack FILE DIRECTORY | pack DIRECTORY FILE".into()),
    };
    if let Err(error) = result {
        eprintln!("fuzz-corpus: {error}");
        process::exit(1);
    }
}

/// Writes each input of `file` to a file of its own.
fn unpack(file: &Path, directory: &Path) -> Result<(), String> {
    let text = fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
    let corpus = Corpus::parse(&text).map_err(|line| format!("{}:{line}", file.display()))?;
    for (place, input) in corpus.inputs().iter().enumerate() {
        let path = directory.join(format!("kept-{place}"));
        fs::write(&path, input).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(())
}

/// Writes all files of `directory` to `file`.
fn pack(directory: &Path, file: &Path) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("{}: {error}", directory.display());
    let mut inputs = Vec::new();
    for entry in fs::read_dir(directory).map_err(failed)? {
        inputs.push(fs::read(entry.map_err(failed)?.path()).map_err(failed)?);
    }
    let text = Corpus::new(inputs).to_text();
    fs::write(file, text).map_err(|error| format!("{}: {error}", file.display()))
}
