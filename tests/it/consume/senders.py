"""Signs webhooks with the libraries of those who send them, and posts them to a server's hooks.

python3 senders.py URL: hooks `standard`, `svix`, `stripe`, `slack` and `cloudevents` below it. Prints a line a request:
its name and status.
"""

import datetime
import json
import sys
import time
import urllib.error
import urllib.request

import stripe
from cloudevents.core.bindings import http as binding
from cloudevents.core.v1.event import CloudEvent
from slack_sdk.signature import SignatureVerifier
from standardwebhooks.webhooks import Webhook as StandardWebhook
from svix.webhooks import Webhook as SvixWebhook

URL = sys.argv[1]
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
BODY = json.dumps({"type": "order.created", "data": {"name": "Zoë"}}, ensure_ascii=False)


def post(name, path, headers, body):
    data = body if isinstance(body, bytes) else body.encode()
    headers = {"Content-Type": "application/json", **{name: str(value) for name, value in headers.items()}}
    request = urllib.request.Request(URL + path, data=data, headers=headers)
    try:
        status = urllib.request.urlopen(request, timeout=20).status
    except urllib.error.HTTPError as error:
        status = f"{error.code} {error.read().decode()}"
    print(name, status)


now = datetime.datetime.now(datetime.timezone.utc)
seconds = int(now.timestamp())

standard = StandardWebhook(SECRET).sign("msg_standard", now, BODY)
headers = {"webhook-id": "msg_standard", "webhook-timestamp": seconds, "webhook-signature": standard}
post("standard", "/hook/standard", headers, BODY)

svix = SvixWebhook(SECRET).sign("msg_svix", now, BODY)
post("svix", "/hook/standard", {"svix-id": "msg_svix", "svix-timestamp": seconds, "svix-signature": svix}, BODY)

event = json.dumps({"id": "evt_1", "object": "event", "type": "invoice.paid"})
signature = stripe.WebhookSignature._compute_signature(f"{seconds}.{event}", SECRET)
post("stripe", "/hook/stripe", {"Stripe-Signature": f"t={seconds},v1={signature}"}, event)

event = json.dumps({"event_id": "Ev1", "type": "event_callback", "event": {"type": "message"}})
signature = SignatureVerifier(SECRET).generate_signature(timestamp=str(seconds), body=event)
post("slack", "/hook/slack", {"X-Slack-Request-Timestamp": seconds, "X-Slack-Signature": signature}, event)


def cloud_event(identifier):
    attributes = {"id": identifier, "source": "/shop/Zoë", "type": "order.paid", "specversion": "1.0", "time": now,
                  "datacontenttype": "application/json"}
    return CloudEvent(attributes=attributes, data={"name": "Zoë"})


for name, message in [
    ("structured", binding.to_structured_event(cloud_event("1"))),
    ("binary", binding.to_binary_event(cloud_event("2"))),
    ("binary again", binding.to_binary_event(cloud_event("2"))),
]:
    post(name, "/event", message.headers, message.body)
