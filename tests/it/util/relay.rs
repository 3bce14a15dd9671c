//! A relay between a client and a server that can fall silent, as a network does whose packets are lost.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// Passes connections on to a server.
pub struct Relay {
    pub address: SocketAddr,
    accepted: Arc<AtomicUsize>,
    silenced: Arc<AtomicUsize>,
}

impl Relay {
    pub fn start(server: SocketAddr) -> Relay {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (accepted, silenced) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let relay = Relay { address, accepted: Arc::clone(&accepted), silenced: Arc::clone(&silenced) };
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let Ok(server) = TcpStream::connect(server) else { continue };
                let number = accepted.fetch_add(1, Ordering::SeqCst) + 1;
                for (from, to) in [(&client, &server), (&server, &client)] {
                    let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    let silenced = Arc::clone(&silenced);
                    // How either side ends its connection is its own affair.
                    thread::spawn(move || pass(from, to, || number <= silenced.load(Ordering::SeqCst)));
                }
            }
        });
        relay
    }

    /// How many connections there have been.
    pub fn connections(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }

    /// Passes nothing on any more on the connections that there are, and leaves them open; new ones work.
    pub fn silence(&self) {
        self.silenced.store(self.connections(), Ordering::SeqCst);
    }

    /// The same, and new connections are taken and hear nothing either.
    pub fn silence_for_good(&self) {
        self.silenced.store(usize::MAX, Ordering::SeqCst);
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, is_silent: impl Fn() -> bool) -> io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let length = from.read(&mut buffer)?;
        if is_silent() {
            // The other side hears neither what comes nor that it ends.
            if length == 0 {
                loop {
                    thread::park();
                }
            }
            continue;
        }
        if length == 0 {
            return to.shutdown(std::net::Shutdown::Write);
        }
        to.write_all(&buffer[..length])?;
    }
}
