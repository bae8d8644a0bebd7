//! The reader that takes what upstream takes and drops what upstream drops.

use super::{
    AFTER_LITERAL, AFTER_NAME, Atom, END, Fault, Op, TOO_LONG, Text, UNKNOWN, UNTERMINATED,
    colon_range, is_integer, is_name, is_space, within,
};
use crate::datatype::{
    ere::Pattern,
    function::Function,
    number::{self, Reading},
};

/// Upstream keeps 32 places, of which the implied `or` takes one and the last is never used.
const OPS_MAX: usize = 31;

pub(super) fn parse(expression: &str) -> Result<Vec<Op>, Fault> {
    let mut reader = Reader { text: expression, ops: Vec::new() };
    reader.ops.push(Op { atom: Atom::Call { function: Function::Or, arguments: 0 }, next: 1 });
    reader.list(0, 0, expression.len())?;
    compile(&mut reader.ops);
    Ok(reader.ops)
}

struct Reader<'a> {
    text: &'a str,
    ops: Vec<Op>,
}

impl Reader<'_> {
    /// The byte at a place; past the end there is the NUL of a C string.
    fn at(&self, place: usize) -> u8 {
        self.text.as_bytes().get(place).copied().unwrap_or(0)
    }

    fn after_spaces(&self, mut place: usize) -> usize {
        while is_space(self.at(place)) {
            place += 1;
        }
        place
    }

    /// Reads the items from `start` to `end` as arguments of operation `owner`. Quotes are not seen here, and an item is
    /// only read where no parenthesis is open at its end.
    fn list(&mut self, owner: usize, start: usize, end: usize) -> Result<(), Fault> {
        let (mut open, mut escaped, mut item) = (0_i64, false, start);
        for place in start..=end {
            let byte = if place < end || place == start { self.at(place) } else { 0 };
            if escaped {
                escaped = false;
                continue;
            }
            match byte {
                b'\\' => escaped = true,
                b'(' => open += 1,
                b')' => open -= 1,
                b',' | 0 if open <= 0 => {
                    if place > item {
                        self.item(item, place)?;
                        if let Atom::Call { arguments, .. } = &mut self.ops[owner].atom {
                            *arguments += 1;
                        }
                    }
                    item = place + 1;
                }
                _ => {}
            }
        }
        self.ops[owner].next = self.ops.len();
        Ok(())
    }

    fn item(&mut self, start: usize, end: usize) -> Result<(), Fault> {
        let start = self.after_spaces(start);
        let (atom, after) = self.atom(start, end)?;
        let name = match &atom {
            Atom::Call { function, .. } => Some(function.name()),
            _ => None,
        };
        let place = self.ops.len();
        self.ops.push(Op { atom, next: place + 1 });
        let after = self.after_spaces(after);
        match name {
            Some(name) if self.at(after) == b'(' => {
                if is_integer(name)
                    && let Some((low, high, length)) = colon_range(&self.text[after + 1..])
                    && self.after_spaces(after + 1 + length + 1) == end
                {
                    self.ops[place].atom = within(name, low, high);
                    return Ok(());
                }
                let mut last = end - 1;
                while is_space(self.at(last)) && last > after + 1 {
                    last -= 1;
                }
                self.list(place, after + 1, last)
            }
            _ if after == end => Ok(()),
            Some(name) => {
                let text = format!("text after {name:?}; expected are \"(\", \",\" or the end");
                Err(Fault::new(after, text, AFTER_NAME))
            }
            None => {
                Err(Fault::new(after, "text after a literal; expected is \",\"", AFTER_LITERAL))
            }
        }
    }

    /// The atom at `start` and the place after it. `end` itself still counts, as upstream looks at it too.
    fn atom(&self, start: usize, end: usize) -> Result<(Atom, usize), Fault> {
        if self.ops.len() >= OPS_MAX {
            let text = format!("more than {} atoms", OPS_MAX - 1);
            return Err(Fault::new(start, text, TOO_LONG));
        }
        let bytes = self.text.as_bytes();
        if let Reading::Number(value, length) = number::strtod(bytes.get(start..).unwrap_or(&[])) {
            return Ok((Atom::Number(value), start + length));
        }
        match self.at(start) {
            0 => Err(Fault::new(start, "the expression ends where an item is expected", END)),
            quote @ (b'"' | b'\'') => self.quoted(start, end, quote),
            _ => {
                let length = (start..=end).take_while(|&place| is_name(self.at(place))).count();
                let name = &self.text[start..start + length];
                let function = Function::by_name(name).ok_or_else(|| {
                    Fault::new(start, format!("{name:?} is not the name of a type"), UNKNOWN)
                })?;
                Ok((Atom::Call { function, arguments: 0 }, start + length))
            }
        }
    }

    fn quoted(&self, start: usize, end: usize, quote: u8) -> Result<(Atom, usize), Fault> {
        let mut escaped = false;
        for place in start + 1..=end {
            match self.at(place) {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                byte if byte == quote => {
                    let text = Text::new(&self.text[start + 1..place], char::from(quote));
                    return Ok((Atom::Text(text), place + 1));
                }
                _ => {}
            }
        }
        let text = "a text without its closing quote; a comma in it is written \"\\,\"";
        Err(Fault::new(start, text, UNTERMINATED))
    }
}

/// Reads the patterns of `regex`; one that can't be read matches nothing.
fn compile(ops: &mut [Op]) {
    for place in 1..ops.len() {
        let wanted =
            matches!(ops[place - 1].atom, Atom::Call { function: Function::Regex, arguments: 1.. });
        if wanted && let Atom::Text(text) = &mut ops[place].atom {
            text.pattern = Pattern::parse(&format!("^{}$", text.raw)).ok();
        }
    }
}
