"""Who runs a mail host: the providers that "provider:NAME" knows without a [provider.NAME] in the file.

Rules for this file
* Data. Read when a configuration is checked and by `postroom mx`; never while mail passes.
* A leading dot stands for all names below, label by label, and only where the operator gives no name below it to
  customers' own machines (`ns1.ovh.net`, `c-192-0-2-1.hsd1.comcast.net`): those would pass for the operator's. There
  the hosts stand one by one.
* Only what the operator publishes as the MX for its customers, or runs for its own mailboxes; the page is beside it
  where there is one. What is uncertain is left out: a [provider.NAME] in the file takes the place of the whole entry.
* No host belongs to two entries. man/postroom.toml.5, PROVIDERS, is compared with this by a test.
"""

from __future__ import annotations

from postroom.rules.lookup import parents

# name: (who that is, its mail hosts).
CATALOGUE: dict[str, tuple[str, tuple[str, ...]]] = {
    # support.google.com/a/answer/174125; aspmx2.googlemail.com is of the set given out before 2023
    "google": ("Gmail, Google Workspace", (".google.com", ".googlemail.com")),
    # learn.microsoft.com: "External DNS records required for email in Office 365"; mx.microsoft is that of DANE
    "microsoft": (
        "Microsoft 365, Outlook.com, Hotmail",
        (".outlook.com", ".mx.microsoft", ".protection.office365.us", ".protection.partner.outlook.cn"),
    ),
    "yahoo": ("Yahoo, AOL", (".yahoodns.net",)),
    "yahoo-japan": ("Yahoo! Japan", (".mail.yahoo.co.jp",)),
    "icloud": ("iCloud Mail", (".mail.icloud.com",)),  # support.apple.com/en-us/102374
    "gmx": ("GMX, WEB.DE, mail.com", (".gmx.net", ".gmx.com", ".web.de", ".mail.com")),
    # www.ionos.com/help: "IONOS mail servers"; kundenserver.de and perfora.net are its older names in Europe and the US
    "ionos": (
        "IONOS, 1&1",
        (
            ".ionos.com", ".ionos.de", ".ionos.co.uk", ".ionos.es", ".ionos.fr", ".ionos.it", ".kundenserver.de",
            ".perfora.net", ".schlund.de", ".1and1.com", ".1and1.co.uk", ".1and1.es", ".1and1.fr",
        ),
    ),
    "t-online": (
        "Deutsche Telekom",
        ("mx00.t-online.de", "mx01.t-online.de", "mx02.t-online.de", "mx03.t-online.de"),
    ),
    # Filters and gateways: whose mailboxes stand behind them cannot be seen.
    "proofpoint": ("Proofpoint, Proofpoint Essentials", (".pphosted.com", ".ppe-hosted.com")),
    "mimecast": ("Mimecast", (".mimecast.com", ".mimecast.co.za", ".mimecast-offshore.com")),
    "barracuda": ("Barracuda Email Gateway Defense", (".ess.barracudanetworks.com", *(
        f".ess.{region}.barracudanetworks.com" for region in ("au", "ca", "de", "in", "uk")
    ))),
    "messagelabs": ("Broadcom (Symantec) Email Security.cloud", (".messagelabs.com",)),
    "ironport": ("Cisco Secure Email Cloud Gateway", (".iphmx.com",)),
    # docs.trendmicro.com: "Trend Micro Email Security", MX records by region
    "trendmicro": ("Trend Micro Email Security", (".trendmicro.com", ".trendmicro.eu")),
    "sophos": ("Sophos Email", (".hydra.sophos.com",)),
    "hornetsecurity": ("Hornetsecurity", (".hornetsecurity.com", ".antispameurope.com")),
    "spamexperts": (
        "SpamExperts, N-able Mail Assure",
        (".spamexperts.com", ".spamexperts.eu", ".spamexperts.net", ".antispamcloud.com", ".mtaroutes.com"),
    ),
    "forcepoint": ("Forcepoint Email Security Cloud", (".mailcontrol.com",)),
    "trellix": ("Trellix (FireEye) Email Security", (".fireeyecloud.com",)),
    "fortimail": ("FortiMail Cloud", (".fortimailcloud.com",)),
    "area1": ("Cloudflare Email Security (Area 1)", (".mxrecord.io", ".mxrecord.mx")),
    "appriver": ("AppRiver", (".arsmtp.com",)),
    "mailroute": ("MailRoute", ("mail.mailroute.net",)),
    # Mailboxes under the customer's own domain.
    "zoho": (
        "Zoho Mail",  # www.zoho.com/mail/help/adminconsole/configure-email-delivery.html, one host a data centre
        (
            ".zoho.com", ".zoho.eu", ".zoho.in", ".zoho.com.au", ".zoho.com.cn", ".zoho.jp", ".zoho.sa",
            ".zohocloud.ca",
        ),
    ),
    "fastmail": ("Fastmail", (".messagingengine.com",)),  # www.fastmail.help: "Manual DNS configuration"
    "protonmail": ("Proton Mail", (".protonmail.ch",)),  # proton.me/support/custom-domain
    "tutanota": ("Tuta (Tutanota)", ("mail.tutanota.de",)),
    "rackspace": ("Rackspace Email", (".emailsrvr.com",)),
    "intermedia": ("Intermedia", (".serverdata.net",)),
    "opensrs": ("OpenSRS (Tucows), Hover", (".hostedemail.com",)),
    "godaddy": (
        "GoDaddy",
        tuple(
            f"{host}.{region}secureserver.net"
            for host in ("smtp", "mailstore1") for region in ("", "asia.", "europe.")
        ),
    ),
    "namecheap": (
        "Namecheap Private Email, and its forwarding",
        (".privateemail.com", *(f"eforward{number}.registrar-servers.com" for number in range(1, 6))),
    ),
    "migadu": ("Migadu", (".migadu.com",)),  # www.migadu.com/guides/dns
    "mailbox-org": ("mailbox.org", (".mailbox.org",)),  # kb.mailbox.org: "Using e-mail addresses of your own domain"
    "posteo": ("Posteo", (".posteo.de",)),
    "startmail": ("StartMail", (".startmail.com",)),
    "runbox": ("Runbox", (".runbox.com",)),
    "hey": ("HEY", (".app.hey.com",)),
    "purelymail": ("Purelymail", ("mailserver.purelymail.com",)),  # purelymail.com/docs
    "soverin": ("Soverin", ("mx.soverin.net",)),
    "mxroute": ("MXroute", (".mxrouting.net",)),
    "titan": ("Titan", ("mx1.titan.email", "mx2.titan.email")),
    "neo": ("Neo", ("mx0001.neo.space", "mx0002.neo.space")),
    "lark": ("Lark, Feishu", (".larksuite.com", ".feishu.cn")),
    # Web hosts, with the mail servers that their customers share.
    "ovh": ("OVHcloud", (".mail.ovh.net", "mx1.ovh.net", "mxb.ovh.net", "redirect.ovh.net")),
    "gandi": ("Gandi", (".mail.gandi.net",)),  # docs.gandi.net: "Standard DNS records"
    "strato": ("STRATO", ("smtpin.rzone.de",)),
    "hostinger": ("Hostinger", ("mx1.hostinger.com", "mx2.hostinger.com")),
    "one-com": ("one.com", (".one.com",)),
    "transip": ("TransIP", ("mx.transip.email",)),
    "infomaniak": ("Infomaniak", ("mta-gw.infomaniak.ch",)),
    "hostpoint": ("Hostpoint", (".mail.hostpoint.ch",)),
    "all-inkl": ("ALL-INKL.COM", (".kasserver.com",)),
    "domainfactory": ("DomainFactory", ("mxlb.ispgateway.de",)),
    "siteground": ("SiteGround", (".mailspamprotection.com",)),
    "dreamhost": ("DreamHost", ("mx1.dreamhost.com", "mx2.dreamhost.com", ".mail.dreamhost.com")),
    "netsol": ("Network Solutions", (".netsolmail.net",)),
    "locaweb": ("Locaweb", tuple(f"mx.{pool}.locaweb.com.br" for pool in ("a", "b", "core", "jk"))),
    # Forwarders.
    "cloudflare": ("Cloudflare Email Routing", (".mx.cloudflare.net",)),  # developers.cloudflare.com/email-routing
    "forwardemail": ("Forward Email", ("mx1.forwardemail.net", "mx2.forwardemail.net")),  # forwardemail.net/faq
    "improvmx": ("ImprovMX", ("mx1.improvmx.com", "mx2.improvmx.com")),  # improvmx.com/guides
    "simplelogin": ("SimpleLogin", ("mx1.simplelogin.co", "mx2.simplelogin.co")),
    "addy": ("addy.io", ("mail.anonaddy.me", "mail2.anonaddy.me")),
    "porkbun": ("Porkbun", ("fwd1.porkbun.com", "fwd2.porkbun.com")),
    # Mail for programs.
    "amazon": (
        "Amazon SES inbound, WorkMail",  # docs.aws.amazon.com/general/latest/gr/ses.html, "Email receiving endpoints"
        tuple(
            f"inbound-smtp.{region}.amazonaws.com"
            for region in (
                "us-east-1", "us-east-2", "us-west-2", "ca-central-1", "eu-west-1", "eu-west-2", "eu-central-1",
                "ap-southeast-1", "ap-southeast-2", "ap-northeast-1",
            )
        ),
    ),
    # documentation.mailgun.com: "Domain verification", MX records
    "mailgun": ("Mailgun", ("mxa.mailgun.org", "mxb.mailgun.org", "mxa.eu.mailgun.org", "mxb.eu.mailgun.org")),
    "sendgrid": ("SendGrid Inbound Parse", ("mx.sendgrid.net",)),  # www.twilio.com/docs/sendgrid: "Inbound Parse"
    "postmark": ("Postmark inbound", ("inbound.postmarkapp.com",)),  # postmarkapp.com: "Inbound domain forwarding"
    "mandrill": ("Mailchimp Transactional", ("in1.mandrillapp.com", "in2.mandrillapp.com")),
    "sparkpost": ("SparkPost inbound relay", (".sparkpostmail.com",)),
    "mailjet": ("Mailjet Parse API", ("parse.mailjet.com",)),
    # Mailboxes of a country or of an access provider.
    "yandex": ("Yandex", ("mx.yandex.net", "mx.yandex.ru")),  # yandex.com/support: "MX record"
    "mailru": ("Mail.ru, VK WorkSpace", (".mail.ru",)),
    "rambler": ("Rambler", ("inmx.rambler.ru",)),
    "ukrnet": ("UKR.NET", ("mxs.ukr.net",)),
    "qq": ("QQ Mail, Tencent Exmail", (".qq.com",)),
    "netease": ("NetEase: 163, 126, yeah.net", (".mxmail.netease.com", ".163.com")),
    "aliyun": ("Alibaba Mail", (".mxhichina.com", ".qiye.aliyun.com")),
    "coremail": ("Coremail", (".icoremail.net",)),
    "139": ("China Mobile", (".mail.139.com",)),
    "sina": ("Sina Mail", (".sinamail.sina.com.cn",)),
    "naver": ("Naver, NAVER WORKS", ("mx1.naver.com", "mx2.naver.com", "mx3.naver.com", ".worksmobile.com")),
    "daum": ("Daum, Kakao", (".hanmail.net", ".daum.net")),
    "docomo": ("NTT docomo", ("mfsmax.docomo.ne.jp",)),
    "rediff": ("Rediffmail", (".rediff.akadns.net", ".rediffmailpro.com")),
    "orange": ("Orange, Wanadoo", ("smtp-in.orange.fr",)),
    "free": ("Free", ("mx1.free.fr", "mx2.free.fr")),
    "sfr": ("SFR", ("smtp-in.sfr.fr",)),
    "laposte": ("La Poste", (".laposte.net",)),
    "freenet": ("freenet", ("emig.freenet.de",)),
    "libero": ("Libero, Virgilio", ("smtp-in.libero.it", "smtp-in.virgilio.it")),
    "seznam": ("Seznam", (".seznam.cz",)),
    "wp": ("Wirtualna Polska, o2.pl", ("mx.wp.pl", "mx.tlen.pl")),
    "onet": ("Onet", (".poczta.onet.pl",)),
    "comcast": (
        "Comcast",
        ("mx1.comcast.net", "mx2.comcast.net", *(f"mx{n}{pool}1.comcast.net" for n in (1, 2) for pool in "ach")),
    ),
    "spectrum": ("Spectrum (Charter)", (".msg.pkvw.co.charter.net",)),
    "att": ("AT&T", ("al-ip4-mx-vip1.prodigy.net", "ff-ip4-mx-vip1.prodigy.net")),
    "uol": ("UOL, BOL", ("mx.uol.com.br",)),
}  # fmt: skip

_HOSTS = {host: name for name, (_, hosts) in CATALOGUE.items() for host in hosts}


def catalogue() -> dict[str, tuple[str, ...]]:
    """The hosts of each provider, as values of an MX condition."""
    return {name: hosts for name, (_, hosts) in CATALOGUE.items()}


def provider_of(host: str) -> str:
    """The name of the shipped provider that runs this mail host, or nothing."""
    name = host.lower().removesuffix(".")
    places = [name, *parents(name)]
    return next((_HOSTS[place] for place in places if place in _HOSTS), "")
