//! procd's trigger language (json_script), compiled once from the JSON that came. Total over any JSON: what means nothing
//! does nothing, or is a mistake that is told when it is reached.
//!
//! A program has no loops, so that running it takes no more steps than it has parts ([`PARTS_MAX`]).

use serde_json::{Map, Value};
use uci::datatype::ere::Pattern;

/// Deepest nesting of commands and expressions.
const DEPTH_MAX: usize = 32;
/// Most parts of one program: commands, expressions, values and arguments.
const PARTS_MAX: usize = 4096;
/// A pattern weighs so much beside its text: compiled it takes memory.
const PARTS_OF_PATTERN: usize = 63;
/// Longest text of a mistake that is kept.
const MISTAKE_MAX: usize = 200;

/// One command, or a block of them.
#[derive(Debug)]
pub(super) enum Command {
    Block(Vec<Self>),
    If {
        condition: Expression,
        then: Box<Self>,
        otherwise: Option<Box<Self>>,
    },
    Case {
        variable: String,
        arms: Vec<(String, Self)>,
    },
    /// Ends the whole program.
    Return,
    Run(Vec<Template>),
    /// Not carried out; told when it is reached.
    Mistake(String),
}

/// What an `if` asks.
#[derive(Debug)]
pub(super) enum Expression {
    Equal {
        variable: String,
        values: Vec<String>,
    },
    Matches {
        variable: String,
        patterns: Vec<Pattern>,
    },
    Has(Vec<String>),
    All(Vec<Self>),
    Any(Vec<Self>),
    Not(Box<Self>),
    IsFolder(Template),
    /// Of a known kind and without sense: the `if` around it is passed over.
    Malformed,
    /// Of no known kind: the program ends, and says so.
    Unknown(String),
}

/// A text with `%VARIABLE%` in it.
#[derive(Debug, PartialEq)]
pub(super) struct Template(pub(super) Vec<Part>);

#[derive(Debug, PartialEq)]
pub(super) enum Part {
    Text(String),
    Variable(String),
}

impl Template {
    /// `None` where a `%` has no partner.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut parts = Vec::new();
        let mut pieces = text.split('%');
        let first = pieces.next().unwrap_or_default();
        if !first.is_empty() {
            parts.push(Part::Text(first.to_owned()));
        }
        while let Some(name) = pieces.next() {
            parts.push(match name {
                "" => Part::Text("%".to_owned()),
                name => Part::Variable(name.to_owned()),
            });
            let text = pieces.next()?;
            if !text.is_empty() {
                parts.push(Part::Text(text.to_owned()));
            }
        }
        Some(Self(parts))
    }
}

/// Compiles the script of one trigger.
pub(super) fn compile(script: &Value) -> Command {
    let mut compiler = Compiler { parts: 0 };
    let command = compiler.command(script, 0);
    if compiler.parts > PARTS_MAX {
        return Command::Mistake(format!("the script has more than {PARTS_MAX} parts"));
    }
    command
}

struct Compiler {
    parts: usize,
}

impl Compiler {
    /// Counts a part; false where there are too many, or they are too deep.
    fn fits(&mut self, depth: usize) -> bool {
        self.parts += 1;
        self.parts <= PARTS_MAX && depth <= DEPTH_MAX
    }

    fn command(&mut self, block: &Value, depth: usize) -> Command {
        if !self.fits(depth) {
            return Command::Mistake(format!(
                "the script is nested deeper than {DEPTH_MAX}, or longer than {PARTS_MAX} parts"
            ));
        }
        let Value::Array(items) = block else { return mistake("unexpected element", block) };
        match items.first() {
            Some(Value::String(name)) => self.named(name, items, depth),
            _ => {
                let items = items.iter().take(PARTS_MAX);
                Command::Block(items.map(|item| self.command(item, depth + 1)).collect())
            }
        }
    }

    fn named(&mut self, name: &str, items: &[Value], depth: usize) -> Command {
        match name {
            "if" => self.branch(items, depth),
            "case" => self.case(items, depth),
            "return" => Command::Return,
            "run_script" => self.run(items),
            // `include` names another script of the trigger, and a trigger has one; other names are nobody's.
            _ => Command::Block(Vec::new()),
        }
    }

    fn branch(&mut self, items: &[Value], depth: usize) -> Command {
        let array = |at: usize| items.get(at).filter(|item| item.is_array());
        let (Some(condition), Some(then)) = (array(1), array(2)) else {
            return Command::Block(Vec::new());
        };
        Command::If {
            condition: self.expression(condition, depth + 1),
            then: Box::new(self.command(then, depth + 1)),
            otherwise: array(3).map(|block| Box::new(self.command(block, depth + 1))),
        }
    }

    fn case(&mut self, items: &[Value], depth: usize) -> Command {
        let (Some(Value::String(variable)), Some(Value::Object(table))) =
            (items.get(1), items.get(2))
        else {
            return Command::Block(Vec::new());
        };
        let arm =
            |(value, block): (&String, &Value)| (value.clone(), self.command(block, depth + 1));
        let arms = table.iter().take(PARTS_MAX).map(arm).collect();
        Command::Case { variable: variable.clone(), arms }
    }

    fn run(&mut self, items: &[Value]) -> Command {
        let mut arguments = Vec::new();
        for item in items.iter().skip(1) {
            self.parts += 1;
            let Value::String(text) = item else { return mistake("argument is no text", item) };
            let Some(template) = Template::parse(text) else {
                return mistake("a % without a partner in", item);
            };
            arguments.push(template);
        }
        match arguments.is_empty() {
            true => Command::Mistake("run_script without a program".to_owned()),
            false => Command::Run(arguments),
        }
    }

    fn expression(&mut self, expression: &Value, depth: usize) -> Expression {
        let items = expression.as_array().map(Vec::as_slice).unwrap_or_default();
        let Some(Value::String(name)) = items.first() else { return Expression::Malformed };
        if !self.fits(depth) {
            return Expression::Malformed;
        }
        let variable = || items.get(1).and_then(Value::as_str).map(str::to_owned);
        let read = match &**name {
            "eq" => variable()
                .zip(self.texts(items.get(2)))
                .map(|(variable, values)| Expression::Equal { variable, values }),
            "regex" => variable()
                .zip(self.patterns(items.get(2)))
                .map(|(variable, patterns)| Expression::Matches { variable, patterns }),
            "has" => self.texts(items.get(1)).map(Expression::Has),
            "and" => Some(Expression::All(self.expressions(items, depth))),
            "or" => Some(Expression::Any(self.expressions(items, depth))),
            "not" => items
                .get(1)
                .filter(|item| item.is_array())
                .map(|item| Expression::Not(Box::new(self.expression(item, depth + 1)))),
            "isdir" => items
                .get(1)
                .and_then(Value::as_str)
                .and_then(Template::parse)
                .map(Expression::IsFolder),
            _ => Some(Expression::Unknown(shortened(expression))),
        };
        read.unwrap_or(Expression::Malformed)
    }

    /// `None` where one of them can't be read.
    fn patterns(&mut self, value: Option<&Value>) -> Option<Vec<Pattern>> {
        let texts = self.texts(value)?;
        self.parts += texts.len().saturating_mul(PARTS_OF_PATTERN);
        if self.parts > PARTS_MAX {
            return None;
        }
        texts.iter().map(|text| Pattern::parse(text).ok()).collect()
    }

    fn expressions(&mut self, items: &[Value], depth: usize) -> Vec<Expression> {
        let items = items.iter().skip(1).take(PARTS_MAX);
        items.map(|item| self.expression(item, depth + 1)).collect()
    }

    /// A text, or a list of which only the texts count.
    fn texts(&mut self, value: Option<&Value>) -> Option<Vec<String>> {
        let texts = match value? {
            Value::String(text) => vec![text.clone()],
            Value::Array(items) => {
                let texts = items.iter().take(PARTS_MAX).filter_map(Value::as_str);
                texts.map(str::to_owned).collect()
            }
            _ => return None,
        };
        self.parts += texts.len();
        Some(texts)
    }
}

fn mistake(what: &str, value: &Value) -> Command {
    Command::Mistake(format!("{what} {}", shortened(value)))
}

fn shortened(value: &Value) -> String {
    let mut text = value.to_string();
    let mut end = text.len().min(MISTAKE_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text
}

/// One run of a program over the data of one event.
pub(super) struct Run<'e> {
    pub(super) data: &'e Map<String, Value>,
    pub(super) is_folder: fn(&str) -> bool,
    /// The command lines that it wants run, in order.
    pub(super) commands: Vec<Vec<String>>,
    pub(super) mistakes: Vec<String>,
}

/// Most command lines that one trigger may ask for at one event.
const COMMANDS_MAX: usize = 32;
/// Longest command line after its variables are filled in, in bytes.
pub(super) const COMMAND_MAX: usize = 8 * 1024;

/// The program is over.
struct Over;

impl Run<'_> {
    pub(super) fn run(&mut self, program: &Command) {
        // Over is over, for whatever reason.
        let _ = self.command(program);
    }

    fn command(&mut self, command: &Command) -> Result<(), Over> {
        match command {
            Command::Block(commands) => {
                commands.iter().try_for_each(|command| self.command(command))
            }
            Command::If { condition, then, otherwise } => match self.holds(condition)? {
                Some(true) => self.command(then),
                Some(false) => match otherwise {
                    Some(otherwise) => self.command(otherwise),
                    None => Ok(()),
                },
                None => Ok(()),
            },
            Command::Case { variable, arms } => {
                let Some(value) = self.variable(variable) else { return Ok(()) };
                match arms.iter().find(|(arm, _)| arm == value) {
                    Some((_, command)) => self.command(command),
                    None => Ok(()),
                }
            }
            Command::Return => Err(Over),
            Command::Run(arguments) => {
                self.want(arguments);
                Ok(())
            }
            Command::Mistake(text) => {
                self.mistake(text.clone());
                Ok(())
            }
        }
    }

    fn want(&mut self, arguments: &[Template]) {
        if self.commands.len() >= COMMANDS_MAX {
            return self.mistake(format!("it runs more than {COMMANDS_MAX} commands"));
        }
        let mut left = COMMAND_MAX;
        let filled = arguments.iter().map(|argument| self.filled_in(argument, &mut left));
        match filled.collect() {
            Some(command) => self.commands.push(command),
            None => self.mistake(format!(
                "a command of more than {COMMAND_MAX} bytes, after its variables were filled in"
            )),
        }
    }

    /// `None`: it would be longer than what is left.
    fn filled_in(&self, template: &Template, left: &mut usize) -> Option<String> {
        let mut text = String::new();
        for part in &template.0 {
            let piece = match part {
                Part::Text(text) => text,
                Part::Variable(name) => self.variable(name).unwrap_or_default(),
            };
            *left = left.checked_sub(piece.len())?;
            text.push_str(piece);
        }
        *left = left.checked_sub(1)?;
        Some(text)
    }

    /// `None`: nobody can say.
    fn holds(&mut self, expression: &Expression) -> Result<Option<bool>, Over> {
        Ok(match expression {
            Expression::Equal { variable, values } => {
                Some(self.variable(variable).is_some_and(|it| values.iter().any(|v| v == it)))
            }
            Expression::Matches { variable, patterns } => {
                let is_match = |it: &str| patterns.iter().any(|pattern| pattern.is_match(it));
                Some(self.variable(variable).is_some_and(is_match))
            }
            Expression::Has(names) => Some(names.iter().any(|name| self.variable(name).is_some())),
            Expression::All(all) => return self.first(all, false),
            Expression::Any(any) => return self.first(any, true),
            Expression::Not(it) => self.holds(it)?.map(|holds| !holds),
            Expression::IsFolder(path) => {
                let path = self.filled_in(path, &mut COMMAND_MAX.clone());
                path.map(|path| (self.is_folder)(&path))
            }
            Expression::Malformed => None,
            Expression::Unknown(text) => {
                self.mistake(format!("unknown expression {text}; the trigger ends there"));
                return Err(Over);
            }
        })
    }

    /// `decisive` as soon as one says so, else its opposite.
    fn first(&mut self, of: &[Expression], decisive: bool) -> Result<Option<bool>, Over> {
        for expression in of {
            match self.holds(expression)? {
                None => return Ok(None),
                Some(holds) if holds == decisive => return Ok(Some(decisive)),
                Some(_) => {}
            }
        }
        Ok(Some(!decisive))
    }

    /// Only texts are variables.
    fn variable(&self, name: &str) -> Option<&str> {
        self.data.get(name).and_then(Value::as_str)
    }

    fn mistake(&mut self, text: String) {
        if self.mistakes.len() < COMMANDS_MAX {
            self.mistakes.push(text);
        }
    }
}
