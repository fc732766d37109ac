use std::collections::BTreeMap;
use std::io::{BufWriter, Write};
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;

use proptest::prelude::*;

use super::{BoltError, Reader, Writer};

type Buckets = BTreeMap<Vec<u8>, BTreeMap<Vec<u8>, Vec<u8>>>;

fn write(buckets: &Buckets) -> (tempfile::NamedTempFile, u64) {
    let file = tempfile::NamedTempFile::new().unwrap();
    let mut writer = Writer::new(BufWriter::new(file.reopen().unwrap())).unwrap();
    for (name, entries) in buckets {
        writer.bucket(name).unwrap();
        for (key, value) in entries {
            writer.put(key, value).unwrap();
        }
    }
    let (_, size) = writer.finish().unwrap();
    (file, size)
}

fn read(reader: &Reader) -> Result<Buckets, BoltError> {
    let mut buckets = Buckets::new();
    for bucket in reader.buckets()? {
        let entries = buckets.entry(bucket.name.clone()).or_default();
        reader.for_each(&bucket, &mut |key, value| {
            entries.insert(key.to_vec(), value.to_vec());
            Ok(ControlFlow::Continue(()))
        })?;
    }
    Ok(buckets)
}

fn buckets() -> impl Strategy<Value = Buckets> {
    let key = prop_oneof![
        8 => prop::collection::vec(any::<u8>(), 1..20),
        1 => prop::collection::vec(any::<u8>(), 1..9000),
    ];
    let value = prop_oneof![
        8 => prop::collection::vec(any::<u8>(), 0..300),
        1 => prop::collection::vec(any::<u8>(), 3000..20000),
    ];
    let entries = prop::collection::btree_map(key, value, 0..200);
    prop::collection::btree_map(prop::collection::vec(any::<u8>(), 1..10), entries, 0..8)
}

proptest! {
    #![proptest_config(crate::fuzz::cases(48))]

    #[test]
    fn what_is_written_is_read_back(buckets in buckets()) {
        let (file, size) = write(&buckets);
        prop_assert_eq!(file.as_file().metadata().unwrap().len(), size);
        let reader = Reader::open(file.path()).unwrap();
        reader.check().unwrap();
        prop_assert_eq!(reader.size(), size);
        prop_assert_eq!(read(&reader).unwrap(), buckets);
    }

    /// Whatever is broken, the answer is an answer: no panic, no endless loop, no unbounded memory.
    #[test]
    fn damage_is_an_error_or_harmless(
        buckets in buckets(),
        hits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
        headers in prop::collection::vec((any::<prop::sample::Index>(), 0_u64..64, any::<u8>()), 0..6),
        length in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let (file, size) = write(&buckets);
        for (at, byte) in hits {
            file.as_file().write_all_at(&[byte], at.index(size as usize) as u64).unwrap();
        }
        for (page, at, byte) in headers {
            let page = 2 + page.index(size as usize / 4096 - 2) as u64;
            file.as_file().write_all_at(&[byte], page * 4096 + at).unwrap();
        }
        if let Some(length) = length {
            file.as_file().set_len(length.index(size as usize) as u64).unwrap();
        }
        if let Ok(reader) = Reader::open(file.path()) {
            let _ = reader.check();
            let _ = read(&reader);
        }
    }

    #[test]
    fn noise_is_refused(bytes in prop::collection::vec(any::<u8>(), 0..9000)) {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&bytes).unwrap();
        prop_assert!(Reader::open(file.path()).is_err());
    }
}

#[test]
fn many_keys_make_a_tree_of_several_levels() {
    let entries = (0..200_000_u64).map(|n| (n.to_be_bytes().to_vec(), vec![7; 40])).collect();
    let buckets = Buckets::from([(b"key".to_vec(), entries)]);
    let (file, _) = write(&buckets);
    let reader = Reader::open(file.path()).unwrap();
    reader.check().unwrap();
    assert!(read(&reader).unwrap() == buckets);
}

#[test]
fn keys_come_in_order_and_within_a_bucket() {
    let mut writer = Writer::new(std::io::Cursor::new(Vec::new())).unwrap();
    assert!(writer.put(b"a", b"").is_err());
    writer.bucket(b"b").unwrap();
    writer.put(b"b", b"").unwrap();
    assert!(writer.put(b"b", b"").is_err());
    assert!(writer.put(b"a", b"").is_err());
    assert!(writer.put(b"", b"").is_err());
    assert!(writer.put(&[1; 40000], b"").is_err());
}

#[test]
fn a_page_that_is_used_twice_is_found() {
    let entries = (0..2000_u64).map(|n| (n.to_be_bytes().to_vec(), vec![7; 40])).collect();
    let (file, size) = write(&Buckets::from([(b"key".to_vec(), entries)]));
    // The last branch's first child becomes its second one too.
    let mut bytes = std::fs::read(file.path()).unwrap();
    let branch = (3..size as usize / 4096).rev().find(|page| bytes[page * 4096 + 8] == 1).unwrap() * 4096;
    bytes.copy_within(branch + 24..branch + 32, branch + 40);
    std::fs::write(file.path(), &bytes).unwrap();
    let error = Reader::open(file.path()).unwrap().check().unwrap_err();
    assert!(error.to_string().contains("used twice"), "{error}");
}
