//! From a store, or a running member, into a file.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use futures::TryStreamExt;
use object_store::ObjectStoreExt;
use zstd::stream::write::Decoder;

use super::place::Place;
use super::source::{Source, cut_off};
use super::{BackupError, io_error};

/// What every Zstandard frame begins with.
const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// Fetches a backup, or a snapshot that is not compressed, into a new file. A file that was cut off is found out by the
/// checksum of the snapshot, not here.
pub async fn fetch(place: &Place, to: &Path) -> Result<(), BackupError> {
    let failed = |source| BackupError::Io { path: to.display().to_string(), source };
    let file = File::create_new(to).map_err(failed)?;
    let mut chunks = place.store.get(&place.key).await?.into_stream();
    let mut sink = Sink::Unknown(file, Vec::new());
    while let Some(chunk) = chunks.try_next().await? {
        sink = sink.write(&chunk).map_err(failed)?;
    }
    sink.finish().map_err(io_error(to))
}

/// Copies a running member's snapshot into a new file. One that was cut off is found out likewise.
pub async fn copy(source: &Source, to: &Path) -> Result<(), BackupError> {
    source.catch_up().await?;
    let mut file = BufWriter::new(File::create_new(to).map_err(io_error(to))?);
    let mut stream = source.snapshot().await?;
    while let Some(message) = stream.message().await.map_err(cut_off)? {
        file.write_all(&message.blob).map_err(io_error(to))?;
    }
    file.flush().map_err(io_error(to))
}

/// What is compressed is seen by its first bytes.
enum Sink {
    Unknown(File, Vec<u8>),
    Plain(BufWriter<File>),
    Compressed(Box<Decoder<'static, BufWriter<File>>>),
}

impl Sink {
    fn write(self, chunk: &[u8]) -> io::Result<Self> {
        match self {
            Self::Unknown(file, mut head) => {
                head.extend_from_slice(chunk);
                if head.len() < MAGIC.len() {
                    return Ok(Self::Unknown(file, head));
                }
                let file = BufWriter::new(file);
                match head.starts_with(&MAGIC) {
                    true => Self::Compressed(Box::new(Decoder::new(file)?)),
                    false => Self::Plain(file),
                }
                .write(&head)
            }
            Self::Plain(mut file) => file.write_all(chunk).map(|()| Self::Plain(file)),
            Self::Compressed(mut decoder) => decoder.write_all(chunk).map(|()| Self::Compressed(decoder)),
        }
    }

    fn finish(self) -> io::Result<()> {
        match self {
            Self::Unknown(mut file, head) => file.write_all(&head),
            Self::Plain(mut file) => file.flush(),
            Self::Compressed(mut decoder) => {
                decoder.flush()?;
                decoder.get_mut().flush()
            }
        }
    }
}
