//! One file, or a stream such as standard input, as decompressed bytes.

use std::fs::{self, File, Metadata};
use std::io::{self, BufReader, ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use flate2::bufread::MultiGzDecoder;

/// Bytes that a decompressor asks its file for.
const COMPRESSED_CHUNK: usize = 256 << 10;

/// How the bytes of a file are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Plain,
    Gzip,
    Zstd,
}

impl Format {
    fn of(path: &Path) -> Self {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("gz") => Self::Gzip,
            Some("zst") => Self::Zstd,
            _ => Self::Plain,
        }
    }

    fn decode(self, file: File) -> io::Result<Box<dyn Read + Send>> {
        Ok(match self {
            Self::Plain => Box::new(file),
            Self::Gzip => Box::new(MultiGzDecoder::new(BufReader::with_capacity(
                COMPRESSED_CHUNK,
                file,
            ))),
            Self::Zstd => {
                let file = BufReader::with_capacity(COMPRESSED_CHUNK, file);
                Box::new(zstd::Decoder::with_buffer(file)?)
            }
        })
    }
}

/// What has happened to a file since it was last looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// Nothing.
    None,
    /// There is more to read.
    Grown,
    /// It is shorter than what was read of it: so many bytes.
    Shorter(u64),
    /// Another file has taken its place.
    Replaced,
}

/// A regular file: it can be looked at again, and positions in it can be sought.
struct Regular {
    path: PathBuf,
    format: Format,
    inode: (u64, u64),
    /// The length up to which it was (or is being) read, as it is stored.
    len: u64,
}

/// An open input.
pub(super) struct Input {
    reader: Box<dyn Read + Send>,
    /// `None` for a stream: standard input, a named pipe.
    regular: Option<Regular>,
}

/// The length of a file that is stored as it is read.
pub(super) fn len(path: &Path) -> Option<u64> {
    let about = fs::metadata(path).ok()?;
    (about.is_file() && Format::of(path) == Format::Plain).then_some(about.len())
}

/// Whether reading `path` may wait for whoever writes it. A missing file does not.
pub(super) fn is_stream(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|about| !about.is_file())
}

impl Input {
    /// Standard input.
    pub fn stdin() -> Self {
        Self {
            reader: Box::new(io::stdin()),
            regular: None,
        }
    }

    /// Opens `path` so that the next byte read is the one at `from`. `None` when it is shorter.
    pub fn open(path: &Path, from: u64) -> io::Result<Option<Self>> {
        let mut file = File::open(path)?;
        let about = file.metadata()?;
        let format = Format::of(path);
        let mut skip = from;
        if about.is_file() && format == Format::Plain {
            if from > about.len() {
                return Ok(None);
            }
            file.seek(SeekFrom::Start(from))?;
            skip = 0;
        }
        let mut input = Self {
            reader: decoder(format, file, &about, 0)?,
            regular: about.is_file().then(|| Regular::new(path, format, &about)),
        };
        let skipped = io::copy(&mut input.reader.by_ref().take(skip), &mut io::sink())?;
        Ok((skipped == skip).then_some(input))
    }

    /// Whether this is a stream: nobody knows its length, and reading may block.
    pub fn is_stream(&self) -> bool {
        self.regular.is_none()
    }

    /// The length of a file that is stored as it is read; `None`: nobody knows before its end is met.
    pub fn len(&self) -> Option<u64> {
        len(&self.regular.as_ref()?.path)
    }

    /// Reads into `space`, all of it if there is that much (of a stream: what there is). The
    /// count is right also when an error follows it.
    pub fn fill(&mut self, space: &mut [u8]) -> (usize, io::Result<()>) {
        let mut filled = 0;
        while filled < space.len() {
            match self.reader.read(&mut space[filled..]) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return (filled, Err(error)),
            }
            if self.is_stream() {
                break;
            }
        }
        (filled, Ok(()))
    }

    /// Looks at the file again after its end was met at the decompressed position `read_to`, and
    /// makes what was added to it readable.
    pub fn look_again(&mut self, read_to: u64) -> io::Result<Change> {
        let Some(regular) = &mut self.regular else {
            return Ok(Change::None);
        };
        let about = match fs::metadata(&regular.path) {
            Ok(about) => about,
            // Moved or deleted: what was read stays read.
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Change::None),
            Err(error) => return Err(error),
        };
        let known = if regular.format == Format::Plain {
            read_to
        } else {
            regular.len
        };
        if inode(&about) != regular.inode {
            Ok(Change::Replaced)
        } else if about.len() < known {
            Ok(Change::Shorter(about.len()))
        } else if about.len() == known {
            Ok(Change::None)
        } else {
            if regular.format != Format::Plain {
                // A decompressor that has met its end stays there. What was added is a new gzip
                // member or zstd frame, which begins where the file ended.
                let mut file = File::open(&regular.path)?;
                file.seek(SeekFrom::Start(known))?;
                self.reader = decoder(regular.format, file, &about, known)?;
                regular.len = about.len();
            }
            Ok(Change::Grown)
        }
    }
}

impl Regular {
    fn new(path: &Path, format: Format, about: &Metadata) -> Self {
        Self {
            path: path.to_owned(),
            format,
            inode: inode(about),
            len: about.len(),
        }
    }
}

fn inode(about: &Metadata) -> (u64, u64) {
    (about.dev(), about.ino())
}

/// Reads what `file` holds from the stored position `at` to the length that `about` knows.
/// Without a single byte that is nothing, rather than a gzip file that lacks its header.
fn decoder(
    format: Format,
    file: File,
    about: &Metadata,
    at: u64,
) -> io::Result<Box<dyn Read + Send>> {
    if format != Format::Plain && about.is_file() && about.len() == at {
        return Ok(Box::new(io::empty()));
    }
    format.decode(file)
}
