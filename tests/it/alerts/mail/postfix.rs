//! A real mail server that is strict about who speaks to it.

use std::net::TcpListener;
use std::process::{Command, Stdio};

use tempfile::{TempDir, tempdir};

use super::{error_of, has_failed, is_sent, name_server};
use crate::alerts::{Delivery, deliveries, post_alert, wait_for_deliveries};
use crate::util::{Consume, Process, eventctl, set_mode, wait_until, write_file};

/// Postfix with a configuration, a queue and a port of its own, which delivers nothing. It dies with its test.
struct Postfix {
    port: u16,
    process: Process,
    _directory: TempDir,
}

impl Postfix {
    /// With these lines of configuration.
    fn start(settings: &str) -> Postfix {
        let directory = tempdir().unwrap();
        let path = directory.path();
        // The server gives its privileges up.
        set_mode(path, 0o755);
        for folder in ["queue", "data"] {
            std::fs::create_dir(path.join(folder)).unwrap();
        }
        let owned = Command::new("chown").arg("postfix").arg(path.join("data")).status().unwrap();
        assert!(owned.success());
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let shown = path.display();
        let main = format!(
            "compatibility_level = 3.6\nqueue_directory = {shown}/queue\ndata_directory = {shown}/data\n\
            maillog_file = /dev/stdout\ninet_interfaces = 127.0.0.1\nmydestination =\nalias_maps =\n\
            mynetworks = 127.0.0.0/8\nsmtpd_relay_restrictions = permit_mynetworks, reject\n\
            smtpd_helo_required = yes\ndefault_transport = discard:\n{settings}\n"
        );
        write_file(path, "main.cf", main);
        let services = [
            "smtpd inet n - n - - smtpd",
            "cleanup unix n - n - 0 cleanup",
            "qmgr unix n - n 300 1 qmgr",
            "rewrite unix - - n - - trivial-rewrite",
            "bounce unix - - n - 0 bounce",
            "defer unix - - n - 0 bounce",
            "trace unix - - n - 0 bounce",
            "proxymap unix - - n - - proxymap",
            "anvil unix - - n - 1 anvil",
            "error unix - - n - - error",
            "retry unix - - n - - error",
            "discard unix - - n - - discard",
            "postlog unix-dgram n - n - 1 postlogd",
        ];
        let services = services.join("\n").replace("smtpd inet", &format!("127.0.0.1:{port} inet"));
        write_file(path, "master.cf", services + "\n");
        let mut command = Command::new("postfix");
        command.arg("-c").arg(path).arg("start-fg").stdout(Stdio::null());
        let mut process = Process::start(&mut command);
        wait_until(|| {
            assert!(process.child().try_wait().unwrap().is_none(), "{}", process.stderr());
            std::net::TcpStream::connect(("127.0.0.1", port)).ok()
        });
        Postfix { port, process, _directory: directory }
    }

    /// `consume` that sends mail over it.
    fn consume(&self, directory: &TempDir, arguments: &[&str]) -> Consume {
        let mut command = eventctl(directory.path());
        command.args(["consume", "--port", "0", "--alert", "mailto:ops@example.com"]).args(arguments);
        Consume::start_command(name_server(&mut command, ([127, 0, 0, 1], self.port).into()))
    }
}

impl Drop for Postfix {
    fn drop(&mut self) {
        self.process.terminate();
    }
}

fn wait_for(directory: &TempDir, wanted: impl Fn(&Delivery) -> bool) -> Delivery {
    wait_for_deliveries(directory.path(), |all| all.last().is_some_and(&wanted)).pop().unwrap()
}

#[test]
#[ignore = "needs root and postfix"]
fn a_server_that_wants_a_qualified_name_gets_one_or_is_tried_again() {
    let postfix = Postfix::start("smtpd_helo_restrictions = reject_non_fqdn_helo_hostname");
    let directory = tempdir().unwrap();
    // As this machine is called, if it is called that, or by its address.
    let server = postfix.consume(&directory, &[]);
    post_alert(&mut server.connect(), "by default");
    wait_for(&directory, is_sent);
    drop(server);
    for hello in ["mail.example.com", "[192.0.2.1]", "[IPv6:2001:db8::1]"] {
        let server = postfix.consume(&directory, &["--smtp-hello", hello]);
        post_alert(&mut server.connect(), hello);
        wait_for(&directory, is_sent);
        assert_eq!(deliveries(directory.path()).last().unwrap().attempts, 1);
    }
    let server = postfix.consume(&directory, &["--smtp-hello", "bare"]);
    post_alert(&mut server.connect(), "bare");
    let refused = wait_for(&directory, has_failed);
    assert!(error_of(&refused).contains("504") && error_of(&refused).contains("Helo command rejected"));
    drop(server);
    // What another setting makes good was not given up.
    let _server = postfix.consume(&directory, &["--smtp-hello", "mail.example.com"]);
    wait_for(&directory, |delivery| is_sent(delivery) && delivery.attempts > 1);
}

#[test]
#[ignore = "needs root and postfix"]
fn a_server_that_refuses_the_client_or_the_sender_is_tried_again() {
    for (restrictions, said) in [
        ("smtpd_client_restrictions = reject", "554 5.7.1"),
        ("smtpd_sender_restrictions = static:{550 5.7.1 not from here}", "550 5.7.1"),
        ("mynetworks = 192.0.2.0/24", "554 5.7.1"),
    ] {
        let restrictions = restrictions.replace("static:", "check_sender_access static:");
        let postfix = Postfix::start(&restrictions);
        let directory = tempdir().unwrap();
        let server = postfix.consume(&directory, &[]);
        post_alert(&mut server.connect(), "down");
        let refused = wait_for(&directory, has_failed);
        let [code, enhanced] = said.split(' ').collect::<Vec<_>>()[..] else { panic!("{said}") };
        assert!(error_of(&refused).contains(code) && error_of(&refused).contains(enhanced), "{refused:?}");
    }
}
