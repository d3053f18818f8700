//! Tensors as NumPy stores them: a header that is a Python dictionary, then the elements.
//!
//! Little-endian and row-major, which is what NumPy writes here. NumPy has no half of ONNX's small types:
//! `ml_dtypes` stores them as opaque bytes (`V1`, `V2`), which are read as the type that the graph declares.

use std::fmt::Write;

use anyhow::{Context, Result, bail, ensure};
use half::{bf16, f16};
use stoker_graph::{DType, Data, Value};

const MAGIC: &[u8] = b"\x93NUMPY";
/// The header, with what comes before it, is as long as a multiple of this: NumPy maps files into memory.
const ALIGNMENT: usize = 64;

/// Reads a tensor. `declared` says what opaque elements are.
pub fn read(bytes: &[u8], declared: DType) -> Result<Value> {
    let (header, payload) = split(bytes)?;
    let descr = field(header, "descr")?;
    let fortran = field(header, "fortran_order")?;
    ensure!(
        fortran.starts_with("False"),
        "its elements are in column-major order; use numpy.ascontiguousarray"
    );
    let shape = shape(field(header, "shape")?)?;
    let count = shape.iter().try_fold(1usize, |product, &length| product.checked_mul(length));
    let count = count.with_context(|| format!("shape {shape:?} has too many elements"))?;
    let quote = descr.chars().next().filter(|quote| matches!(quote, '\'' | '"'));
    let quote =
        quote.with_context(|| format!("its elements are records ({descr}), which ONNX does not have"))?;
    let descr = descr[1..].split(quote).next().unwrap_or_default();
    Ok(Value::new(shape, elements(descr, payload, count, declared)?)?)
}

/// The header's text and the bytes of the elements.
fn split(bytes: &[u8]) -> Result<(&str, &[u8])> {
    let rest = bytes.strip_prefix(MAGIC).context("it does not begin like a .npy file")?;
    let (version, rest) = rest.split_first_chunk::<2>().context("it ends within the header")?;
    // The length of the header takes two bytes in the first version, four in the later ones.
    let (length, rest) = match version[0] {
        1 => rest.split_first_chunk().map(|(length, rest)| (usize::from(u16::from_le_bytes(*length)), rest)),
        2 | 3 => rest
            .split_first_chunk()
            .and_then(|(length, rest)| Some((usize::try_from(u32::from_le_bytes(*length)).ok()?, rest))),
        version => bail!("version {version} of the .npy format is not known"),
    }
    .context("it ends within the header")?;
    let (header, payload) = rest.split_at_checked(length).context("it ends within the header")?;
    Ok((std::str::from_utf8(header).context("its header is no text")?, payload))
}

/// What follows a key of the header's dictionary.
fn field<'a>(header: &'a str, key: &str) -> Result<&'a str> {
    let quoted = [format!("'{key}':"), format!("\"{key}\":")];
    let found = quoted.iter().find_map(|quoted| header.split_once(quoted.as_str()));
    Ok(found.with_context(|| format!("its header has no `{key}`"))?.1.trim_start())
}

/// The lengths of a tuple such as `(3, 4)`, `(3,)` or `()`.
fn shape(text: &str) -> Result<Vec<usize>> {
    let inside = text.strip_prefix('(').and_then(|rest| rest.split_once(')'));
    let (inside, _) = inside.context("its header has no shape")?;
    let parts = inside.split(',').map(str::trim).filter(|part| !part.is_empty());
    parts.map(|part| part.parse().with_context(|| format!("its shape has `{part}`"))).collect()
}

fn elements(descr: &str, payload: &[u8], count: usize, declared: DType) -> Result<Data> {
    let (order, code) = descr.split_at_checked(1).context("its header has no element type")?;
    ensure!(matches!(order, "<" | "|" | "="), "its elements are `{descr}`; store them as little-endian");
    Ok(match code {
        "b1" => Data::Bool(each(payload, count, |[byte]| byte != 0)?),
        "u1" => Data::U8(each(payload, count, u8::from_le_bytes)?),
        "u2" => Data::U16(each(payload, count, u16::from_le_bytes)?),
        "u4" => Data::U32(each(payload, count, u32::from_le_bytes)?),
        "u8" => Data::U64(each(payload, count, u64::from_le_bytes)?),
        "i1" => Data::I8(each(payload, count, i8::from_le_bytes)?),
        "i2" => Data::I16(each(payload, count, i16::from_le_bytes)?),
        "i4" => Data::I32(each(payload, count, i32::from_le_bytes)?),
        "i8" => Data::I64(each(payload, count, i64::from_le_bytes)?),
        "f2" => Data::F16(each(payload, count, f16::from_le_bytes)?),
        "f4" => Data::F32(each(payload, count, f32::from_le_bytes)?),
        "f8" => Data::F64(each(payload, count, f64::from_le_bytes)?),
        "V2" if declared == DType::BF16 => Data::BF16(each(payload, count, bf16::from_le_bytes)?),
        "V1" if declared.is_small() => {
            // `ml_dtypes` repeats the sign above the element's bits.
            let mask = u8::try_from((1u16 << declared.bits()) - 1)?;
            Data::Small(declared, each(payload, count, |[bits]| bits & mask)?)
        }
        _ => match code.split_at_checked(1) {
            Some(("U", width)) => Data::String(texts(payload, count, width, 4, utf32)?),
            Some(("S", width)) => {
                let utf8 = |bytes: &[u8]| Ok(std::str::from_utf8(bytes)?.trim_end_matches('\0').to_owned());
                Data::String(texts(payload, count, width, 1, utf8)?)
            }
            Some(("O", _)) => bail!("its elements are Python objects; store texts as numpy.str_"),
            _ => bail!("its elements are `{descr}`, which does not fit the declared type {declared}"),
        },
    })
}

/// The elements, each of `N` bytes.
fn each<const N: usize, T>(payload: &[u8], count: usize, convert: impl Fn([u8; N]) -> T) -> Result<Vec<T>> {
    check_length(payload, count, N)?;
    Ok(payload.as_chunks().0.iter().map(|&bytes| convert(bytes)).collect())
}

/// Texts of `width` units of `unit` bytes each; shorter ones end with zeros.
fn texts(
    payload: &[u8],
    count: usize,
    width: &str,
    unit: usize,
    convert: impl Fn(&[u8]) -> Result<String>,
) -> Result<Vec<String>> {
    let size = width.parse::<usize>().ok().and_then(|width| width.checked_mul(unit));
    let size = size.with_context(|| format!("its texts are `{width}` long"))?;
    if size == 0 {
        // As many empty texts as the header says take no byte of the file: bounded by what a file may ask for.
        ensure!(count <= payload.len().max(1 << 20), "{count} empty texts are too many");
        return Ok(vec![String::new(); count]);
    }
    check_length(payload, count, size)?;
    payload.chunks_exact(size).map(convert).collect()
}

fn utf32(bytes: &[u8]) -> Result<String> {
    let letters = bytes.as_chunks().0.iter().map(|&unit| u32::from_le_bytes(unit));
    let text: Option<String> = letters.map(char::from_u32).collect();
    Ok(text.context("a text is not Unicode")?.trim_end_matches('\0').to_owned())
}

fn check_length(payload: &[u8], count: usize, size: usize) -> Result<()> {
    let (wanted, actual) = (count.checked_mul(size), payload.len());
    ensure!(wanted == Some(actual), "it has {actual} bytes for {count} elements of {size} bytes");
    Ok(())
}

/// Writes a tensor.
pub fn write(value: &Value) -> Result<Vec<u8>> {
    let (descr, payload) = encode(value.data())?;
    let mut shape = String::new();
    for length in value.shape() {
        write!(shape, "{length},")?;
    }
    let mut header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({shape}), }}");
    // Magic, version, the length, and a line end after the padding.
    let before = MAGIC.len() + 4;
    let padding = (before + header.len() + 1).next_multiple_of(ALIGNMENT) - (before + header.len() + 1);
    header.extend(std::iter::repeat_n(' ', padding));
    header.push('\n');
    let length = u16::try_from(header.len()).context("the tensor has too many dimensions for a .npy file")?;
    Ok([MAGIC, &[1, 0], &length.to_le_bytes(), header.as_bytes(), &payload].concat())
}

/// NumPy's name of the element type, and the elements' bytes.
fn encode(data: &Data) -> Result<(String, Vec<u8>)> {
    fn all<const N: usize, T: Copy>(items: &[T], bytes: impl Fn(T) -> [u8; N]) -> Vec<u8> {
        items.iter().flat_map(|&item| bytes(item)).collect()
    }
    let (descr, payload) = match data {
        Data::Bool(items) => ("|b1", all(items, |item| [u8::from(item)])),
        Data::U8(items) => ("|u1", items.clone()),
        Data::U16(items) => ("<u2", all(items, u16::to_le_bytes)),
        Data::U32(items) => ("<u4", all(items, u32::to_le_bytes)),
        Data::U64(items) => ("<u8", all(items, u64::to_le_bytes)),
        Data::I8(items) => ("|i1", all(items, i8::to_le_bytes)),
        Data::I16(items) => ("<i2", all(items, i16::to_le_bytes)),
        Data::I32(items) => ("<i4", all(items, i32::to_le_bytes)),
        Data::I64(items) => ("<i8", all(items, i64::to_le_bytes)),
        Data::F16(items) => ("<f2", all(items, f16::to_le_bytes)),
        Data::BF16(items) => ("<V2", all(items, bf16::to_le_bytes)),
        Data::F32(items) => ("<f4", all(items, f32::to_le_bytes)),
        Data::F64(items) => ("<f8", all(items, f64::to_le_bytes)),
        Data::Small(_, items) => ("|V1", items.clone()),
        Data::String(items) => return encode_texts(items),
        other => bail!("{} cannot be written as .npy", other.dtype()),
    };
    Ok((descr.to_owned(), payload))
}

/// Texts as NumPy has them: all as wide as the longest.
fn encode_texts(items: &[String]) -> Result<(String, Vec<u8>)> {
    let width = items.iter().map(|item| item.chars().count()).max().unwrap_or(0).max(1);
    let size = items.len().checked_mul(width).and_then(|letters| letters.checked_mul(4));
    let size = size.filter(|&size| size <= 1 << 31);
    let size = size.context("one text is so long that all would not fit into a .npy file; write .pb")?;
    let mut payload = Vec::with_capacity(size);
    for item in items {
        let letters = item.chars().map(u32::from).chain(std::iter::repeat(0));
        payload.extend(letters.take(width).flat_map(u32::to_le_bytes));
    }
    Ok((format!("<U{width}"), payload))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reread(data: Data) {
        let dtype = data.dtype();
        let value = Value::new(vec![1, data.len()], data).unwrap();
        let bytes = write(&value).unwrap();
        assert_eq!(bytes.iter().position(|&byte| byte == b'\n').unwrap() % ALIGNMENT, ALIGNMENT - 1);
        assert_eq!(read(&bytes, dtype).unwrap(), value);
    }

    #[test]
    fn what_is_written_is_read_again() {
        reread(Data::Bool(vec![true, false]));
        reread(Data::U8(vec![0, 255]));
        reread(Data::U16(vec![0, u16::MAX]));
        reread(Data::U32(vec![0, u32::MAX]));
        reread(Data::U64(vec![0, u64::MAX]));
        reread(Data::I8(vec![i8::MIN, 1]));
        reread(Data::I16(vec![i16::MIN, 1]));
        reread(Data::I32(vec![i32::MIN, 1]));
        reread(Data::I64(vec![i64::MIN, 1]));
        reread(Data::F16(vec![f16::MAX, f16::ONE]));
        reread(Data::BF16(vec![bf16::MAX, bf16::ONE]));
        reread(Data::F32(vec![-0.5, f32::INFINITY]));
        reread(Data::F64(vec![-0.5, f64::MAX]));
        reread(Data::String(vec!["ä\u{1f600}".to_owned(), String::new()]));
        for dtype in DType::ALL.into_iter().filter(|dtype| dtype.is_small()) {
            reread(Data::Small(dtype, vec![1, 3]));
        }
        let scalar = Value::new(vec![], Data::F32(vec![7.0])).unwrap();
        assert_eq!(read(&write(&scalar).unwrap(), DType::F32).unwrap(), scalar);
    }

    #[test]
    fn what_is_not_little_endian_and_row_major_is_refused() {
        let file = |dictionary: &str, payload: &[u8]| {
            let length = u16::try_from(dictionary.len()).unwrap().to_le_bytes();
            [MAGIC, &[1, 0], &length, dictionary.as_bytes(), payload].concat()
        };
        let error = |dictionary: &str, payload: &[u8]| {
            format!("{:#}", read(&file(dictionary, payload), DType::F32).unwrap_err())
        };
        let column = "{'descr': '<f4', 'fortran_order': True, 'shape': (1,), }";
        assert!(error(column, &[0; 4]).contains("column-major"));
        let big = "{'descr': '>f4', 'fortran_order': False, 'shape': (1,), }";
        assert!(error(big, &[0; 4]).contains("little-endian"));
        let short = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }";
        assert!(error(short, &[0; 4]).contains("4 bytes for 6 elements"));
        let records = "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,), }";
        assert!(error(records, &[0; 4]).contains("records"));
        let huge = "{'descr': '<U0', 'fortran_order': False, 'shape': (9000000000,), }";
        assert!(error(huge, &[]).contains("too many"));
        let opaque = "{'descr': '|V1', 'fortran_order': False, 'shape': (1,), }";
        assert!(error(opaque, &[0]).contains("declared type FP32"));
        for end in 0..64 {
            let whole = file(short, &[0; 24]);
            assert!(read(&whole[..end], DType::F32).is_err());
        }
    }
}
