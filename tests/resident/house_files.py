"""What is written into the files of a house (house.py), and what it is started with."""

from __future__ import annotations

USER = "nobody"
WORKERS = 2

KINDS = ("lmtp", "pipe", "mxlmtp", "mxpipe")

RULES = """
state = "{folder}/state"
log = "{folder}/log"
deadline = "4s"
[dns]
servers = ["{dns}"]
timeout = 0.5
[route]
deadline = 2
[serve]
workers = {workers}
threads = 8
queue = 64
[listen.policy]
at = "unix:{folder}/run/policy"
[listen.socketmap]
at = "unix:{folder}/run/socketmap"
[listen.tcp_table]
at = "unix:{folder}/run/tcp_table"
[listen.lmtp]
at = "unix:{folder}/run/lmtp"
[listen.handoff]
at = "unix:{folder}/run/handoff"
[listen.health]
at = "127.0.0.1:{health}"

[[rule]]
id = "by-lmtp"
at = "route"
match = {{ recipient_domain = ".lmtp.test" }}
action = "rules:unix:{folder}/run/lmtp"
[[rule]]
id = "by-mx"
at = "route"
match = {{ recipient_domain = ".mxlmtp.test", primary_mx = "mx.lab.test" }}
action = "rules:unix:{folder}/run/lmtp"

[[rule]]
id = "no-such-domain"
at = "rcpt"
match = {{ recipient_domain = ".mxlmtp.test", mx_state = ["null", "none"] }}
action = "550 5.1.2 no such domain"
[[rule]]
id = "elsewhere"
at = "rcpt"
match = {{ recipient_domain = ".mxlmtp.test", primary_mx = "elsewhere.test" }}
action = "550 5.7.1 cannot be"
[[rule]]
id = "limited"
at = "rcpt"
match = {{ sender_domain = "limited.test", rate = {{ key = "sender", limit = "3/1h" }} }}
action = "450 4.7.1 enough"
[[rule]]
id = "counted"
at = "rcpt"
match = {{ recipient_domain = ".lmtp.test", rate = {{ key = "sender", limit = "1000000/1h" }} }}
action = "550 5.7.1 cannot be"

[[rule]]
id = "gone"
at = "deliver"
match = {{ recipient_domain = ".mxpipe.test", mx_state = ["null", "none"] }}
action = "5.1.2 no such domain"
[[rule]]
id = "not-here"
at = "deliver"
match = {{ recipient_domain = ".mxpipe.test", primary_mx = "elsewhere.test" }}
action = "5.1.2 cannot be"
[[rule]]
id = "effect"
at = "deliver"
match = {{ recipient_user = "e*" }}
action = "command {folder}/bin/effect {{recipient_user}}"
[[rule]]
id = "box"
at = "deliver"
match = {{ recipient_domain = ".test" }}
action = "maildir {folder}/box/{{recipient_user}}"
"""

# The pause is where a delivery can be cut off between its effect and its record.
EFFECT = """\
#!/bin/sh
cat >/dev/null
echo "$1" >>{folder}/effects
sleep 0.2
"""

TRANSPORTS = """\
rules unix - - n - - lmtp
  -o lmtp_send_xforward_command=yes
rule-deliver unix - n n - - pipe
  -o pipe_delivery_status_filter=$postroom_status_filter
  user={user} null_sender=
  argv={folder}/bin/rule-deliver --config {folder}/postroom.toml --handoff {folder}/run/handoff --
  sender=${{sender}} recipient=${{recipient}} original_recipient=${{original_recipient}}
  queue_id=${{queue_id}} size=${{size}} nexthop=${{nexthop}} client_address=${{client_address}}
"""

PARAMETERS = {
    "default_transport": "rule-deliver",
    "rule-deliver_destination_recipient_limit": "1",
    "rule-deliver_destination_concurrency_limit": "6",
    "postroom_status_filter": r"regexp:{{/^5\.3\.0 (Command (died with status|time limit exceeded).*)/ 4.3.0 $$1}}",
    "transport_maps": "socketmap:unix:{folder}/run/socketmap:route",
    # Mail for pipe(8) comes in whatever is the matter, and the queue grows: what asks for addresses, asks for routes.
    "smtpd_recipient_restrictions": r"check_helo_access regexp:{{/^straight\./ OK}},"
    " check_policy_service unix:{folder}/run/policy, permit_mynetworks, reject",
    "smtpd_reject_unlisted_recipient": "no",
    "smtpd_client_connection_count_limit": "0",
    "message_size_limit": "20000000",
}

# The command line, with a clock that the file named first moves: "3600" in it is an hour ahead.
CLOCKED = """
import sys, time
real, real_ns, local, path = time.time, time.time_ns, time.localtime, sys.argv.pop(1)
def ahead():
    with open(path) as file:
        return int(file.read() or 0)
time.time = lambda: real() + ahead()
time.time_ns = lambda: real_ns() + ahead() * 10**9
time.localtime = lambda *moment: local(*(moment or (time.time(),)))
from postroom.cli import main
main()
"""
PLAIN = "from postroom.cli import main; main()"
