"""A mail server for tests, which does to its clients whatever their recipients' names say.

    reject-550@…    550 to RCPT
    relent-451-2@…  451 to RCPT twice, then the mail is taken
    drop-1@…        the mail is read once and the connection closed without an answer, then it is taken
    hang-rcpt@…     no answer to RCPT
    hang-data@…     the mail is read, and no answer

What clients do is written to `--log` as lines of JSON. The file `--trouble`, while it exists, holds a place,
`greeting` or `login`, and the reply that clients get there; `{plain}` in it stands for what they logged in with.
"""

import argparse
import asyncio
import base64
import collections
import email
import email.policy
import json
import logging
import pathlib
import ssl
import sys

from aiosmtpd.smtp import SMTP, AuthResult

FOR_EVER = 3600


class Server(SMTP):
    async def _handle_client(self):
        note("connection")
        reply = trouble("greeting")
        if reply is None:
            return await super()._handle_client()
        if reply == "hang":
            await asyncio.sleep(FOR_EVER)
        await self.push(reply)
        self.transport.close()


class Handler:
    def __init__(self):
        self.seen = collections.Counter()

    async def handle_RCPT(self, server, session, envelope, address, options):
        self.seen[address] += 1
        reply = "250 OK"
        match address.partition("@")[0].split("-"):
            case ["reject", code]:
                reply = f"{code} 5.1.1 no such mailbox"
            case ["relent", code, times] if self.seen[address] <= int(times):
                reply = f"{code} 4.3.2 come back later"
            case ["hang", "rcpt"]:
                reply = "none"
        note("recipient", address=address, reply=reply)
        if reply == "none":
            await asyncio.sleep(FOR_EVER)
        if reply.startswith("2"):
            envelope.rcpt_tos.append(address)
        return reply

    async def handle_DATA(self, server, session, envelope):
        note("mail", **mail_of(server, session, envelope))
        for address in envelope.rcpt_tos:
            match address.partition("@")[0].split("-"):
                case ["drop", times] if self.seen[address] <= int(times):
                    server.transport.abort()
                case ["hang", "data"]:
                    await asyncio.sleep(FOR_EVER)
        return "250 OK"


def mail_of(server, session, envelope):
    message = email.message_from_bytes(envelope.content, policy=email.policy.default)
    parts = {part.get_content_type(): part.get_content() for part in message.walk() if not part.is_multipart()}
    return {
        "sender": envelope.mail_from,
        "recipients": envelope.rcpt_tos,
        "user": getattr(session.auth_data, "login", b"").decode(),
        "encrypted": is_encrypted(server),
        "headers": [[name, str(value)] for name, value in message.items()],
        "text": parts["text/plain"].replace("\r\n", "\n"),
        "html": parts["text/html"].replace("\r\n", "\n"),
        "raw": envelope.content.decode("latin-1"),
    }


def is_encrypted(server):
    return server.transport.get_extra_info("ssl_object") is not None


def authenticate(server, session, envelope, mechanism, data):
    user, password = data.login.decode(), data.password.decode()
    note("login", user=user, password=password, encrypted=is_encrypted(server))
    reply = trouble("login")
    if reply is not None:
        plain = base64.b64encode(b"\0" + data.login + b"\0" + data.password).decode()
        return AuthResult(success=False, handled=False, message=reply.replace("{plain}", plain))
    return AuthResult(success=f"{user}:{password}" == arguments.login, handled=False, auth_data=data)


def trouble(place):
    try:
        written, _, reply = arguments.trouble.read_text().partition(" ")
    except FileNotFoundError:
        return None
    return reply if written == place else None


def note(kind, **what):
    with arguments.log.open("a") as log:
        log.write(json.dumps({"kind": kind, **what}) + "\n")


async def main():
    context = None
    if arguments.tls != "none":
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(arguments.cert, arguments.key)
    handler = Handler()
    starttls = arguments.tls == "starttls"

    def server():
        return Server(
            handler,
            hostname="mail.test",
            tls_context=context if starttls else None,
            auth_required=arguments.login is not None,
            auth_require_tls=starttls,
            authenticator=authenticate,
        )

    loop = asyncio.get_running_loop()
    implicit = context if arguments.tls == "implicit" else None
    listener = await loop.create_server(server, arguments.host, arguments.port, ssl=implicit)
    print("listening on %s:%d" % listener.sockets[0].getsockname()[:2], file=sys.stderr, flush=True)
    await listener.serve_forever()


parser = argparse.ArgumentParser()
parser.add_argument("--host", default="127.0.0.1")
parser.add_argument("--port", type=int, default=0)
parser.add_argument("--tls", choices=["starttls", "implicit", "none"], default="none")
parser.add_argument("--cert")
parser.add_argument("--key")
parser.add_argument("--login", help="NAME:PASSWORD")
parser.add_argument("--log", type=pathlib.Path, required=True)
parser.add_argument("--trouble", type=pathlib.Path, required=True)
arguments = parser.parse_args()
# That passwords may go without TLS is what some tests want.
logging.disable()
asyncio.run(main(), debug=False)
