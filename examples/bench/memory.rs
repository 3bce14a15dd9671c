//! What `consume` keeps in memory.

use std::ffi::OsStr;
use std::fs;

use anyhow::Context;
use tempfile::tempdir;

use crate::load::{Client, Load, Server, eventctl};
use crate::table::{Aim, Table};

const CONNECTIONS: usize = 5000;

/// Resident memory, idle and with open connections that have each sent an event.
pub fn measure(table: &mut Table) -> anyhow::Result<()> {
    let directory = tempdir()?;
    let limit = OsStr::new("--max-connections-per-address=8192");
    let server = Server::consume_with(&eventctl()?, &directory.path().join("events.db"), &[limit])?;
    table.add_pairs("resident memory, idle", "MiB", Aim::AtMost(1.0), &[(resident(&server)?, 16.0)]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let load = Load::event();
        let mut clients = Vec::with_capacity(CONNECTIONS);
        for _ in 0..CONNECTIONS {
            let mut client = Client::connect(server.address, &load).await?;
            client.send(&load).await?;
            clients.push(client);
        }
        let name = "resident memory, 5,000 idle connections";
        table.add_pairs(name, "MiB", Aim::AtMost(1.0), &[(resident(&server)?, 96.0)]);
        Ok(())
    })
}

pub fn resident(server: &Server) -> anyhow::Result<f64> {
    let status = fs::read_to_string(format!("/proc/{}/status", server.pid()))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kibibytes: f64 = line.trim_end_matches("kB").trim().parse()?;
    Ok(kibibytes / 1024.0)
}
