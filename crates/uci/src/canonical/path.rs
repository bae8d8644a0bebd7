//! Names of entries that no two places in a file share: parts that aren't plain stand in quotes, as keys of TOML do.

/// Adds a key to a path.
pub(super) fn push_key(path: &mut String, key: &str) {
    if !path.is_empty() {
        path.push('.');
    }
    let plain =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b' ' | b'/' | b':');
    if !key.is_empty() && key.bytes().all(|byte| plain(byte) || byte >= 0x80) {
        path.push_str(key);
    } else {
        path.push_str(&serde_json::Value::from(key).to_string());
    }
}

/// Adds the index of an array's element.
pub(super) fn push_index(path: &mut String, index: usize) {
    path.push('[');
    path.push_str(&index.to_string());
    path.push(']');
}
