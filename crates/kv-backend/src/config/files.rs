//! The text of files a configuration names.

use std::io::Read as _;

use kv_core::{Error, Result};

use super::refused;

/// The largest file taken: a bundle of all public certificate authorities has a quarter of a MiB.
const MOST: u64 = 16 << 20;

/// The text of the file that the URL parameter `parameter` names; a byte order mark is skipped.
///
/// # Errors
///
/// `InvalidConfig` if it cannot be read or is no text, saying what it is instead; `Unavailable` if the
/// process has no file descriptors left.
pub fn read_text(parameter: &str, path: &str) -> Result<String> {
    let wrong = |what: &str| refused(format!("the file {path} of {parameter}= {what}"));
    let mut bytes = Vec::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(MOST + 1).read_to_end(&mut bytes));
    if let Err(error) = read {
        let unreadable = wrong("cannot be read");
        return Err(match Error::out_of_files(&error) {
            Some(out) => out.with_operation(kv_core::Operation::Open).with_detail(format!(
                "{}; so the file {path} of {parameter}= cannot be read",
                Error::OUT_OF_FILES
            )),
            None => unreadable,
        }
        .with_source(error));
    }
    if bytes.len() as u64 > MOST {
        return Err(wrong("is larger than 16 MiB"));
    }
    if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        return Err(wrong("is UTF-16 text: save it as UTF-8"));
    }
    let Ok(text) = String::from_utf8(bytes) else {
        return Err(wrong("is not text; a certificate or key in DER form has to be converted to PEM"));
    };
    Ok(match text.strip_prefix('\u{feff}') {
        Some(rest) => rest.to_owned(),
        None => text,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_order_mark_is_skipped_and_what_is_no_text_is_named() {
        let path = std::env::temp_dir().join(format!("kv-backend-read-text-{}", std::process::id()));
        let shown = path.display().to_string();
        let read = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            read_text("ca", &shown)
        };
        assert_eq!(read(b"\xef\xbb\xbf-----BEGIN").unwrap(), "-----BEGIN");
        assert_eq!(read(b"plain").unwrap(), "plain");
        for (bytes, words) in
            [(&b"\xff\xfe-\0"[..], "UTF-16"), (b"\xfe\xff\0-", "UTF-16"), (b"0\x82\x05\xc0", "DER")]
        {
            let text = read(bytes).unwrap_err().to_string();
            assert!(text.contains(words) && text.contains(&shown) && text.contains("ca="), "{text}");
        }
        std::fs::remove_file(&path).unwrap();
        let error = read_text("key", &shown).unwrap_err();
        assert!(error.to_string().contains("of key= cannot be read"), "{error}");
        assert!(error.cause().is_some());
        assert!(read_text("key", "/dev/zero").unwrap_err().to_string().contains("16 MiB"));
    }
}
