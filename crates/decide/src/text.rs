//! Texts for people, whose length is bounded where they are stored.

/// The beginning of a text, at most `bytes` long, cut between characters.
pub fn cut(text: &str, bytes: usize) -> &str {
    let mut end = text.len().min(bytes);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    #[test]
    fn texts_are_cut_between_characters() {
        assert_eq!(super::cut("grün", 3), "gr");
        assert_eq!(super::cut("grün", 10), "grün");
    }
}
