//! Draws the model of `top`. Knows colours and columns, decides nothing.

use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::{Color, Modifier, Style},
    text::{Line, Span},
    widgets::{Block, Borders, Cell, Paragraph, Row, Table, TableState},
};

use super::model::{Entry, Model, Sort};
use crate::{
    status,
    table::{Paint, clean},
    units,
};

const HELP: &str = "q quit  up/down select  sort: n name  c cpu  m memory  r restarts  p pid  s state  l log  ? help";
const HELP_SHORT: &str = "q quit  ? help";
/// More than this is shown as a line each only where there is room for it.
const LOG_SHARE: u16 = 3;

/// How many lines of the table fit, which is what a page is.
pub(super) fn page(height: u16, model: &Model) -> usize {
    usize::from(areas(Rect::new(0, 0, 1, height), model).table.height.saturating_sub(1)).max(1)
}

struct Areas {
    head: Rect,
    table: Rect,
    log: Rect,
    foot: Rect,
}

fn areas(whole: Rect, model: &Model) -> Areas {
    let log = if model.log_shown { whole.height / LOG_SHARE } else { 0 };
    let [head, table, log, foot] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Min(1),
        Constraint::Length(log),
        Constraint::Length(1),
    ])
    .areas(whole);
    Areas { head, table, log, foot }
}

/// Draws everything; `colour` only where the user wants some.
pub(super) fn draw(frame: &mut Frame<'_>, model: &Model, colour: bool) {
    let areas = areas(frame.area(), model);
    frame.render_widget(head(model, colour), areas.head);
    let mut state = TableState::default().with_selected(model.selected_index());
    frame.render_stateful_widget(table(model, colour), areas.table, &mut state);
    if areas.log.height > 1 {
        frame.render_widget(log(model, areas.log), areas.log);
    }
    let help = if model.help { HELP } else { HELP_SHORT };
    frame.render_widget(Paragraph::new(help).style(faint()), areas.foot);
}

fn faint() -> Style {
    Style::default().add_modifier(Modifier::DIM)
}

/// How many run, or why that is not known now.
fn head(model: &Model, colour: bool) -> Line<'static> {
    if let Some(trouble) = &model.trouble {
        let style = if colour { Style::default().fg(Color::Red) } else { Style::default() };
        return Line::styled(clean(trouble), style);
    }
    let running = model.entries.iter().filter(|entry| entry.row.running).count();
    let restarts: u64 = model.entries.iter().filter_map(|entry| entry.row.restarts).sum();
    let processor: u64 = model.entries.iter().filter_map(|entry| entry.processor).sum();
    let resident = model.entries.iter().filter_map(|entry| entry.sample).map(|s| s.resident);
    let text = format!(
        "{running} of {} run, {restarts} restarts, CPU {}, memory {}",
        model.entries.len(),
        percent(processor),
        units::size(resident.sum())
    );
    Line::styled(text, Style::default().add_modifier(Modifier::BOLD))
}

fn table(model: &Model, colour: bool) -> Table<'static> {
    let columns = [
        ("SERVICE", Some(Sort::Name), 16),
        ("INSTANCE", None, 10),
        ("STATE", Some(Sort::State), 10),
        ("PID", Some(Sort::Pid), 7),
        ("UP", None, 7),
        ("RST", Some(Sort::Restarts), 5),
        ("CPU", Some(Sort::Processor), 7),
        ("RSS", Some(Sort::Memory), 9),
        ("PSS", None, 9),
        ("HEALTH", None, 8),
    ];
    let header = columns.iter().map(|(title, sort, _)| {
        let arrow = match *sort == Some(model.sort) {
            true if model.reversed => "^",
            true => "v",
            false => "",
        };
        Cell::from(format!("{title}{arrow}"))
    });
    let header = Row::new(header.chain([Cell::from("NOTE")]))
        .style(Style::default().add_modifier(Modifier::BOLD));
    let widths = columns.iter().map(|(_, _, width)| Constraint::Length(*width));
    let widths = widths.chain([Constraint::Min(4)]);
    Table::new(model.entries.iter().map(|entry| row(entry, colour)), widths)
        .header(header)
        .column_spacing(1)
        .row_highlight_style(Style::default().add_modifier(Modifier::REVERSED))
}

fn row(entry: &Entry, colour: bool) -> Row<'static> {
    let row = &entry.row;
    let number =
        |value: Option<u64>| value.map_or_else(|| "-".to_owned(), |value| value.to_string());
    let size = |value: Option<u64>| value.map_or_else(|| "-".to_owned(), units::size);
    let up = row.uptime_ms.map(std::time::Duration::from_millis).map(units::duration);
    let cells = [
        clean(&row.service),
        row.instance.as_deref().map_or_else(|| "-".to_owned(), clean),
        clean(&row.state),
        number(row.pid.map(u64::from)),
        up.unwrap_or_else(|| "-".to_owned()),
        number(row.restarts),
        entry.processor.map_or_else(|| "-".to_owned(), percent),
        size(entry.sample.map(|sample| sample.resident)),
        size(entry.sample.and_then(|sample| sample.proportional)),
        clean(&row.health),
        clean(&row.note),
    ];
    let state = cells[2].clone();
    let mut cells = cells.map(Cell::from);
    if let Some(paint) = paint(&state).filter(|_| colour) {
        cells[2] = Cell::from(Span::styled(state, Style::default().fg(paint)));
    }
    Row::new(cells)
}

fn paint(state: &str) -> Option<Color> {
    match status::paint(state) {
        Paint::Plain => None,
        Paint::Good => Some(Color::Green),
        Paint::Waiting => Some(Color::Yellow),
        Paint::Bad => Some(Color::Red),
    }
}

/// The newest lines that fit.
fn log(model: &Model, area: Rect) -> Paragraph<'static> {
    let title = model
        .selected_service()
        .map_or_else(|| " log ".to_owned(), |service| format!(" log of {} ", clean(service)));
    let room = usize::from(area.height.saturating_sub(1));
    let first = model.log.len().saturating_sub(room);
    let lines = model.log.iter().skip(first).map(|line| Line::raw(line.clone()));
    Paragraph::new(lines.collect::<Vec<_>>())
        .block(Block::default().borders(Borders::TOP).title(title))
}

/// `12.3%`.
fn percent(tenths: u64) -> String {
    format!("{}.{}%", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use ratatui::{Terminal, backend::TestBackend};

    use super::{
        super::model::{Key, tests::model},
        *,
    };

    fn drawn(model: &Model, width: u16, height: u16) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(frame, model, false)).unwrap();
        let buffer = terminal.backend().buffer().clone();
        let line = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>();
        (0..height).map(|y| line(y).trim_end().to_owned()).collect()
    }

    #[test]
    fn the_view_has_a_head_a_table_the_log_and_the_help() {
        let mut model = model();
        model.say("first line".to_owned());
        model.say("second line".to_owned());
        let lines = drawn(&model, 120, 12);
        let expected = [
            "2 of 4 run, 11 restarts, CPU 27.5%, memory 30 MiB",
            "SERVICEv         INSTANCE   STATE      PID     UP      RST   CPU     RSS       PSS       HEALTH   NOTE",
            "cam              instance1  ready      20      -       -     2.5%    20 MiB    -",
            "idle             -          empty      -       -       -     -       -         -",
            "web              a          ready      10      4m10s   2     25.0%   10 MiB    3.0 MiB   ok       12 clients",
            "web              b          held       -       -       9     -       -         -                  exit 3",
        ];
        assert_eq!(lines[..6], expected);
        assert!(lines[7].starts_with(" log of cam ───"), "{lines:#?}");
        assert_eq!(lines[8..], ["first line", "second line", "", "q quit  ? help"]);
    }

    #[test]
    fn without_the_log_the_table_has_its_room() {
        let mut model = model();
        model.say("a line".to_owned());
        assert_eq!(page(12, &model), 5);
        model.press(Key::Log, 1);
        model.press(Key::Help, 1);
        assert_eq!(page(12, &model), 9);
        let lines = drawn(&model, 120, 8);
        assert!(!lines.iter().any(|line| line.contains("a line")), "{lines:#?}");
        assert!(lines[7].contains("sort: n name"), "{lines:#?}");
    }

    #[test]
    fn trouble_stands_above_what_was_seen_last() {
        let mut model = model();
        model.trouble = Some("cannot reach the supervisor\u{1b}[2J".to_owned());
        let lines = drawn(&model, 80, 8);
        assert_eq!(lines[0], "cannot reach the supervisor\\u{1b}[2J");
        assert!(lines[2].starts_with("cam"), "{lines:#?}");
    }

    #[test]
    fn every_size_of_terminal_can_be_drawn() {
        let model = model();
        for width in [1, 2, 10, 300] {
            for height in [1, 2, 3, 5, 100] {
                assert_eq!(drawn(&model, width, height).len(), usize::from(height));
                assert!(page(height, &model) >= 1);
            }
        }
    }
}
