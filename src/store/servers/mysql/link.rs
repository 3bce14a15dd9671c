//! A connection that can be left while it owes an answer.

use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;

use mysql::Conn;
use mysql::prelude::Queryable;

use super::connect::{Connected, Server, timed_out};
use crate::store::servers::session::LEAVE_CHECK;

type Call = Box<dyn FnOnce(&mut Conn) + Send>;

/// The driver blocks until a server answers. Where the URL has other servers a thread makes the calls instead, so that a
/// server that says nothing any more can be left: the thread ends with the time limit of its statement.
pub enum Link {
    Direct(Conn),
    Threaded { calls: Sender<Call>, server: Server },
}

impl Link {
    pub fn new(connected: Connected) -> Link {
        let Connected { mut connection, server } = connected;
        let Some(server) = server else { return Link::Direct(connection) };
        let (calls, called) = mpsc::channel::<Call>();
        thread::spawn(move || called.into_iter().for_each(|call| call(&mut connection)));
        Link::Threaded { calls, server }
    }

    /// # Errors
    /// Those of the call, and a time-out where the server turns out to be silent.
    pub fn call<T: Send + 'static>(
        &mut self,
        call: impl FnOnce(&mut Conn) -> mysql::Result<T> + Send + 'static,
    ) -> mysql::Result<T> {
        let (calls, server) = match self {
            Link::Direct(connection) => return call(connection),
            Link::Threaded { calls, server } => (calls, server),
        };
        let (answer, answered) = mpsc::channel();
        let _ = calls.send(Box::new(move |connection| {
            let _ = answer.send(call(connection));
        }));
        loop {
            match answered.recv_timeout(LEAVE_CHECK) {
                Ok(answer) => return answer,
                Err(RecvTimeoutError::Timeout) if !server.is_silent() => {}
                Err(_) => return Err(timed_out()),
            }
        }
    }

    /// Runs a statement that gives nothing and takes no values.
    pub fn run(&mut self, statement: &str) -> mysql::Result<()> {
        let statement = statement.to_owned();
        self.call(move |connection| connection.query_drop(statement))
    }
}
