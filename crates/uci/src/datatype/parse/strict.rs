//! The reader that takes only what has one meaning, and says where something has not.

use super::{
    AFTER_LITERAL, Atom, END, Fault, Op, TOO_LONG, Text, UNKNOWN, UNTERMINATED, colon_range,
    is_integer, is_name, is_space, within,
};
use crate::datatype::{
    ere::Pattern,
    function::{Function, Takes},
};

const ATOMS_MAX: usize = 64;
const DEPTH_MAX: usize = 16;
/// Whole numbers up to here are exact in the numbers of an expression.
const EXACT_MAX: f64 = 9_007_199_254_740_992.0;

pub(super) fn parse(expression: &str) -> Result<Vec<Op>, Fault> {
    let mut reader = Reader { text: expression, place: 0, ops: Vec::new() };
    reader.ops.push(Op { atom: Atom::Call { function: Function::Or, arguments: 0 }, next: 1 });
    reader.list(0, 0)?;
    match reader.peek() {
        None => Ok(reader.ops),
        Some(_) => Err(reader.fault("text after an item; expected is \",\"", AFTER_LITERAL)),
    }
}

struct Reader<'a> {
    text: &'a str,
    place: usize,
    ops: Vec<Op>,
}

impl Reader<'_> {
    /// The next byte that is no blank.
    fn peek(&mut self) -> Option<u8> {
        let rest = &self.text.as_bytes()[self.place..];
        self.place += rest.iter().take_while(|&&byte| is_space(byte)).count();
        self.text.as_bytes().get(self.place).copied()
    }

    fn fault(&self, text: impl Into<String>, upstream: &'static str) -> Fault {
        Fault::new(self.place, text, upstream)
    }

    /// Reads items up to a parenthesis or the end.
    fn list(&mut self, owner: usize, depth: usize) -> Result<(), Fault> {
        loop {
            self.item(depth)?;
            if let Atom::Call { arguments, .. } = &mut self.ops[owner].atom {
                *arguments += 1;
            }
            if self.peek() != Some(b',') {
                break;
            }
            self.place += 1;
        }
        self.ops[owner].next = self.ops.len();
        Ok(())
    }

    fn item(&mut self, depth: usize) -> Result<(), Fault> {
        let first = self.peek();
        if self.ops.len() > ATOMS_MAX {
            return Err(self.fault(format!("more than {ATOMS_MAX} atoms"), TOO_LONG));
        }
        if depth > DEPTH_MAX {
            return Err(self.fault(format!("types are nested deeper than {DEPTH_MAX}"), TOO_LONG));
        }
        let atom = match first {
            None => return Err(self.fault("the expression ends where an item is expected", END)),
            Some(quote @ (b'"' | b'\'')) => Atom::Text(self.quoted(quote)?),
            Some(b'0'..=b'9' | b'-' | b'+' | b'.') => Atom::Number(self.number()?),
            Some(byte) if is_name(byte) => return self.call(depth),
            Some(_) => {
                let text = "expected is a number, a text in quotes or the name of a type";
                return Err(self.fault(text, UNKNOWN));
            }
        };
        self.ops.push(Op { atom, next: self.ops.len() + 1 });
        Ok(())
    }

    fn quoted(&mut self, quote: u8) -> Result<Text, Fault> {
        let bytes = self.text.as_bytes();
        let mut escaped = false;
        for (place, &byte) in bytes.iter().enumerate().skip(self.place + 1) {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                byte if byte == quote => {
                    let text = Text::new(&self.text[self.place + 1..place], char::from(quote));
                    self.place = place + 1;
                    return Ok(text);
                }
                _ => {}
            }
        }
        Err(self.fault("a text without its closing quote", UNTERMINATED))
    }

    fn number(&mut self) -> Result<f64, Fault> {
        let rest = &self.text[self.place..];
        let numeric =
            |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'+' | b'-');
        let word = &rest[..rest.bytes().take_while(|byte| numeric(byte)).count()];
        match word.parse::<f64>() {
            Ok(value) if value.is_finite() => {
                self.place += word.len();
                Ok(value)
            }
            _ => Err(self.fault(format!("{word:?} is not a decimal number"), AFTER_LITERAL)),
        }
    }

    fn call(&mut self, depth: usize) -> Result<(), Fault> {
        let start = self.place;
        let text = self.text;
        let name = &text[start..];
        let name = &name[..name.bytes().take_while(|&byte| is_name(byte)).count()];
        let function = Function::by_name(name)
            .ok_or_else(|| self.fault(format!("{name:?} is not the name of a type"), UNKNOWN))?;
        self.place += name.len();
        let place = self.ops.len();
        self.ops.push(Op { atom: Atom::Call { function, arguments: 0 }, next: place + 1 });
        if self.peek() == Some(b'(') {
            self.place += 1;
            if is_integer(name)
                && let Some((low, high, length)) = colon_range(&text[self.place..])
            {
                self.ops[place].atom = within(name, low, high);
                self.place += length + 1;
            } else {
                if self.peek() != Some(b')') {
                    self.list(place, depth + 1)?;
                }
                if self.peek() != Some(b')') {
                    let what = format!("the parenthesis after {name:?} is not closed here");
                    return Err(self.fault(what, AFTER_LITERAL));
                }
                self.place += 1;
            }
        }
        self.settle(place).map_err(|text| Fault::new(start, text, UNKNOWN))
    }

    /// Checks the arguments of the operation at `place`, now that they were read.
    fn settle(&mut self, place: usize) -> Result<(), String> {
        let (function, arguments) = match self.ops[place].atom {
            Atom::Call { function, arguments } => (function, arguments),
            Atom::Within { low, high } if low > high => {
                return Err(format!("no number is from {low} to {high}"));
            }
            _ => return Ok(()),
        };
        let name = function.name();
        let (least, most, what) = match function.takes() {
            Takes::Nothing => (0, 0, "argument"),
            Takes::Rules(least, most) => (least, most, "rule"),
            Takes::Numbers(least, most) => (least, most, "whole number"),
            Takes::Lengths(least, most) => (least, most, "length from 0"),
            Takes::Base => (0, 1, "base from 2 to 36"),
            Takes::Texts(least, most) => (least, most, "text in quotes"),
        };
        if !(least..=most).contains(&arguments) {
            return Err(counted(name, arguments, least, most, what));
        }
        let mut numbers = Vec::new();
        let takes = function.takes();
        for op in &self.ops[place + 1..] {
            let fits = match (takes, &op.atom) {
                (Takes::Rules(..), _) | (Takes::Texts(..), Atom::Text(_)) => true,
                (Takes::Numbers(..) | Takes::Lengths(..) | Takes::Base, Atom::Number(value)) => {
                    numbers.push(*value);
                    let whole = value.fract() == 0.0 && value.abs() <= EXACT_MAX;
                    whole
                        && match takes {
                            Takes::Lengths(..) => *value >= 0.0,
                            Takes::Base => (2.0..=36.0).contains(value),
                            _ => true,
                        }
                }
                _ => false,
            };
            if !fits {
                return Err(format!("an argument of {name:?} is not a {what}"));
            }
        }
        if let [low, high] = numbers[..]
            && low > high
        {
            return Err(format!("{name}({low},{high}) allows nothing: {low} is above {high}"));
        }
        self.settle_texts(function, place)
    }

    fn settle_texts(&mut self, function: Function, place: usize) -> Result<(), String> {
        let Some(Op { atom: Atom::Text(first), .. }) = self.ops.get_mut(place + 1) else {
            return Ok(());
        };
        match function {
            Function::Regex => {
                first.pattern = Some(Pattern::whole(&first.raw)?);
                Ok(())
            }
            Function::Uci => match &self.ops[place + 1..] {
                [_, Op { atom: Atom::Text(section), .. }] if !section.plain.starts_with('@') => {
                    Err(format!("uci of section {:?} needs the name of an option", section.plain))
                }
                _ => Ok(()),
            },
            _ => Ok(()),
        }
    }
}

fn counted(name: &str, arguments: usize, least: usize, most: usize, what: &str) -> String {
    let wanted = match (least, most) {
        (0, 0) => "none".to_owned(),
        (least, usize::MAX) => format!("at least {least} {what}"),
        (least, most) if least == most => format!("{least} {what}"),
        (least, most) => format!("{least} to {most} {what}"),
    };
    format!("{name:?} has {arguments} arguments; it takes {wanted}")
}
