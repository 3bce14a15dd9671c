//! How a server is reached: names, passwords and encryption.

use std::env;
use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::thread;

use super::database::{TestStore, on_every_server};
use super::preparing::Login;
use crate::util::tls::Authority;
use crate::util::{refusal_of, write_secret};

on_every_server!(
    a_server_that_cannot_be_reached_is_named,
    encrypted_connections_work,
    an_unknown_authority_is_refused,
    another_name_is_refused_unless_only_the_authority_counts,
    a_certificate_that_cannot_be_read_is_named,
    a_certificate_of_our_own_lets_us_in,
    a_socket_is_as_good_as_a_port,
);

/// Where the servers have their sockets and their certificate.
fn servers() -> PathBuf {
    env::var_os("TEST_SERVERS").expect("TEST_SERVERS is missing: see .ci/servers").into()
}

fn certificate() -> PathBuf {
    servers().join("cert.pem")
}

/// A URL with a mode and an authority, in the words of PostgreSQL.
fn encrypted(store: &TestStore, url: &str, mode: &str, authority: Option<&str>) -> String {
    let is_postgres = store.url.starts_with("postgres");
    let (names, mode) = match is_postgres {
        true => (["sslmode", "sslrootcert"], mode),
        false => {
            let mode = match mode {
                "disable" => "DISABLED",
                "prefer" => "PREFERRED",
                "require" => "REQUIRED",
                "verify-ca" => "VERIFY_CA",
                _ => "VERIFY_IDENTITY",
            };
            (["ssl-mode", "ssl-ca"], mode)
        }
    };
    let mut parameters = form_urlencoded::Serializer::new(String::new());
    parameters.append_pair(names[0], mode);
    if let Some(authority) = authority {
        parameters.append_pair(names[1], authority);
    }
    format!("{url}?{}", parameters.finish())
}

fn a_server_that_cannot_be_reached_is_named(store: &TestStore) {
    store.prepare();
    let unused = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    for (url, reason) in [
        (store.url_with(|url| url.set_port(Some(unused)).unwrap()), "refused"),
        (store.url_with(|url| url.set_host(Some("no-such-host.invalid")).unwrap()), "no-such-host"),
        (store.url_with(|url| url.set_path("no_such_database")), "no_such_database"),
    ] {
        let mut with_password: url::Url = url.parse().unwrap();
        with_password.set_password(Some("s3cret")).unwrap();
        for subcommand in ["init-db", "consume", "tail"] {
            let mut command = store.command_at(subcommand, with_password.as_str());
            // As long as it takes to see that it tries again.
            let (error, hint) =
                refusal_of(command.env("EVENTCTL_STORE_TIMEOUT", "10ms").env("RUST_LOG", "error"), 1);
            assert!(error.starts_with(&format!("cannot connect to `{url}`: ")), "{error}");
            assert!(error.contains(reason), "{error}");
            assert!(hint.starts_with("check host, port, user, database and password"), "{hint}");
            assert!(!format!("{error}{hint}").contains("s3cret"), "{error} {hint}");
        }
    }
}

fn encrypted_connections_work(store: &TestStore) {
    store.prepare();
    let certificate = certificate();
    let authority = certificate.to_str();
    for (mode, authority) in [
        ("disable", None),
        ("prefer", None),
        ("require", None),
        ("require", authority),
        ("verify-ca", authority),
        ("verify-full", authority),
    ] {
        let url = encrypted(store, &store.url, mode, authority);
        let mut tail = store.command_at("tail", &url);
        let output = tail.output().unwrap();
        assert!(output.status.success(), "{mode}: {output:?}");
    }
    let url = encrypted(store, &store.url, "verify-full", authority);
    store.start(&mut store.command_at("consume", &url)).store("a", "b");
    assert_eq!(store.payloads(), ["b"]);
}

fn an_unknown_authority_is_refused(store: &TestStore) {
    store.prepare();
    Authority::new("another").write(store.path(), "another");
    let another = Some("another.pem");
    for (mode, authority) in
        [("require", another), ("verify-ca", another), ("verify-full", another), ("verify-full", None)]
    {
        let url = encrypted(store, &store.url, mode, authority);
        let (error, hint) = store.refusal("tail", &url);
        assert!(error.starts_with(&format!("cannot connect to `{url}`: ")), "{error}");
        assert!(error.contains("certificate"), "{mode}: {error}");
        assert!(hint.contains("sslmode") || hint.contains("ssl-mode"), "{hint}");
    }
}

fn another_name_is_refused_unless_only_the_authority_counts(store: &TestStore) {
    store.prepare();
    let server: url::Url = store.url.parse().unwrap();
    let address = SocketAddr::new([127, 0, 0, 1].into(), server.port().unwrap());
    // An address that the certificate does not name.
    let other = forward_from("127.0.0.2:0", address);
    let url = store.url_with(|url| {
        url.set_host(Some("127.0.0.2")).unwrap();
        url.set_port(Some(other.port())).unwrap();
    });
    let certificate = certificate();
    let verify = |mode| encrypted(store, &url, mode, certificate.to_str());
    let output = store.command_at("tail", &verify("verify-ca")).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let (error, _) = store.refusal("tail", &verify("verify-full"));
    assert!(error.contains("certificate") && error.contains("name"), "{error}");
}

/// Hands connections to an address on to another, as long as the tests run.
fn forward_from(from: &str, to: SocketAddr) -> SocketAddr {
    fn pump(mut from: TcpStream, mut to: TcpStream) {
        let _ = io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Write);
    }
    let listener = TcpListener::bind(from).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let server = TcpStream::connect(to).unwrap();
            let (to_client, to_server) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            thread::spawn(move || pump(client, to_server));
            thread::spawn(move || pump(server, to_client));
        }
    });
    address
}

fn a_certificate_that_cannot_be_read_is_named(store: &TestStore) {
    store.prepare();
    let url = encrypted(store, &store.url, "verify-full", Some("missing.pem"));
    let (error, _) = store.refusal("tail", &url);
    assert!(error.contains("missing.pem"), "{error}");
    let (error, hint) = store.refusal("tail", &encrypted(store, &store.url, "verify-ca", None));
    assert!(error.ends_with("no authority is named"), "{error}");
    assert!(hint.contains("sslrootcert") && hint.contains("ssl-ca"), "{hint}");
}

fn a_certificate_of_our_own_lets_us_in(store: &TestStore) {
    store.prepare();
    let is_postgres = store.url.starts_with("postgres");
    // The one login that PostgreSQL here asks for a certificate; the server's own is the authority.
    let (name, create, drop) = match is_postgres {
        true => {
            let drop = "DROP ROLE IF EXISTS certified".to_owned();
            ("certified".to_owned(), format!("{drop}; CREATE ROLE certified LOGIN SUPERUSER"), drop)
        }
        false => {
            let name = format!("{}_certified", store.name);
            let create =
                format!("CREATE USER {name} REQUIRE X509;\nGRANT SELECT ON {}.* TO {name}", store.name);
            let drop = format!("DROP USER {name}");
            (name, create, drop)
        }
    };
    store.execute(&create);
    let url = encrypted(store, &store.url_with(|url| url.set_username(&name).unwrap()), "require", None);
    let names = if is_postgres { ["sslcert", "sslkey"] } else { ["ssl-cert", "ssl-key"] };
    let with = |certificate: &str, key: &str| format!("{url}&{}={certificate}&{}={key}", names[0], names[1]);
    let [certificate, key] =
        ["cert.pem", "key.pem"].map(|name| servers().join(name).to_str().unwrap().to_owned());
    let (anonymous, _) = store.refusal("tail", &url);
    Authority::new("another").issue("another").write(store.path(), "another");
    let (another, _) = store.refusal("tail", &with("another.pem", "another.key"));
    let (half, hint) = store.refusal("tail", &format!("{url}&{}={certificate}", names[0]));
    let output = store.command_at("tail", &with(&certificate, &key)).output().unwrap();
    store.execute(&drop);
    assert!(output.status.success(), "{output:?}");
    assert!(anonymous.contains("certificate") || anonymous.contains("denied"), "{anonymous}");
    assert!(another.starts_with("cannot connect to "), "{another}");
    assert!(half.ends_with("certificate and key go together"), "{half}");
    assert!(hint.starts_with("give both sslcert and sslkey"), "{hint}");
}

fn a_socket_is_as_good_as_a_port(store: &TestStore) {
    store.prepare();
    let servers = servers();
    let folder = servers.to_str().unwrap();
    let server: url::Url = store.url.parse().unwrap();
    let (name, port) = (&store.name, server.port().unwrap());
    let url = match store.url.starts_with("postgres") {
        true => format!("postgres:///{name}?host={folder}&port={port}"),
        false => format!("mysql://root@localhost/{name}?socket={folder}/mysql.sock"),
    };
    // The address is of no use.
    let mut consume = store.command_at("consume", &url);
    store.start(consume.env("PGUSER", "postgres")).store("a", "b");
    assert_eq!(store.payloads(), ["b"]);
    let missing = url.replace(folder, "/no/such/folder");
    let (error, hint) = store.refusal("tail", &missing);
    assert!(error.starts_with(&format!("cannot connect to `{missing}`: ")), "{error}");
    assert!(hint.starts_with("check host, port"), "{hint}");
}

#[cfg(feature = "postgres")]
#[test]
#[ignore = "needs the servers of .ci/servers"]
fn the_password_of_postgres_comes_from_url_variable_or_file() {
    let store = &TestStore::new(super::database::Kind::Postgres);
    store.prepare();
    // The one login that this server asks for its password.
    store.execute("DROP ROLE IF EXISTS asked; CREATE ROLE asked LOGIN SUPERUSER PASSWORD 's3cret:\\é'");
    let tail = |url: &str| store.command_at("tail", url);
    let url = store.url_with(|url| url.set_username("asked").unwrap());
    let mut with_password: url::Url = url.parse().unwrap();
    with_password.set_password(Some("s3cret:\\é")).unwrap();
    assert!(tail(with_password.as_str()).output().unwrap().status.success());
    assert!(tail(&url).env("PGPASSWORD", "s3cret:\\é").output().unwrap().status.success());
    with_password.set_password(Some("wr0ng")).unwrap();
    for command in [tail(&url).env("PGPASSWORD", "wr0ng"), &mut tail(with_password.as_str())] {
        let (error, hint) = refusal_of(command, 1);
        assert!(error.starts_with(&format!("cannot connect to `{url}`: password auth")), "{error}");
        assert!(!format!("{error}{hint}").contains("wr0ng"), "{error}");
    }
    refusal_of(&mut tail(&url), 1);
    for name in ["passwords", ".pgpass"] {
        write_secret(store.path(), name, "other:*:*:*:wr0ng\n127.0.0.1:*:*:asked:s3cret\\:\\\\é\n");
        let mut command = tail(&url);
        if name == "passwords" {
            command.env("PGPASSFILE", name);
        }
        assert!(command.output().unwrap().status.success(), "{name}");
    }
}

#[cfg(feature = "mysql")]
#[test]
#[ignore = "needs the servers of .ci/servers"]
fn the_password_of_mysql_comes_from_url_variable_or_file() {
    let store = &TestStore::new(super::database::Kind::MySql);
    store.prepare();
    let login = Login::new(store, "user", "s3cret:'\\@é");
    store.execute(&format!("GRANT SELECT ON {}.* TO {}", store.name, login.name));
    let tail = |url: &str| store.command_at("tail", url);
    let url = login.url();
    let mut with_password: url::Url = url.parse().unwrap();
    with_password.set_password(Some("s3cret:'\\@é")).unwrap();
    assert!(tail(with_password.as_str()).output().unwrap().status.success());
    assert!(tail(&url).env("MYSQL_PWD", "s3cret:'\\@é").output().unwrap().status.success());
    with_password.set_password(Some("wr0ng")).unwrap();
    for command in [&mut tail(&url), tail(&url).env("MYSQL_PWD", "wr0ng"), &mut tail(with_password.as_str())]
    {
        let (error, hint) = refusal_of(command, 1);
        assert!(error.starts_with(&format!("cannot connect to `{url}`: Access denied for user")), "{error}");
        assert!(!format!("{error}{hint}").contains("wr0ng"), "{error}");
    }
    write_secret(store.path(), ".my.cnf", "[client]\npassword=\"s3cret:'\\@é\"\n");
    assert!(tail(&url).output().unwrap().status.success());
}
