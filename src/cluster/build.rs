//! Which program a process runs: records travel as the memory of one build, and only the same build
//! reads them.

use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;

use twox_hash::XxHash3_64;

/// How much of the program is read at once, in bytes.
const CHUNK: usize = 1 << 20;

/// The program that runs now, also after another one was put into its place.
///
/// # Errors
/// When the system does not say.
pub fn program() -> io::Result<PathBuf> {
    let own = PathBuf::from("/proc/self/exe");
    if own.exists() {
        Ok(own)
    } else {
        std::env::current_exe()
    }
}

/// What tells the build of this program from others, and the machines that it is for.
///
/// # Errors
/// When the program cannot be read.
pub fn identity() -> io::Result<String> {
    let hash = hash(File::open(program()?)?)?;
    let order = if cfg!(target_endian = "big") {
        "big"
    } else {
        "little"
    };
    Ok(format!("{hash:016x}, {} bit, {order}-endian", usize::BITS))
}

/// XXH3 of each chunk, seeded with that of all before it.
fn hash(mut program: impl Read) -> io::Result<u64> {
    let (mut hash, mut chunk) = (0, Vec::with_capacity(CHUNK));
    loop {
        chunk.clear();
        if program
            .by_ref()
            .take(CHUNK as u64)
            .read_to_end(&mut chunk)?
            == 0
        {
            return Ok(hash);
        }
        hash = XxHash3_64::oneshot_with_seed(hash, &chunk);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_byte_anywhere_is_another_build() {
        let mut program = vec![1; CHUNK + 9];
        let first = hash(&program[..]).expect("read");
        assert_eq!(hash(&program[..]).expect("read"), first);
        for place in [0, CHUNK, CHUNK + 8] {
            program[place] = 2;
            assert_ne!(hash(&program[..]).expect("read"), first);
            program[place] = 1;
        }
        assert_ne!(hash(&program[1..]).expect("read"), first);
    }

    #[test]
    fn the_own_program_is_known() {
        let identity = identity().expect("read");
        assert!(identity.contains("-endian"), "{identity}");
    }
}
