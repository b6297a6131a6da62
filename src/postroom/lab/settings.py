"""What the lab's Postfix, name server and Postroom are told: its zones, its main.cf, its postroom.toml."""

from __future__ import annotations

from pathlib import Path

_SOA = "@ 3600 IN SOA ns.lab.test. hostmaster.lab.test. 1 3600 900 604800 60\n@ 3600 IN NS ns.lab.test.\n"

ZONES = {
    "victim.test": _SOA + "@ IN MX 10 mx1.shadysmtpd.test.\n@ IN MX 20 mx.good.test.\n",
    "backup.test": _SOA + "@ IN MX 10 mx.good.test.\n@ IN MX 20 mx2.shadysmtpd.test.\n",
    "good.test": _SOA + "@ IN MX 10 mx.good.test.\nmx IN A 127.0.0.1\n",
}

PARAMETERS = {
    "relay_domains": "",
    "default_transport": "rule-deliver",
    "transport_maps": "inline:{ {bounces.lab.test = bounce-record:} {notices.lab.test = notify-record:}"
    " {raises.test = raises:} {prints.test = prints:} {sleeps.test = sleeps:} {dies.test = dies:} }",
    "notify_classes": "policy, protocol, 2bounce",
    "error_notice_recipient": "error@notices.lab.test",
    "2bounce_notice_recipient": "2bounce@notices.lab.test",
    "smtpd_recipient_restrictions": "reject_non_fqdn_recipient",
}

HANDLERS = ("raises", "prints", "sleeps", "dies")
HANDLER_DEADLINE = 3


def handler_services(folder: Path, user: str) -> str:
    """master.cf entries for the programs that the lab writes as its user would."""
    return "".join(
        f"{name} unix - n n - - pipe\n"
        f"  user={user} null_sender=\n"
        f"  argv={folder}/handlers/{name} --log {folder}/postroom.log --deadline {HANDLER_DEADLINE} --\n"
        "  sender=${sender} recipient=${recipient} original_recipient=${original_recipient} queue_id=${queue_id}\n"
        for name in HANDLERS
    )


def inside_listener(port: int) -> str:
    """master.cf entry of an SMTP listener without policy, such as a submission port.

    While our configuration or state is broken rule-policy puts mail off before it is taken; to see what a delivery
    agent does with mail that is in the queue already, it has to get there.
    """
    return f"127.0.0.1:{port} inet n - n - - smtpd\n  -o smtpd_recipient_restrictions=permit_mynetworks,reject\n"


def configuration(folder: Path, dns: str, smtp: int, action: str, on_error: str) -> str:
    """The lab's postroom.toml."""
    return f'''\
state = "{folder}/state"
log = "{folder}/postroom.log"
deadline = 8

[dns]
servers = ["{dns}"]
timeout = 2

[bounces]
key = "bounce.key"
prefix = "bounces"
domain = "bounces.lab.test"

[list.blocked]
file = "blocked"

[provider.shady]
mx = [".shadysmtpd.test"]

[[rule]]
id       = "shady-primary-mx"
at       = "rcpt"
match    = {{ primary_mx = "provider:shady", recipient = "list:blocked" }}
action   = "{action}"
on_error = "{on_error}"

[[rule]]
id     = "suppressed-recipient"
at     = "rcpt"
match  = {{ suppressed = true }}
action = "550 5.1.1 not sent to since {{suppressed.since}}: {{suppressed.why}}"

[[rule]]
id     = "to-relay"
at     = "deliver"
match  = {{ recipient = "relay@home.test" }}
action = "relay lmtp:unix:{folder}/sockets/lmtp"

[[rule]]
id     = "to-smtp"
at     = "deliver"
match  = {{ recipient = "smtp@home.test" }}
action = "relay smtp:[127.0.0.1]:{smtp}"

[[rule]]
id     = "to-command"
at     = "deliver"
match  = {{ recipient = "command@home.test" }}
action = "command /usr/bin/wc -c"

[[rule]]
id     = "refused"
at     = "deliver"
match  = {{ recipient = "refused@home.test" }}
action = "5.7.1 this mailbox takes no mail from outside"

[[rule]]
id     = "put-off"
at     = "deliver"
match  = {{ recipient = "later@home.test" }}
action = "4.2.1 this mailbox is being moved, try again"

[[rule]]
id     = "gone"
at     = "deliver"
match  = {{ recipient = "gone@home.test" }}
action = "5.1.1 no mailbox of this name"

[[rule]]
id     = "listed-deliver"
at     = "deliver"
match  = {{ recipient = "list:blocked" }}
action = "discard listed"

[[rule]]
id     = "mailboxes"
at     = "deliver"
match  = {{ recipient_domain = "home.test" }}
action = "maildir {folder}/mail/{{recipient_user}}"
'''
