//! Measures `eventctl` beside the least that the same work could cost, and prints one table.
//!
//! ```text
//! cargo build --release && cargo run --release --example bench [ROW ...]
//! ```
//!
//! Every row is a ratio of two measurements taken in turn, so that a machine whose speed drifts does
//! not decide it: the median of the pairs counts, and the spread is printed. `BENCH_PAIRS`
//! changes their number (7). Some rows need `wrk` and the `sqlite3` shell on the path; `builds` compares
//! this build with the one that `BENCH_OTHER` names, `stores` and `clusters` need the servers of
//! `.ci/servers`, and `stores` needs `pgbench`.

mod bare;
mod ingest;
mod load;
mod memory;
mod network;
mod reading;
mod sending;
mod servers;
mod streams;
mod subscriptions;
mod table;

use std::env;

use anyhow::{Context, bail};

use self::table::Table;

/// Measures some rows of the table.
type Measure = fn(&mut Table) -> anyhow::Result<()>;

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    if arguments == [bare::ROLE] {
        return bare::serve();
    }
    let rows: [(&str, Measure); 18] = [
        ("ingest", ingest::measure_throughput),
        ("latency", ingest::measure_latency),
        ("batches", ingest::measure_batches),
        ("alerts", ingest::measure_alerts),
        ("log", ingest::measure_log),
        ("hooks", subscriptions::measure_hooks),
        ("subscriptions", subscriptions::measure),
        ("streams", streams::measure),
        ("jitter", sending::measure_jitter),
        ("sending", sending::measure_throughput),
        ("reading", reading::measure),
        ("memory", memory::measure),
        ("tokens", network::measure_tokens),
        ("tls", network::measure_tls),
        ("slow", network::measure_slow_clients),
        ("builds", network::measure_builds),
        ("stores", servers::measure),
        ("clusters", servers::measure_clusters),
    ];
    let unknown = arguments.iter().find(|argument| rows.iter().all(|(name, _)| name != argument));
    if let Some(unknown) = unknown {
        bail!("no row `{unknown}`: expected {}", rows.map(|(name, _)| name).join(", "));
    }
    let mut table = Table::default();
    for (name, measure) in rows {
        if arguments.is_empty() || arguments.iter().any(|argument| argument == name) {
            measure(&mut table).with_context(|| format!("cannot measure {name}"))?;
        }
    }
    table.print();
    Ok(())
}
