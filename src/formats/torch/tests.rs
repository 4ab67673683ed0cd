use super::*;
use proptest::prelude::*;
use std::io::Write;

/// An archive of these entries below `model/`.
fn archive(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, bytes) in entries {
        writer.start_file(*name, options()).unwrap();
        writer.write_all(bytes).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

fn file() -> Vec<u8> {
    let tensors: [(&str, &[usize], Encoding); 3] =
        [("a", &[2, 3], Encoding::F32), ("b", &[5], Encoding::BF16), ("c", &[], Encoding::F16)];
    let mut writer = super::StorageWriter::new(Cursor::new(Vec::new()), &tensors).unwrap();
    for (number, (_, shape, encoding)) in tensors.iter().enumerate() {
        let bytes = encoding.bytes(shape.iter().product()).unwrap();
        writer.next(bytes).unwrap();
        writer.write_all(&vec![number as u8 + 1; bytes]).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

#[test]
fn what_is_written_reads_back() {
    let file = file();
    let tensors = read(&file).unwrap();
    for (number, (name, encoding, shape)) in
        [("a", Encoding::F32, &[2, 3][..]), ("b", Encoding::BF16, &[5]), ("c", Encoding::F16, &[])]
            .into_iter()
            .enumerate()
    {
        let entry = &tensors[name];
        assert_eq!((entry.encoding, &entry.shape[..], &entry.strides), (encoding, shape, &None));
        let bytes = &file[entry.bytes.clone()];
        assert_eq!(bytes.len(), encoding.bytes(entry.elements()).unwrap());
        assert!(bytes.iter().all(|b| usize::from(*b) == number + 1));
        assert_eq!(entry.bytes.start % usize::from(ALIGNMENT), 0);
    }
}

/// The pickle of one tensor `w` of six f32, with this offset, shape and strides.
fn view(offset: u8, shape: &[u8], strides: &[u8]) -> Vec<u8> {
    let mut pickle =
        b"\x80\x02}X\x01\0\0\0wctorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storagectorch\nFloatStorage\n\
        X\x01\0\0\x000X\x03\0\0\0cpuK\x06tQK"
            .to_vec();
    pickle.push(offset);
    for sizes in [shape, strides] {
        pickle.push(b'(');
        sizes.iter().for_each(|n| pickle.extend([b'K', *n]));
        pickle.push(b't');
    }
    pickle.extend(b"\x89}tRs.");
    pickle
}

fn storage() -> Vec<u8> {
    (0..6).flat_map(|i| (i as f32).to_le_bytes()).collect()
}

#[test]
fn views_are_read_with_their_strides() {
    for (offset, shape, strides, expected) in [
        (0, &[2, 3][..], &[3, 1][..], vec![0.0, 1.0, 2.0, 3.0, 4.0, 5.0]),
        (0, &[3, 2], &[1, 3], vec![0.0, 3.0, 1.0, 4.0, 2.0, 5.0]),
        (1, &[2, 2], &[3, 1], vec![1.0, 2.0, 4.0, 5.0]),
        (5, &[1], &[9], vec![5.0]),
        (4, &[], &[], vec![4.0]),
    ] {
        let file = archive(&[("m/data.pkl", &view(offset, shape, strides)), ("m/data/0", &storage())]);
        let entry = &read(&file).unwrap()["w"];
        let mut values = vec![f32::NAN; entry.elements()];
        entry.decode(&file, 0..entry.rows(), &mut values).unwrap();
        assert_eq!(values, expected);
        let mut last = vec![f32::NAN; entry.row()];
        entry.decode(&file, entry.rows() - 1..entry.rows(), &mut last).unwrap();
        assert_eq!(last, expected[expected.len() - entry.row()..]);
    }
}

#[test]
fn what_does_more_than_build_tensors_is_refused_by_name() {
    let storage = storage();
    let with = |pickle: &[u8]| archive(&[("m/data.pkl", pickle), ("m/data/0", &storage)]);
    let good = view(0, &[2, 3], &[3, 1]);
    let deep = [&b"\x80\x02"[..], b")", &vec![0x85; 1 << 19], b"."].concat();
    for (file, reason) in [
        (
            with(b"\x80\x02cos\nsystem\n(X\x02\0\0\0lstR."),
            "names `os.system`, which tensors do not need; nothing of it was run",
        ),
        (with(b"\x80\x02cbuiltins\neval\n."), "names `builtins.eval`"),
        (with(b"\x80\x04\x8c\x05posix\x8c\x06system\x93."), "names `posix.system`"),
        (with(b"\x80\x02ctorch._utils\n_rebuild_sparse_tensor\n."), "names `torch._utils._rebuild_sparse_tensor`"),
        (with(b"\x80\x02ctorch.jit._pickle\nrestore\n."), "names `torch.jit._pickle.restore`"),
        (with(b"\x80\x02ccollections\nOrderedDict\n(K\x01tR."), "does not build tensors as torch.save does"),
        (with(b"\x80\x02i"), "opcode 0x69"),
        (with(b"\x80\x02K\x01."), "not a dictionary of tensors"),
        (with(b"\x80\x02}X\x01\0\0\0aK\x01s."), "something other than tensors"),
        (with(&deep), "not a dictionary of tensors"),
        (with(b"\x80\x02R"), "takes more from its stack"),
        (with(b"\x80\x02t"), "takes more from its stack"),
        (with(b"\x80\x02(K\x01(\x86"), "takes more from its stack"),
        (with(b"\x80\x02h\x07"), "recalls what it has not put down"),
        (with(b"\x80\x02X\xff\xff\xff\xff"), "ends early"),
        (with(b"\x80\x02ctorch"), "ends early"),
        (with(b"\x80\x09"), "protocol 9"),
        (with(b""), "ends early"),
        (with(&view(1, &[2, 3], &[3, 1])), "reaches beyond its storage"),
        (with(&view(0, &[2, 3], &[200, 1])), "reaches beyond its storage"),
        (with(&view(0, &[200, 200], &[0, 0])), "repeats elements"),
        (with(&view(0, &[2], &[3, 1])), "has the shape [2] and the strides [3, 1]"),
        (archive(&[("m/data.pkl", &good), ("m/data/0", &storage[..20])]), "which is not the 20 bytes in the archive"),
        (archive(&[("m/data.pkl", &good), ("m/data/1", &storage)]), "has no storage in the archive"),
        (archive(&[("m/data/0", &storage)]), "has no m/data.pkl"),
        (archive(&[("m/data.pkl", &good), ("n/data/0", &storage)]), "has two folders"),
        (archive(&[("data.pkl", &good)]), "holds `data.pkl`"),
        (archive(&[("m/data.pkl", &good), ("m/data/0", &storage), ("m/byteorder", b"big")]), "big-endian"),
        (archive(&[("m/data.pkl", &vec![0; MAX_PICKLE_BYTES + 1])]), "more than"),
        (b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M".to_vec(), "old format, without a zip archive"),
        (b"not a zip".to_vec(), "not a zip archive"),
        (Vec::new(), "not a zip archive"),
    ] {
        let refusal = read(&file).unwrap_err();
        assert!(refusal.contains(reason), "{reason}: {refusal}");
    }
    assert!(read(&with(&good)).is_ok());
    let whole = with(&good);
    for length in 0..whole.len() {
        assert!(read(&whole[..length]).is_err(), "cut to {length} bytes");
    }
}

#[test]
fn overlapping_entries_are_refused() {
    // Both storages are said to lie where the first does.
    let storage = storage();
    let good = archive(&[("m/data.pkl", &view(0, &[6], &[1])), ("m/data/0", &storage), ("m/data/1", &storage)]);
    let central: Vec<usize> = (0..good.len() - 4).filter(|i| good[*i..].starts_with(b"PK\x01\x02")).collect();
    let mut file = good.clone();
    let offset: [u8; 4] = good[central[1] + 42..central[1] + 46].try_into().unwrap();
    file[central[2] + 42..central[2] + 46].copy_from_slice(&offset);
    assert!(read(&good).is_ok());
    assert!(read(&file).unwrap_err().contains("overlap"));
}

proptest! {
    #[test]
    fn any_damage_is_consistent_or_refused(
        damage in prop::collection::vec((any::<prop::sample::Index>(), prop_oneof![any::<u8>(), Just(255), Just(0)]), 1..6),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut bytes = file();
        for (place, value) in damage {
            let place = place.index(bytes.len());
            bytes[place] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        if let Ok(tensors) = read(&bytes) {
            for tensor in tensors.values() {
                let mut row = vec![0.0; tensor.row()];
                if tensor.encoding.is_readable() && tensor.rows() > 0 {
                    tensor.decode(&bytes, tensor.rows() - 1..tensor.rows(), &mut row).unwrap();
                }
            }
        }
    }

    /// Programs of known opcodes in any order.
    #[test]
    fn any_program_ends(code in prop::collection::vec(prop::sample::select(b"\x80\x02})]N\x88J\x00K\x01M\x8aX(t\x85\x86\x87qrhjc\x93QRbsu.\n\x94\x95\x8c".to_vec()), 0..200)) {
        let _ = pickle::read(&code);
    }
}
