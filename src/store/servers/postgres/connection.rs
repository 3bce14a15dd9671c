//! A connection to a PostgreSQL server: one of several addresses, deadlines of our own, and a bounded number of
//! prepared statements.
//!
//! The driver is asynchronous. Each connection drives it with a runtime of its own, on the thread that uses it, for as
//! long as something is asked of it.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::Context;
use tokio::runtime::{Builder, Runtime};
use tokio::select;
use tokio::task::{JoinHandle, yield_now};
use tokio::time::timeout;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row, Statement};

use super::connect::{Connected, ConnectedServer, Notices, connect_any, wait_until_superseded};
use super::error::PostgresError;
use super::values::by_reference;
use crate::store::error::DatabaseError;
use crate::store::location::ServerDatabase;
use crate::store::servers::session::{CONNECT_TIMEOUT, Purpose};
use crate::store::statements::{Statements, Value};

/// How long a process that stops in the middle of a transaction keeps its locks.
const STOPPED_TIME: Duration = Duration::from_secs(5);

/// How much later than the server we give a statement up: the error of the server says more.
const GRACE: Duration = Duration::from_secs(3);

/// How long closing a connection may take: the server may be gone.
const CLOSE_TIME: Duration = Duration::from_millis(100);

/// How many statements stay prepared: more than we have.
const STATEMENTS: usize = 64;

/// A connection with the statements that it has prepared.
pub struct Connection {
    client: Option<Client>,
    driver: Option<JoinHandle<()>>,
    runtime: Option<Runtime>,
    statements: HashMap<String, (Statement, u64)>,
    uses: u64,
    database: ServerDatabase,
    purpose: Purpose,
    server: ConnectedServer,
    time_limit: Duration,
    /// What the server said when it gave up waiting for its standbys.
    given_up: Notices,
    pub has_asynchronous_replicas: bool,
    /// Whether an answer is outstanding that is no longer waited for.
    abandoned: bool,
}

impl Connection {
    /// Connects to the first address that will do.
    pub fn connect(
        database: &ServerDatabase,
        purpose: Purpose,
        time_limit: Duration,
    ) -> anyhow::Result<Connection> {
        let runtime =
            Builder::new_current_thread().enable_all().build().context("cannot start a connection")?;
        let given_up = Notices::default();
        let connecting = connect_any(database, purpose, &given_up);
        let Connected { client, driver, server } = runtime.block_on(connecting)?;
        Ok(Connection {
            client: Some(client),
            driver: Some(driver),
            runtime: Some(runtime),
            statements: HashMap::new(),
            uses: 0,
            database: database.clone(),
            purpose,
            server,
            time_limit: time_limit + GRACE,
            given_up,
            has_asynchronous_replicas: false,
            abandoned: false,
        })
    }

    /// Limits how long the server works for us. Not by startup parameters, which poolers refuse.
    pub fn limit(&mut self) -> Result<(), PostgresError> {
        let statement_timeout = (self.time_limit - GRACE).as_millis();
        self.run(&format!(
            "SET statement_timeout = {statement_timeout}; SET idle_in_transaction_session_timeout = {}",
            STOPPED_TIME.as_millis()
        ))
    }

    /// Whether the connection is of no use any more, as far as is known.
    fn is_lost(&self) -> bool {
        self.abandoned || self.client().is_closed()
    }

    /// Whether the server has closed the connection, as far as can be seen without waiting.
    pub fn has_ended(&mut self) -> bool {
        let runtime = self.runtime.as_ref().expect("it is there until the connection is dropped");
        runtime.block_on(async {
            // The first polls the network, the second lets the driver read what is there.
            yield_now().await;
            yield_now().await;
        });
        self.is_lost()
    }

    /// Whether the server answers.
    pub fn is_alive(&mut self) -> bool {
        let answer = self.wait(CONNECT_TIMEOUT, self.client().simple_query(""));
        self.settle(answer).is_ok()
    }

    /// Runs statements that give nothing and take no values.
    pub fn run(&mut self, statements: &str) -> Result<(), PostgresError> {
        let answer = self.wait(self.time_limit, self.client().batch_execute(statements));
        self.settle(answer)
    }

    pub fn query_one(
        &mut self,
        statement: &str,
        values: &[&(dyn ToSql + Sync)],
    ) -> Result<Row, PostgresError> {
        let prepared = self.prepared(statement)?;
        let exchange = self.client().query_one(&prepared, values);
        let answer = self.wait(self.time_limit, exchange);
        self.settle(answer)
    }

    pub fn query(
        &mut self,
        statement: &str,
        values: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, PostgresError> {
        let prepared = self.prepared(statement)?;
        let exchange = self.client().query(&prepared, values);
        let answer = self.wait(self.time_limit, exchange);
        self.settle(answer)
    }

    pub fn execute(&mut self, statement: &str, values: &[&(dyn ToSql + Sync)]) -> Result<u64, PostgresError> {
        let prepared = self.prepared(statement)?;
        let exchange = self.client().execute(&prepared, values);
        let answer = self.wait(self.time_limit, exchange);
        self.settle(answer)
    }

    /// The first column of the first row of a statement without values.
    pub fn text(&mut self, statement: &str) -> Result<String, PostgresError> {
        Ok(self.query_one(statement, &[])?.try_get::<_, Option<String>>(0)?.unwrap_or_default())
    }

    /// The first value of a statement, by the simple protocol.
    pub fn first_text(&mut self, statement: &str) -> Result<Option<String>, PostgresError> {
        let answer = self.wait(self.time_limit, self.client().simple_query(statement));
        let messages = self.settle(answer)?;
        Ok(messages.iter().find_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        }))
    }

    fn prepared(&mut self, statement: &str) -> Result<Statement, PostgresError> {
        self.uses += 1;
        if let Some((prepared, last_use)) = self.statements.get_mut(statement) {
            *last_use = self.uses;
            return Ok(prepared.clone());
        }
        let text = numbered(statement);
        let answer = self.wait(self.time_limit, self.client().prepare(&text));
        let prepared = self.settle(answer)?;
        if self.statements.len() >= STATEMENTS {
            let oldest = self.statements.iter().min_by_key(|(_, (_, last_use))| *last_use);
            let oldest = oldest.map(|(statement, _)| statement.clone());
            // The driver closes what is dropped.
            oldest.and_then(|oldest| self.statements.remove(&oldest));
        }
        self.statements.insert(statement.to_owned(), (prepared.clone(), self.uses));
        Ok(prepared)
    }

    fn client(&self) -> &Client {
        self.client.as_ref().expect("it is there until the connection is dropped")
    }

    fn runtime(&self) -> &Runtime {
        self.runtime.as_ref().expect("it is there until the connection is dropped")
    }

    /// Runs the driver until there is an answer, no longer than the limit, and not where another server is to be used.
    fn wait<T>(
        &self,
        limit: Duration,
        answer: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T, PostgresError> {
        self.runtime().block_on(async {
            select! {
                biased;
                answer = timeout(limit, answer) => match answer {
                    Ok(answer) => Ok(answer?),
                    Err(_) => Err(PostgresError::TimedOut(self.time_limit)),
                },
                () = wait_until_superseded(&self.database, self.purpose, &self.server) => {
                    Err(PostgresError::Superseded)
                }
            }
        })
    }

    fn settle<T>(&mut self, answer: Result<T, PostgresError>) -> Result<T, PostgresError> {
        self.abandoned |= matches!(answer, Err(PostgresError::TimedOut(_) | PostgresError::Superseded));
        match self.given_up.lock().take() {
            Some(reason) if !self.abandoned => Err(PostgresError::NotReplicated(reason)),
            _ => answer,
        }
    }
}

/// Closes the connection, and does not wait for a server that is gone.
impl Drop for Connection {
    fn drop(&mut self) {
        self.statements.clear();
        drop(self.client.take());
        let Some(runtime) = self.runtime.take() else { return };
        if let Some(driver) = self.driver.take()
            && !self.abandoned
            && !driver.is_finished()
        {
            let _ = runtime.block_on(async { timeout(CLOSE_TIME, driver).await });
        }
        runtime.shutdown_background();
    }
}

impl Statements for Connection {
    fn for_update(&self) -> &'static str {
        " FOR UPDATE"
    }

    fn execute(&mut self, statement: &str, values: &[Value]) -> Result<(), DatabaseError> {
        Ok(Connection::execute(self, statement, &by_reference(values)).map(drop)?)
    }

    fn values(
        &mut self,
        statement: &str,
        values: &[Value],
        columns: usize,
    ) -> Result<Vec<Value>, DatabaseError> {
        let rows = self.query(statement, &by_reference(values))?;
        let cells = rows.iter().flat_map(|row| (0..columns).map(|column| row.try_get(column)));
        let cells: Result<Vec<Value>, tokio_postgres::Error> = cells.collect();
        Ok(cells.map_err(PostgresError::from)?)
    }
}

/// The statement with its values numbered, as PostgreSQL has them.
fn numbered(statement: &str) -> String {
    let mut parts = statement.split('?');
    let mut numbered = parts.next().unwrap_or_default().to_owned();
    for (position, part) in parts.enumerate() {
        numbered.push_str(&format!("${}{part}", position + 1));
    }
    numbered
}
