//! From the SIGKILL of a provider until whoever asked for it has the registry's event, beside the end of another
//! connection that the same process held: what the kernel itself takes. Before the registry tells of a death it writes its
//! state to the run directory, so where that lies counts.

use std::time::Duration;

use anyhow::Context as _;
use endpoint::{Bus, Options};
use protocol::registry::Subscribe;
use serde_json::Value;
use tokio::{
    io::AsyncReadExt as _,
    net::UnixListener,
    time::{Instant, sleep, timeout},
};

use crate::{
    ground::{DISK, Ground, LIMIT, MEMORY, Registry},
    numbers::{Report, Table, Times},
};

const DEATHS: usize = 300;
/// Until everything that a registration leaves behind is done: the kernel takes up to 20 ms to close an inotify
/// descriptor, and a process that is killed meanwhile ends only then.
const SETTLE: Duration = Duration::from_millis(100);
const GOAL_US: f64 = 5_000.0;

pub(crate) async fn measure(ground: &Ground, report: &mut Report) -> anyhow::Result<()> {
    let mut table = Table::new("SIGKILL of a provider", &["p50 µs", "p95 µs", "p99 µs", "max µs"]);
    for (place, what) in [(MEMORY, "run directory in memory"), (DISK, "run directory on disk")] {
        let rows = kill(ground, place).await?;
        for (row, times) in &rows {
            table.row(format!("{what}: {row}"), &[times.p50, times.p95, times.p99, times.max]);
        }
        report.goal(format!("p99 of a death notice, µs, {what}"), GOAL_US, rows[1].1.p99);
    }
    report.add(&table);
    Ok(())
}

async fn kill(ground: &Ground, place: &str) -> anyhow::Result<[(&'static str, Times); 3]> {
    let registry = Registry::start_at(ground, place).await?;
    let run_dir = registry.run_dir();
    let run = run_dir.to_str().context("the scratch folder's name is text")?;
    let beside = run_dir.join("beside");
    let listener = UnixListener::bind(&beside)?;
    let beside = beside.to_str().context("the scratch folder's name is text")?;
    let bus = Bus::new(&run_dir, Options::default());
    let patterns = vec!["endpoint.died".to_owned()];
    let mut deaths = bus.subscribe(Subscribe { patterns, ..Subscribe::default() });
    let active = deaths.active(LIMIT).await;
    active.map_err(|failure| anyhow::anyhow!("subscribe: {failure}"))?;
    let (mut ends, mut events, mut between) = (Vec::new(), Vec::new(), Vec::new());
    for number in 0..ground.scaled(DEATHS) {
        let name = format!("mortal{number}");
        let mortal = ground.start(None, &["mortal", run, &name, beside])?;
        let (mut connection, _) = timeout(LIMIT, listener.accept()).await??;
        bus.wait_for(&[&name], LIMIT).await?;
        sleep(SETTLE).await;
        let before = Instant::now();
        mortal.kill()?;
        let end = async {
            let read = connection.read(&mut [0; 1]).await;
            // It may be told as an error or as an end.
            (before.elapsed(), read.map_or(0, |length| length))
        };
        let event = async {
            let event = deaths.next().await;
            (before.elapsed(), event)
        };
        let ((ended, length), (heard, event)) = timeout(LIMIT, async { tokio::join!(end, event) })
            .await
            .context("the news of a death does not come")?;
        anyhow::ensure!(length == 0, "the provider said something");
        let event = event.map_err(|failure| anyhow::anyhow!("listen: {failure}"))?;
        let died: Value = event.parse()?;
        anyhow::ensure!(died["pid"] == mortal.pid(), "{died} is of another process");
        ends.push(ended);
        events.push(heard);
        between.push(heard.saturating_sub(ended));
    }
    Ok([
        ("end of another connection that it held", Times::of(ends)),
        ("event endpoint.died", Times::of(events)),
        ("between these two", Times::of(between)),
    ])
}
