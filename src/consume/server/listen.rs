//! Listening sockets: TCP, Unix sockets, and sockets that systemd has opened.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::task::{Context, Poll};

use anyhow::Context as _;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use crate::consume::client_address::ClientAddress;
use crate::consume::settings::ListenSettings;
use crate::core::network::ListenAddress;
use crate::error::{Hint, hinted};
use crate::systemd;

/// The owner and the group of a Unix socket may connect.
const SOCKET_MODE: u32 = 0o660;

/// How many ports are tried with `--port 0` until one is free on all addresses of the host.
const PICKS: usize = 16;

pub struct Listeners {
    sources: Vec<Source>,
    /// Which is polled first, so that none starves.
    turn: usize,
}

enum Source {
    Tcp { listener: TcpListener, address: SocketAddr },
    Unix { listener: UnixListener, path: PathBuf, _file: Option<SocketFile> },
}

pub enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Listeners {
    /// Listens on the addresses of the settings and on the sockets of systemd.
    ///
    /// # Errors
    /// An address cannot be listened on, or is not a loopback address although `requires_authentication` (a token or a
    /// certificate) is false.
    pub async fn bind(settings: &ListenSettings, requires_authentication: bool) -> anyhow::Result<Listeners> {
        let may_be_exposed = requires_authentication || settings.allow_anonymous;
        let mut sources = Vec::new();
        for socket in systemd::sockets()? {
            sources.push(Source::of(socket, may_be_exposed)?);
        }
        let default = ListenAddress::Tcp { host: settings.host.clone(), port: settings.port };
        let addresses = match (settings.addresses.as_slice(), sources.is_empty()) {
            ([], true) => std::slice::from_ref(&default),
            (named, _) => named,
        };
        for address in addresses {
            match address {
                ListenAddress::Tcp { host, port } => {
                    let is_listed = !settings.addresses.is_empty();
                    sources.extend(bind_tcp(host, *port, may_be_exposed, is_listed).await?);
                }
                ListenAddress::Unix(path) => sources.push(bind_unix(path).await?),
            }
        }
        Ok(Listeners { sources, turn: 0 })
    }

    /// Whether other machines can connect.
    pub fn are_exposed(&self) -> bool {
        self.sources
            .iter()
            .any(|source| matches!(source, Source::Tcp { address, .. } if !address.ip().is_loopback()))
    }

    pub fn urls(&self, scheme: &str) -> Vec<String> {
        let url = |source: &Source| match source {
            Source::Tcp { address, .. } => format!("{scheme}://{address}"),
            Source::Unix { path, .. } => format!("unix:{}", path.display()),
        };
        self.sources.iter().map(url).collect()
    }

    /// # Errors
    /// The connection is gone already, or the process has no more file descriptors.
    pub async fn accept(&mut self) -> io::Result<(Socket, ClientAddress)> {
        std::future::poll_fn(|cx| self.poll_accept(cx)).await
    }

    /// Closes the listeners. Returns the connections that wait in the system's queues, which it would reset.
    pub fn close(&mut self) -> Vec<(Socket, ClientAddress)> {
        self.sources.drain(..).flat_map(Source::close).collect()
    }

    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<(Socket, ClientAddress)>> {
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
    fn of(socket: systemd::Socket, may_be_exposed: bool) -> anyhow::Result<Source> {
        const CANNOT: &str = "cannot listen on a socket that systemd has opened";
        match socket {
            systemd::Socket::Tcp(listener) => {
                let address = listener.local_addr().context(CANNOT)?;
                check_exposure(address, may_be_exposed)?;
                Ok(Source::Tcp { listener: TcpListener::from_std(listener).context(CANNOT)?, address })
            }
            systemd::Socket::Unix(listener) => {
                let address = listener.local_addr().context(CANNOT)?;
                let path = address.as_pathname().unwrap_or(Path::new("")).to_owned();
                // systemd owns the file.
                Ok(Source::Unix {
                    listener: UnixListener::from_std(listener).context(CANNOT)?,
                    path,
                    _file: None,
                })
            }
        }
    }

    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<(Socket, ClientAddress)>> {
        match self {
            Source::Tcp { listener, .. } => {
                listener.poll_accept(cx).map_ok(|(stream, peer)| accepted_tcp(stream, peer))
            }
            Source::Unix { listener, .. } => {
                listener.poll_accept(cx).map_ok(|(stream, _)| (Socket::Unix(stream), ClientAddress::Unix))
            }
        }
    }

    fn close(self) -> Vec<(Socket, ClientAddress)> {
        let mut waiting = Vec::new();
        match self {
            Source::Tcp { listener, .. } => {
                let Ok(listener) = listener.into_std() else { return waiting };
                while let Ok((stream, peer)) = listener.accept() {
                    let stream = stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream));
                    waiting.extend(stream.map(|stream| accepted_tcp(stream, peer)));
                }
            }
            Source::Unix { listener, _file, .. } => {
                let Ok(listener) = listener.into_std() else { return waiting };
                while let Ok((stream, _)) = listener.accept() {
                    let stream = stream.set_nonblocking(true).and_then(|()| UnixStream::from_std(stream));
                    waiting.extend(stream.map(|stream| (Socket::Unix(stream), ClientAddress::Unix)));
                }
            }
        }
        waiting
    }
}

fn accepted_tcp(stream: TcpStream, peer: SocketAddr) -> (Socket, ClientAddress) {
    // Nagle's algorithm would delay a response until the client acknowledges the previous one.
    let _ = stream.set_nodelay(true);
    (Socket::Tcp(stream), ClientAddress::Ip(peer.ip().to_canonical()))
}

fn check_exposure(address: SocketAddr, may_be_exposed: bool) -> anyhow::Result<()> {
    if may_be_exposed || address.ip().is_loopback() {
        return Ok(());
    }
    let problem = format!("cannot listen on {address}: anyone who reaches it could read and write events");
    let hint = "ask for tokens with --username or --token-file, or for certificates with --tls-client-ca; \
        or listen on 127.0.0.1; or allow it with --insecure-allow-anonymous";
    Err(hinted(problem, hint))
}

/// Listens on all addresses of a host with one port. Addresses that this machine does not have are skipped, such as IPv6.
async fn bind_tcp(
    host: &str,
    port: u16,
    may_be_exposed: bool,
    is_listed: bool,
) -> anyhow::Result<Vec<Source>> {
    let name =
        if host.contains(':') && !host.starts_with('[') { format!("[{host}]") } else { host.to_owned() };
    let cannot = || format!("cannot listen on {name}:{port}");
    let addresses = addresses_of(host).await;
    let addresses =
        addresses.with_context(cannot).hint("give --host an address of this machine, such as 127.0.0.1")?;
    for address in &addresses {
        check_exposure(SocketAddr::new(*address, port), may_be_exposed)?;
    }
    let bind = async {
        for _ in 1..PICKS {
            match bind_all(&addresses, port).await {
                // The port is free on one address, but not on another.
                Err(error) if port == 0 && error.kind() == io::ErrorKind::AddrInUse => {}
                bound => return bound,
            }
        }
        bind_all(&addresses, port).await
    };
    bind.await.map_err(|error| {
        let hint = match (error.kind(), is_listed) {
            (io::ErrorKind::AddrInUse, true) => "stop what listens there, or choose another --listen address",
            (io::ErrorKind::AddrInUse, false) => {
                "stop what listens there, or choose another --port (0 picks a free one)"
            }
            (io::ErrorKind::PermissionDenied, true) => "choose a port of 1024 or above for --listen",
            (io::ErrorKind::PermissionDenied, false) => "choose a --port of 1024 or above",
            (_, true) => "give --listen an address of this machine, such as 127.0.0.1:8000",
            (_, false) => "give --host an address of this machine, such as 127.0.0.1",
        };
        hinted(format!("{}: {error}", cannot()), hint)
    })
}

async fn addresses_of(host: &str) -> io::Result<Vec<IpAddr>> {
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    // Clients try both, whatever the resolver says.
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

/// Whether this machine does not have the address, or no address of its family.
fn is_missing(error: &io::Error) -> bool {
    let no_family = rustix::io::Errno::AFNOSUPPORT.raw_os_error();
    error.kind() == io::ErrorKind::AddrNotAvailable || error.raw_os_error() == Some(no_family)
}

async fn bind_unix(path: &Path) -> anyhow::Result<Source> {
    let hint = "give --listen the path of a file in a folder that this user may write to, and that nobody listens on";
    let bound = async {
        let listener = match UnixListener::bind(path) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_stale(path).await => {
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
async fn is_stale(path: &Path) -> bool {
    let is_socket = fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket());
    let refused = |error: io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
    is_socket && UnixStream::connect(path).await.is_err_and(refused)
}

/// The file of a socket. It is removed on drop, unless another file has replaced it.
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
            // If it stays, the next process finds it stale and removes it.
            let _ = fs::remove_file(&self.path);
        }
    }
}
