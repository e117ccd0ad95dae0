"""swaks and curl with the options that change what goes over the wire.

What swaks composes is taken from its transcript; what it breaks off must not arrive. Each function takes
the server's address and a scratch directory, and yields what has to arrive: (way, sender, recipients,
content).
"""

import re
import subprocess

from . import corpus

# Seconds after which a client is given up.
PATIENCE = 60
# Options with which swaks sends a whole mail, by the recipient's name.
WHOLE = {
    "plain": [],
    "esmtp": ["--protocol", "ESMTP"],
    "smtp": ["--protocol", "SMTP", "--helo", "swaks.example"],
    "literal": ["--ehlo", "[127.0.0.1]"],
    "pipeline": ["--pipeline"],
    "body": ["--body", r"text\n.\n..\n.begins with a dot\n\nFrom here\n"],
    "eight-bit": ["--body", "Grüße, 飛脚"],
    "attach": [
        "--attach-type",
        "text/plain",
        "--attach-name",
        "note.txt",
        "--attach",
        "attached",
        "--attach-type",
        "application/octet-stream",
        "--attach",
        "@/bin/true",
        "--attach-body",
        "the body",
    ],
    "fields": [
        "--h-From",
        '"A, B" <other@client.example>',
        "--header",
        "Subject: replaced",
        "--add-header",
        r"X-Folded: one\n two",
        "--h-X-Other",
        "value",
    ],
    "data": ["--data", r"Subject: odd\n\n.\n..\n...\ntabs\tand \\backslashes\\ %TO_ADDRESS%\n\n\n"],
    "data-no-header": ["--data", r"\nno header\n"],
    "from-line": [
        "--no-strip-from",
        "--data",
        r"From somebody Mon Jan  1 00:00:00 2024\nSubject: x\n\ntext\n",
    ],
    "tls-optional": ["--tls-optional"],
    "auth-optional": ["--auth-optional", "--auth-user", "user", "--auth-password", "secret"],
    "local": ["--local-interface", "127.0.0.1", "-4", "--timeout", "30s"],
    "shown": ["--show-time-lapse", "--show-raw-text"],
    "drop": ["--drop-after", "DOT"],
}
# Where it ends a session early: with QUIT, by closing the connection when it has the answer, and before.
ENDS = {
    "quit-after": ["CONNECT", "FIRST-HELO", "MAIL", "RCPT"],
    "drop-after": ["CONNECT", "FIRST-HELO", "MAIL", "RCPT", "DATA"],
    "drop-after-send": ["FIRST-HELO", "MAIL", "RCPT", "DATA"],
}


def by_swaks(address, scratch):
    """swaks, with each of the options by itself."""
    for name, options in WHOLE.items():
        recipient = f"options-{name}@swaks.example"
        yield from composed(address, scratch, corpus.SENDER, [recipient], options)
    several = [f"options-several-{number}@swaks.example" for number in range(5)]
    yield from composed(address, scratch, corpus.SENDER, several, ["--pipeline"])
    yield from composed(address, scratch, "", ["options-null-sender@swaks.example"], [])
    for option, points in ENDS.items():
        for point in points:
            to = f"options-{option}-{point.lower()}@swaks.example"
            swaks(address, corpus.SENDER, [to], [f"--{option}", point])
    swaks(address, corpus.SENDER, ["options-dump@swaks.example"], ["--dump"])


def composed(address, scratch, sender, recipients, options):
    said = swaks(address, sender, recipients, options)
    content = from_transcript(said)
    if content is None:
        raise ValueError(f"swaks {options} sent no mail: {said.decode('utf-8', 'replace')}")
    yield "swaks", sender, recipients, content


def swaks(address, sender, recipients, options):
    """Runs it. Returns what it says."""
    host, port = address.rsplit(":", 1)
    command = [
        "swaks",
        "--server",
        host,
        "--port",
        port,
        "--from",
        sender or "<>",
        "--to",
        ",".join(recipients),
    ]
    if "--helo" not in options and "--ehlo" not in options:
        command += ["--ehlo", "swaks.example"]
    done = subprocess.run(
        [*command, *options],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )
    return done.stdout


def from_transcript(said):
    """The mail in what swaks said, if the server took it; otherwise None."""
    lines = said.split(b"\n")
    sent = [line[4:].removesuffix(b"\r") for line in lines if line.startswith(b" -> ")]
    starts = [number for number, line in enumerate(sent) if line == b"DATA"]
    ends = [number for number, line in enumerate(sent) if line == b"."]
    if not starts or not ends or not re.search(rb"(?m)^<-  250 2\.0\.0 Ok: queued as", said):
        return None
    text = sent[starts[0] + 1 : ends[-1]]
    return b"".join(line.removeprefix(b".") + b"\r\n" for line in text)


def by_curl(address, scratch):
    """curl with line ends of its own, from a pipe, and with a mail that is too large."""
    content = corpus.head("curl-options") + b".\r\nline\r\n..\r\n"
    file = scratch / "curl.eml"
    file.write_bytes(content.replace(b"\r\n", b"\n"))
    several = [f"options-crlf-{number}@curl.example" for number in range(3)]
    curl(address, several, ["--crlf", "--upload-file", str(file)])
    yield "curl", corpus.SENDER, several, content
    # Without a size that is known before.
    curl(address, ["options-pipe@curl.example"], ["--upload-file", "-"], content)
    yield "curl", corpus.SENDER, ["options-pipe@curl.example"], content
    file.write_bytes(content + b"x\r\n" * (7 << 20))
    said = curl(address, ["options-large@curl.example"], ["--upload-file", str(file)], fails=True)
    if b"< 552 5.3.4 " not in said:
        raise ValueError(f"a mail of 21 MiB should be refused with 552: {said}")


def curl(address, recipients, options, content=b"", fails=False):
    command = [
        "curl",
        "--silent",
        "--verbose",
        f"smtp://{address}/curl.example",
        "--mail-from",
        corpus.SENDER,
    ]
    for recipient in recipients:
        command += ["--mail-rcpt", recipient]
    done = subprocess.run(
        [*command, *options], input=content, capture_output=True, timeout=PATIENCE, check=False
    )
    if (done.returncode != 0) != fails:
        raise ValueError(f"curl {options} ended with {done.returncode}: {done.stderr}")
    return done.stderr
