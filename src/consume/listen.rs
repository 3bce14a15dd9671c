//! Where connections come from: TCP, Unix sockets, and sockets that systemd has opened.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::task::{Context, Poll};

use anyhow::Context as _;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use super::client::Client;
use crate::cli::ConsumeOptions;
use crate::core::hint::{Hint, hinted};
use crate::core::network::ListenAddress;
use crate::systemd;

/// Who may connect to a Unix socket of ours: its owner and its group.
const SOCKET_MODE: u32 = 0o660;

/// How often a port is picked that turns out to be taken for another address.
const PICKS: usize = 16;

/// All that is listened on.
pub struct Listeners {
    sources: Vec<Source>,
    /// Which is asked first for a connection, so that none starves.
    turn: usize,
}

enum Source {
    Tcp { listener: TcpListener, address: SocketAddr },
    Unix { listener: UnixListener, path: PathBuf, _file: Option<SocketFile> },
}

/// A connection that was accepted.
pub enum Socket {
    /// By TCP.
    Tcp(TcpStream),
    /// By a Unix socket.
    Unix(UnixStream),
}

impl Listeners {
    /// Listens on what the settings name, and on what systemd has opened. `guarded` says whether requests need a token, or
    /// connections a certificate.
    ///
    /// # Errors
    /// An address cannot be listened on, or anyone could read and write there.
    pub async fn bind(options: &ConsumeOptions, guarded: bool) -> anyhow::Result<Listeners> {
        let anyone = guarded || options.access.insecure_allow_anonymous;
        let mut sources = Vec::new();
        for socket in systemd::sockets()? {
            sources.push(Source::of(socket, anyone)?);
        }
        let default = ListenAddress::Tcp { host: options.host.clone(), port: options.port };
        let addresses = match (options.listen.as_slice(), sources.is_empty()) {
            ([], true) => std::slice::from_ref(&default),
            (named, _) => named,
        };
        for address in addresses {
            match address {
                ListenAddress::Tcp { host, port } => sources.extend(bind_tcp(host, *port, anyone).await?),
                ListenAddress::Unix(path) => sources.push(bind_unix(path).await?),
            }
        }
        Ok(Listeners { sources, turn: 0 })
    }

    /// Whether other machines may connect.
    pub fn are_exposed(&self) -> bool {
        self.sources
            .iter()
            .any(|source| matches!(source, Source::Tcp { address, .. } if !address.ip().is_loopback()))
    }

    /// Where clients find the service, which speaks this scheme.
    pub fn places(&self, scheme: &str) -> Vec<String> {
        let place = |source: &Source| match source {
            Source::Tcp { address, .. } => format!("{scheme}://{address}"),
            Source::Unix { path, .. } => format!("unix:{}", path.display()),
        };
        self.sources.iter().map(place).collect()
    }

    /// The next connection, and who has made it.
    ///
    /// # Errors
    /// It is gone already, or there are no more file descriptors.
    pub async fn accept(&mut self) -> io::Result<(Socket, Client)> {
        std::future::poll_fn(|cx| self.poll_accept(cx)).await
    }

    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<(Socket, Client)>> {
        let count = self.sources.len();
        for offset in 0..count {
            let index = (self.turn + offset) % count;
            if let Poll::Ready(accepted) = self.sources[index].poll_accept(cx) {
                self.turn = (index + 1) % count;
                return Poll::Ready(accepted);
            }
        }
        Poll::Pending
    }
}

impl Source {
    fn of(socket: systemd::Socket, anyone: bool) -> anyhow::Result<Source> {
        const CANNOT: &str = "cannot listen on a socket that systemd has opened";
        match socket {
            systemd::Socket::Tcp(listener) => {
                let address = listener.local_addr().context(CANNOT)?;
                check_exposure(address, anyone)?;
                Ok(Source::Tcp { listener: TcpListener::from_std(listener).context(CANNOT)?, address })
            }
            systemd::Socket::Unix(listener) => {
                let address = listener.local_addr().context(CANNOT)?;
                let path = address.as_pathname().unwrap_or(Path::new("")).to_owned();
                // systemd removes the file, if anyone does.
                Ok(Source::Unix {
                    listener: UnixListener::from_std(listener).context(CANNOT)?,
                    path,
                    _file: None,
                })
            }
        }
    }

    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<(Socket, Client)>> {
        match self {
            Source::Tcp { listener, .. } => listener.poll_accept(cx).map_ok(|(stream, peer)| {
                // Without it a response could wait for the client's acknowledgement of the one before.
                let _ = stream.set_nodelay(true);
                (Socket::Tcp(stream), Client::Address(peer.ip().to_canonical()))
            }),
            Source::Unix { listener, .. } => {
                listener.poll_accept(cx).map_ok(|(stream, _)| (Socket::Unix(stream), Client::Unix))
            }
        }
    }
}

fn check_exposure(address: SocketAddr, anyone: bool) -> anyhow::Result<()> {
    if anyone || address.ip().is_loopback() {
        return Ok(());
    }
    let problem = format!("cannot listen on {address}: anyone who reaches it could read and write events");
    let hint = "ask for tokens with --username or --token-file, or for certificates with --tls-client-ca; \
        or listen on 127.0.0.1; or allow it with --insecure-allow-anonymous";
    Err(hinted(problem, hint))
}

/// Listens on all addresses of a host, with one port. One that this machine does not have is left out, as IPv6 may be.
async fn bind_tcp(host: &str, port: u16, anyone: bool) -> anyhow::Result<Vec<Source>> {
    let name =
        if host.contains(':') && !host.starts_with('[') { format!("[{host}]") } else { host.to_owned() };
    let cannot = || format!("cannot listen on {name}:{port}");
    let addresses = addresses_of(host).await;
    let addresses =
        addresses.with_context(cannot).hint("give --host an address of this machine, such as 127.0.0.1")?;
    for address in &addresses {
        check_exposure(SocketAddr::new(*address, port), anyone)?;
    }
    let bind = async {
        for _ in 1..PICKS {
            match bind_all(&addresses, port).await {
                // The port that was picked for one is taken for another.
                Err(error) if port == 0 && error.kind() == io::ErrorKind::AddrInUse => {}
                bound => return bound,
            }
        }
        bind_all(&addresses, port).await
    };
    bind.await.map_err(|error| {
        let hint = match error.kind() {
            io::ErrorKind::AddrInUse => {
                "stop what listens there, or choose another --port (0 picks a free one)"
            }
            io::ErrorKind::PermissionDenied => "choose a --port of 1024 or above",
            _ => "give --host an address of this machine, such as 127.0.0.1",
        };
        hinted(format!("{}: {error}", cannot()), hint)
    })
}

async fn addresses_of(host: &str) -> io::Result<Vec<IpAddr>> {
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    // Clients try both, whatever a name server or a file says.
    if bare.eq_ignore_ascii_case("localhost") {
        return Ok(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
    }
    let mut addresses: Vec<IpAddr> = Vec::new();
    for address in tokio::net::lookup_host((bare, 0)).await? {
        if !addresses.contains(&address.ip()) {
            addresses.push(address.ip());
        }
    }
    Ok(addresses)
}

async fn bind_all(addresses: &[IpAddr], mut port: u16) -> io::Result<Vec<Source>> {
    let mut bound = Vec::new();
    let mut missing = None;
    for address in addresses {
        match TcpListener::bind((*address, port)).await {
            Ok(listener) => {
                let address = listener.local_addr()?;
                port = address.port();
                bound.push(Source::Tcp { listener, address });
            }
            Err(error) if is_missing(&error) => missing = Some(error),
            Err(error) => return Err(error),
        }
    }
    match missing {
        Some(error) if bound.is_empty() => Err(error),
        _ => Ok(bound),
    }
}

/// Whether this machine does not have an address, or no address of its family.
fn is_missing(error: &io::Error) -> bool {
    let no_family = rustix::io::Errno::AFNOSUPPORT.raw_os_error();
    error.kind() == io::ErrorKind::AddrNotAvailable || error.raw_os_error() == Some(no_family)
}

async fn bind_unix(path: &Path) -> anyhow::Result<Source> {
    let hint = "give --listen the path of a file in a folder that this user may write to, and that nobody listens on";
    let bound = async {
        let listener = match UnixListener::bind(path) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_left_over(path).await => {
                fs::remove_file(path)?;
                UnixListener::bind(path)?
            }
            bound => bound?,
        };
        let file = SocketFile::new(path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(SOCKET_MODE))?;
        Ok::<_, io::Error>((listener, file))
    };
    let (listener, file) = bound.await.map_err(|error: io::Error| {
        hinted(format!("cannot listen on unix:{}: {error}", path.display()), hint)
    })?;
    Ok(Source::Unix { listener, path: path.to_owned(), _file: Some(file) })
}

/// Whether a file is a socket that nobody listens on, as a killed process leaves it.
async fn is_left_over(path: &Path) -> bool {
    let is_socket = fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
    let refused = |error: io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
    is_socket && UnixStream::connect(path).await.is_err_and(refused)
}

/// The file of a socket, which is removed with it, unless another has taken its place.
struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl SocketFile {
    fn new(path: &Path) -> io::Result<SocketFile> {
        let found = fs::symlink_metadata(path)?;
        Ok(SocketFile { path: path.to_owned(), device: found.dev(), inode: found.ino() })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let found = fs::symlink_metadata(&self.path);
        if found.is_ok_and(|found| (found.dev(), found.ino()) == (self.device, self.inode)) {
            // A file that stays is taken for what it is by whoever listens there next.
            let _ = fs::remove_file(&self.path);
        }
    }
}
