//! What an edit costs that says nothing new: no process may be started by it. Beside edits that do, of which each starts one.

use std::fs;

use crate::{
    ground::{Ground, pause, write_over},
    numbers::{Report, Rounds, Table},
    suite::{Place, Suite, name, text},
};

const EDITS: usize = 20;
const PACKAGES: usize = 100;
/// The quiet time and everything that comes of an edit.
const AFTER_MS: i64 = 150;

#[derive(Default)]
struct Edits {
    costs: Rounds,
    /// Process starts.
    most: f64,
}

pub(crate) fn measure(ground: &Ground, report: &mut Report) -> anyhow::Result<()> {
    let trigger = format!(
        "command = [\"/bin/sleep\", \"100000\"]\n[[triggers]]\nevent = \"config.change\"\n\
         package = \"{}\"\nrun = [\"/bin/true\"]\n",
        name(0)
    );
    let suite = Suite::start(ground, PACKAGES, "", &[("watched", trigger)], &[], Place::Memory)?;
    let (mut comments, mut changes) = (Edits::default(), Edits::default());
    let mut value = 0;
    for _ in 0..ground.rounds() {
        for _ in 0..ground.scaled(EDITS) {
            value += 1;
            let before = fs::read_to_string(suite.package(0))?;
            let commented = format!("# Comment {value}.\n{}", before.replace('\'', "\""));
            let edits = [(&mut comments, commented), (&mut changes, text(value))];
            for (done, text) in edits {
                let cost = ground.cost(&suite.daemons, || {
                    write_over(&suite.package(0), &text)?;
                    pause(AFTER_MS);
                    Ok(())
                })?;
                done.costs.push(&[cost.daemons_ms, cost.starts]);
                done.most = cost.starts.max(done.most);
            }
        }
    }
    suite.check()?;
    let columns = &["daemons' CPU ms each", "process starts each, p50", "most"];
    let mut table = Table::new("edits of one of 100 packages", columns);
    for (what, edits) in [("a comment and other quotes", &comments), ("a value", &changes)] {
        let medians = edits.costs.medians();
        table.row(what, &[medians[0], medians[1], edits.most]);
    }
    if ground.is_inside() {
        report.goal("process starts by an edit of a comment, at most", 0.0, comments.most);
    }
    report.add(&table);
    Ok(())
}
