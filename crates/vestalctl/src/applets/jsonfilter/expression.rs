//! Reads an expression: `VAR=@.a[0]["b"][@.c="d"]`. Decides nothing about documents.

/// The deepest nesting of parentheses, brackets and `!`.
const DEPTH_MAX: usize = 32;
/// The longest name or text; the original's.
const TEXT_MAX: usize = 127;

/// A whole expression.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Expression {
    /// The shell variable that is to be set.
    pub(super) variable: Option<String>,
    pub(super) path: Path,
}

/// From where, and by which steps.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Path {
    /// `$`: from the document, also inside of a filter.
    pub(super) from_root: bool,
    pub(super) steps: Vec<Term>,
}

/// A step, or a part of a filter.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Term {
    Bool(bool),
    Number(i32),
    Text(Vec<u8>),
    Regex {
        pattern: Vec<u8>,
        extended: bool,
        any_case: bool,
        lines: bool,
    },
    All,
    Path(Path),
    Not(Box<Self>),
    Compare(Box<Self>, Comparison, Box<Self>),
    And(Vec<Self>),
    /// `||`, or `,` between brackets.
    Or(Vec<Self>),
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Comparison {
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    Equal,
    NotEqual,
    Matches,
}

/// Why a text is no expression.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Mistake {
    pub(super) at: usize,
    pub(super) text: String,
}

impl Expression {
    pub(super) fn parse(text: &[u8]) -> Result<Self, Mistake> {
        let mut reader = Reader { text, at: 0, depth: 0 };
        reader.blank();
        let mut variable = None;
        if reader.peek().is_some_and(is_letter) {
            let name = reader.label()?;
            reader.expect(b"=", "'='")?;
            // The name goes into a shell's eval, and has letters, digits and underscores only.
            variable = Some(String::from_utf8_lossy(&name).into_owned());
        }
        let path = reader.path()?;
        reader.blank();
        if reader.peek().is_some() {
            return reader.expected("'.' or '[' or end of file");
        }
        Ok(Self { variable, path })
    }
}

fn is_letter(byte: u8) -> bool {
    byte == b'_' || byte.is_ascii_alphabetic()
}

struct Reader<'a> {
    text: &'a [u8],
    at: usize,
    depth: usize,
}

impl Reader<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn blank(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n')) {
            self.at += 1;
        }
    }

    fn mistake<T>(&self, text: impl Into<String>) -> Result<T, Mistake> {
        Err(Mistake { at: self.at, text: text.into() })
    }

    fn expected<T>(&self, what: &str) -> Result<T, Mistake> {
        self.mistake(format!("Expecting {what}"))
    }

    /// Whether this stands next, after blanks; it is taken then.
    fn take(&mut self, token: &[u8]) -> bool {
        self.blank();
        let found = self.text[self.at..].starts_with(token);
        self.at += if found { token.len() } else { 0 };
        found
    }

    fn expect(&mut self, token: &[u8], shown: &str) -> Result<(), Mistake> {
        if self.take(token) { Ok(()) } else { self.expected(shown) }
    }

    /// Reads what is nested, no deeper than the limit.
    fn nested<T>(&mut self, read: fn(&mut Self) -> Result<T, Mistake>) -> Result<T, Mistake> {
        if self.depth == DEPTH_MAX {
            return self.mistake(format!("Nested deeper than {DEPTH_MAX} levels"));
        }
        self.depth += 1;
        let read = read(self);
        self.depth -= 1;
        read
    }

    fn path(&mut self) -> Result<Path, Mistake> {
        let from_root = self.take(b"$");
        if !from_root && !self.take(b"@") {
            return self.expected("'$' or '@'");
        }
        let mut steps = Vec::new();
        loop {
            if self.take(b".") {
                self.blank();
                if self.take(b"*") {
                    steps.push(Term::All);
                } else if self.peek().is_some_and(is_letter) {
                    let at = self.at;
                    let name = self.label()?;
                    if matches!(&*name, b"true" | b"false") {
                        self.at = at;
                        return self.expected("Label or '*'");
                    }
                    steps.push(Term::Text(name));
                } else {
                    return self.expected("Label or '*'");
                }
            } else if self.take(b"[") {
                steps.push(self.nested(Self::union)?);
                self.expect(b"]", "']'")?;
            } else {
                return Ok(Path { from_root, steps });
            }
        }
    }

    fn union(&mut self) -> Result<Term, Mistake> {
        self.list(b",", Self::or, Term::Or)
    }

    fn or(&mut self) -> Result<Term, Mistake> {
        self.list(b"||", Self::and, Term::Or)
    }

    fn and(&mut self) -> Result<Term, Mistake> {
        self.list(b"&&", Self::comparison, Term::And)
    }

    fn list(
        &mut self,
        separator: &[u8],
        read: fn(&mut Self) -> Result<Term, Mistake>,
        join: fn(Vec<Term>) -> Term,
    ) -> Result<Term, Mistake> {
        let first = read(self)?;
        let mut terms = vec![first];
        while self.take(separator) {
            terms.push(read(self)?);
        }
        Ok(if terms.len() == 1 { terms.remove(0) } else { join(terms) })
    }

    fn comparison(&mut self) -> Result<Term, Mistake> {
        let left = self.unary()?;
        let signs: [(&[u8], Comparison); 7] = [
            (b"<=", Comparison::LessOrEqual),
            (b">=", Comparison::GreaterOrEqual),
            (b"!=", Comparison::NotEqual),
            (b"<", Comparison::Less),
            (b">", Comparison::Greater),
            (b"=", Comparison::Equal),
            (b"~", Comparison::Matches),
        ];
        for (sign, comparison) in signs {
            if self.take(sign) {
                let right = self.unary()?;
                return Ok(Term::Compare(Box::new(left), comparison, Box::new(right)));
            }
        }
        Ok(left)
    }

    fn unary(&mut self) -> Result<Term, Mistake> {
        self.blank();
        match self.peek() {
            Some(b'!') => {
                self.at += 1;
                Ok(Term::Not(Box::new(self.nested(Self::unary)?)))
            }
            Some(b'(') => {
                self.at += 1;
                let inner = self.nested(Self::or)?;
                self.expect(b")", "')'")?;
                Ok(inner)
            }
            Some(b'*') => {
                self.at += 1;
                Ok(Term::All)
            }
            Some(b'$' | b'@') => self.path().map(Term::Path),
            Some(quote @ (b'"' | b'\'')) => self.quoted(quote).map(Term::Text),
            Some(b'/') => self.regex(),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(letter) if is_letter(letter) => {
                let at = self.at;
                match &*self.label()? {
                    b"true" => Ok(Term::Bool(true)),
                    b"false" => Ok(Term::Bool(false)),
                    _ => {
                        self.at = at;
                        self.expected("a path, a value, '*', '!' or '('")
                    }
                }
            }
            _ => self.expected("a path, a value, '*', '!' or '('"),
        }
    }

    fn label(&mut self) -> Result<Vec<u8>, Mistake> {
        let rest = &self.text[self.at..];
        let is_part = |byte: &u8| *byte == b'_' || byte.is_ascii_alphanumeric();
        let length = rest.iter().position(|byte| !is_part(byte)).unwrap_or(rest.len());
        if length > TEXT_MAX {
            return self.mistake("String or label literal too long");
        }
        self.at += length;
        Ok(rest[..length].to_vec())
    }

    fn number(&mut self) -> Result<Term, Mistake> {
        let rest = &self.text[self.at..];
        let sign = usize::from(rest[0] == b'-');
        let digits = rest[sign..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        if digits == 0 {
            return self.mistake("Invalid escape sequence");
        }
        let written = String::from_utf8_lossy(&rest[..sign + digits]);
        let bound = if sign == 1 { i32::MIN } else { i32::MAX };
        self.at += sign + digits;
        Ok(Term::Number(written.parse().unwrap_or(bound)))
    }

    fn regex(&mut self) -> Result<Term, Mistake> {
        let pattern = self.quoted(b'/')?;
        let (mut extended, mut any_case, mut lines) = (false, false, true);
        loop {
            match self.peek() {
                Some(b'e') => extended = true,
                Some(b'i') => any_case = true,
                Some(b's') => lines = false,
                _ => return Ok(Term::Regex { pattern, extended, any_case, lines }),
            }
            self.at += 1;
        }
    }

    /// What stands between two quotes.
    fn quoted(&mut self, quote: u8) -> Result<Vec<u8>, Mistake> {
        self.at += 1;
        let mut text = Vec::new();
        loop {
            let Some(byte) = self.peek() else { return self.mistake("Unterminated string") };
            self.at += 1;
            match byte {
                b'\\' => self.escape(&mut text, quote)?,
                _ if byte == quote => return Ok(text),
                _ => text.push(byte),
            }
            if text.len() > TEXT_MAX {
                return self.mistake("String or label literal too long");
            }
        }
    }

    fn escape(&mut self, text: &mut Vec<u8>, quote: u8) -> Result<(), Mistake> {
        let Some(byte) = self.peek() else { return self.mistake("Unterminated string") };
        let plain = match byte {
            b'u' => return self.code(text, 1, 4, 16),
            b'x' => return self.code(text, 1, 2, 16),
            b'0'..=b'7' => {
                let digits = self.text[self.at..].iter().take(3);
                let count = digits.take_while(|byte| matches!(byte, b'0'..=b'7')).count();
                return self.code(text, 0, count, 8);
            }
            b'a' => 7,
            b'b' => 8,
            b'e' => 27,
            b'f' => 12,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'v' => 11,
            _ => {
                if quote == b'/' {
                    text.push(b'\\');
                }
                byte
            }
        };
        self.at += 1;
        text.push(plain);
        Ok(())
    }

    /// A letter by its number; zero is nothing.
    fn code(
        &mut self,
        text: &mut Vec<u8>,
        skipped: usize,
        count: usize,
        radix: u32,
    ) -> Result<(), Mistake> {
        let digits = self.text.get(self.at + skipped..self.at + skipped + count);
        let digits = digits.and_then(|digits| std::str::from_utf8(digits).ok());
        let digits = digits.filter(|digits| digits.chars().all(|digit| digit.is_digit(radix)));
        let code = digits.and_then(|digits| u32::from_str_radix(digits, radix).ok());
        let Some(code) = code.filter(|code| radix == 16 || *code <= 255) else {
            return self.mistake("Invalid escape sequence");
        };
        self.at += skipped + count;
        if code > 0 {
            let letter = char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER);
            text.extend_from_slice(letter.encode_utf8(&mut [0; 4]).as_bytes());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(text: &str) -> Vec<Term> {
        Expression::parse(text.as_bytes()).unwrap().path.steps
    }

    fn mistake(text: &str) -> (usize, String) {
        let mistake = Expression::parse(text.as_bytes()).unwrap_err();
        (mistake.at, mistake.text)
    }

    #[test]
    fn steps_are_names_numbers_and_filters() {
        let text = |text: &str| Term::Text(text.as_bytes().to_vec());
        assert_eq!(
            steps("@.a['b c'][-1][*].*"),
            [text("a"), text("b c"), Term::Number(-1), Term::All, Term::All]
        );
        assert_eq!(steps("$[0,1]"), [Term::Or(vec![Term::Number(0), Term::Number(1)])]);
        let expression = Expression::parse(b" NAME = @ ").unwrap();
        assert_eq!(expression.variable.as_deref(), Some("NAME"));
        assert!(Expression::parse(b"$.x").unwrap().path.from_root);
        assert_eq!(steps("@[\"\\u00e4\\x41\\101\\n\"]"), [text("äAA\n")]);
    }

    #[test]
    fn and_binds_closer_than_or() {
        let [Term::Or(parts)] = &steps("@[@.a=1 && @.b || !(@.c)]")[..] else { panic!() };
        assert!(matches!(&parts[..], [Term::And(both), Term::Not(_)] if both.len() == 2));
    }

    #[test]
    fn mistakes_say_where() {
        assert_eq!(mistake(""), (0, "Expecting '$' or '@'".to_owned()));
        assert_eq!(mistake("@.").0, 2);
        assert_eq!(mistake("@.a b").0, 4);
        assert_eq!(mistake("@['x"), (4, "Unterminated string".to_owned()));
        assert_eq!(mistake("@.true").0, 2);
        assert!(mistake(&format!("@{}", "[@".repeat(40))).1.contains("deeper than 32"));
        assert!(mistake(&format!("@['{}']", "x".repeat(128))).1.contains("too long"));
    }
}
