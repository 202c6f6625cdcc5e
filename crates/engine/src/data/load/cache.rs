//! Encoded rows kept for the next run of the same data.
//!
//! A file is named by a hash of everything that its rows follow from: the bytes of the dataset files,
//! their entries, the arguments, the template, the tokenizer and this program's version. It carries a
//! hash of its own contents, and what does not match is encoded again. Numbers are little-endian.

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use super::super::encode::Row;
use super::super::error::DataError;
use super::super::info::DatasetInfo;
use super::super::source;
use super::super::template::{Template, ToolText};
use super::super::tokenizer::Tokenizer;
use super::super::tools::ToolFormat;
use super::{DataArgs, Dataset};

/// Changes with the layout of a file.
const MAGIC: &[u8; 8] = b"tallowt1";
/// What a file's name ends with.
const SUFFIX: &str = "tokens";
/// The oldest files go when all of them together are larger.
const MOST: u64 = 16 << 30;

/// The place of one run's rows.
#[derive(Debug)]
pub(super) struct Place {
    folder: PathBuf,
    path: PathBuf,
}

impl Place {
    /// Where the rows of these arguments are kept; `None` where nothing is kept.
    pub(super) fn of(
        args: &DataArgs,
        infos: [&[DatasetInfo]; 2],
        kit: Option<(&Tokenizer, &Template)>,
    ) -> Result<Option<Self>, DataError> {
        let Some(folder) = args.cache.clone() else {
            return Ok(None);
        };
        let mut hash = blake3::Hasher::new();
        hash.update(MAGIC);
        hash.update(env!("CARGO_PKG_VERSION").as_bytes());
        let mut of_data = DataArgs { cache: None, overwrite_cache: false, ..args.clone() };
        of_data.template_options.date = None;
        hash.update(format!("{of_data:?}\n{infos:?}\n").as_bytes());
        if let Some((tokenizer, template)) = kit {
            hash.update(&tokenizer.fingerprint());
            let mut template = template.clone();
            // Tomorrow's rows are today's where no text tells the day.
            if template.tool_text != ToolText::Format(ToolFormat::Llama3) {
                template.date = None;
            }
            hash.update(format!("{template:?}").as_bytes());
        }
        for info in infos.into_iter().flatten() {
            for path in source::files(&info.path)? {
                hash.update(path.as_os_str().as_encoded_bytes());
                let file = File::open(&path).map_err(DataError::file(&path))?;
                hash.update_reader(file).map_err(DataError::file(&path))?;
            }
        }
        let path = folder.join(format!("{}.{SUFFIX}", hash.finalize().to_hex()));
        Ok(Some(Self { folder, path }))
    }

    /// The rows that are kept here; `None` where there are none, or they are not whole.
    pub(super) fn load(&self) -> Option<Dataset> {
        let file = File::open(&self.path).ok()?;
        let left = file.metadata().ok()?.len();
        let mut input = Input {
            inner: BufReader::with_capacity(1 << 20, file),
            hash: blake3::Hasher::new(),
            left,
        };
        match input.dataset() {
            Ok(dataset) => Some(dataset),
            Err(_) => {
                // Damaged: the next to look must not read it again.
                let _ = fs::remove_file(&self.path);
                None
            }
        }
    }

    /// Keeps rows for the next run.
    ///
    /// # Errors
    /// When the folder cannot be written to.
    pub(super) fn store(&self, dataset: &Dataset) -> io::Result<()> {
        fs::create_dir_all(&self.folder)?;
        run::atomic::write_with(&self.path, |file| {
            let inner = BufWriter::with_capacity(1 << 20, file);
            let mut output = Output { inner, hash: blake3::Hasher::new() };
            output.dataset(dataset)?;
            let hash = output.hash.finalize();
            output.inner.write_all(hash.as_bytes())?;
            output.inner.flush()
        })?;
        prune(&self.folder, &self.path, MOST)
    }

    /// The file.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

/// Removes the oldest files until all of them have no more than `most` bytes; `newest` stays.
fn prune(folder: &Path, newest: &Path, most: u64) -> io::Result<()> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == SUFFIX) && path != newest {
            let about = fs::metadata(&path)?;
            files.push((about.modified()?, about.len(), path));
        }
    }
    files.sort();
    let mut total = fs::metadata(newest)?.len() + files.iter().map(|f| f.1).sum::<u64>();
    for (_, size, path) in files {
        if total <= most {
            break;
        }
        fs::remove_file(path)?;
        total -= size;
    }
    Ok(())
}

struct Output<W> {
    inner: W,
    hash: blake3::Hasher,
}

impl<W: Write> Output<W> {
    fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hash.update(bytes);
        self.inner.write_all(bytes)
    }

    fn number(&mut self, number: usize) -> io::Result<()> {
        self.bytes(&(number as u64).to_le_bytes())
    }

    fn text(&mut self, text: &str) -> io::Result<()> {
        self.number(text.len())?;
        self.bytes(text.as_bytes())
    }

    fn dataset(&mut self, dataset: &Dataset) -> io::Result<()> {
        self.bytes(MAGIC)?;
        self.text(&serde_json::to_string(&dataset.report)?)?;
        self.rows(&dataset.train)?;
        self.number(dataset.eval.len())?;
        for (name, rows) in &dataset.eval {
            self.text(name)?;
            self.rows(rows)?;
        }
        Ok(())
    }

    fn rows(&mut self, rows: &[Row]) -> io::Result<()> {
        self.number(rows.len())?;
        let mut bytes = Vec::new();
        for row in rows {
            bytes.clear();
            let counts =
                [row.input_ids.len(), row.segments.len(), row.padding, usize::from(row.neat)];
            let segments = row.segments.iter();
            let numbers = counts.iter().chain(segments).map(|n| *n as u32);
            let ids = row.input_ids.iter().copied();
            let labels = row.labels.iter().map(|label| *label as u32);
            bytes.extend(numbers.chain(ids).chain(labels).flat_map(u32::to_le_bytes));
            self.bytes(&bytes)?;
        }
        Ok(())
    }
}

struct Input<R> {
    inner: R,
    hash: blake3::Hasher,
    /// Bytes of the file that are still to come: no size may promise more.
    left: u64,
}

impl<R: Read> Input<R> {
    fn bytes(&mut self, count: usize) -> io::Result<Vec<u8>> {
        self.left = self.left.checked_sub(count as u64).ok_or(io::ErrorKind::UnexpectedEof)?;
        let mut bytes = vec![0; count];
        self.inner.read_exact(&mut bytes)?;
        self.hash.update(&bytes);
        Ok(bytes)
    }

    fn number(&mut self) -> io::Result<usize> {
        let bytes = self.bytes(8)?.try_into().map_err(|_| io::ErrorKind::InvalidData)?;
        Ok(usize::try_from(u64::from_le_bytes(bytes)).map_err(|_| io::ErrorKind::InvalidData)?)
    }

    fn text(&mut self) -> io::Result<String> {
        let length = self.number()?;
        String::from_utf8(self.bytes(length)?).map_err(io::Error::other)
    }

    fn words(&mut self, count: usize) -> io::Result<impl Iterator<Item = u32> + use<R>> {
        let bytes = self.bytes(count.checked_mul(4).ok_or(io::ErrorKind::InvalidData)?)?;
        let words: Vec<u32> =
            bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        Ok(words.into_iter())
    }

    fn dataset(&mut self) -> io::Result<Dataset> {
        if self.bytes(MAGIC.len())? != MAGIC {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut dataset =
            Dataset { report: serde_json::from_str(&self.text()?)?, ..Dataset::default() };
        dataset.train = self.rows()?;
        for _ in 0..self.number()? {
            dataset.eval.push((self.text()?, self.rows()?));
        }
        let hash = self.hash.finalize();
        if self.bytes(blake3::OUT_LEN)? == hash.as_bytes() && self.left == 0 {
            Ok(dataset)
        } else {
            Err(io::ErrorKind::InvalidData.into())
        }
    }

    fn rows(&mut self) -> io::Result<Vec<Row>> {
        let count = self.number()?;
        let mut rows = Vec::new();
        for _ in 0..count {
            let counts: Vec<usize> = self.words(4)?.map(|n| n as usize).collect();
            let [length, segments, padding, neat] = counts[..] else {
                return Err(io::ErrorKind::InvalidData.into());
            };
            rows.push(Row {
                segments: self.words(segments)?.map(|n| n as usize).collect(),
                input_ids: self.words(length)?.collect(),
                labels: self.words(length)?.map(|label| label as i32).collect(),
                neat: neat != 0,
                padding,
            });
        }
        Ok(rows)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn rows_come_back_and_damage_is_seen() {
        let row = |n: u32| Row {
            input_ids: (0..n).collect(),
            labels: (0..n as i32).map(|i| i - 100).collect(),
            segments: if n > 2 { vec![2, n as usize - 2] } else { Vec::new() },
            neat: n > 2,
            padding: 3,
        };
        let dataset = Dataset {
            train: vec![row(1), row(5)],
            eval: vec![(String::new(), vec![row(0)]), ("é".into(), Vec::new())],
            report: crate::data::Report {
                rows: 3,
                notices: vec!["a".into()],
                ..Default::default()
            },
        };
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.tokens");
        let place = Place { folder: folder.path().to_owned(), path: path.clone() };
        place.store(&dataset).unwrap();
        let loaded = place.load().unwrap();
        assert_eq!((&loaded.train, &loaded.eval), (&dataset.train, &dataset.eval));
        assert_eq!(loaded.report, dataset.report);
        let whole = fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 0x40;
            fs::write(&path, &changed).unwrap();
            assert!(place.load().is_none() && !path.exists(), "byte {at}");
            fs::write(&path, &whole[..at]).unwrap();
            assert!(place.load().is_none(), "cut at {at}");
        }
        fs::write(&path, [&whole[..], &[0]].concat()).unwrap();
        assert!(place.load().is_none());
    }

    #[test]
    fn the_oldest_go_first() {
        let folder = tempfile::tempdir().unwrap();
        let old = std::time::SystemTime::UNIX_EPOCH;
        for (name, age) in [("a.tokens", 3), ("b.tokens", 1), ("c.tokens", 2), ("d.other", 0)] {
            let path = folder.path().join(name);
            fs::write(&path, [0; 10]).unwrap();
            let file = File::options().write(true).open(&path).unwrap();
            file.set_modified(old + std::time::Duration::from_secs(age)).unwrap();
        }
        let newest = folder.path().join("c.tokens");
        prune(folder.path(), &newest, 25).unwrap();
        let left = |name: &str| folder.path().join(name).exists();
        assert_eq!(
            [left("a.tokens"), left("b.tokens"), left("c.tokens"), left("d.other")],
            [true, false, true, true]
        );
    }
}
