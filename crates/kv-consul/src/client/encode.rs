//! Native names in URLs.

/// A native name as a URL's path carries it: everything but unreserved characters and slashes is
/// escaped, so that nothing is left for a URL library to interpret.
pub(crate) fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~' | b'/') {
            encoded.push(char::from(byte));
        } else {
            const HEX: &[u8; 16] = b"0123456789ABCDEF";
            encoded.push('%');
            encoded.push(char::from(HEX[usize::from(byte >> 4)]));
            encoded.push(char::from(HEX[usize::from(byte & 15)]));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encoding_is_injective_and_leaves_nothing_to_interpret() {
        assert_eq!(encode("a b/a%20b?c#d+e&f=ü"), "a%20b/a%2520b%3Fc%23d%2Be%26f%3D%C3%BC");
    }
}
