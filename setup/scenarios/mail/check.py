"""Compares what was sent with what arrived."""

import base64
import collections
import dataclasses
import email
import email.policy
import functools
import json
import re

from . import corpus, ways

# Where smtp-source sends to.
SOURCE_RECIPIENT = "recipient@smtp-source.example"
# Problems that are named before the rest is only counted.
NAMED_MAX = 20


@dataclasses.dataclass(frozen=True)
class Arrival:
    """A mail as the recorder kept it, for one of its recipients."""

    desk: str
    sender: str
    parameters: str
    recipient: str
    recipient_parameters: str
    content: bytes


def read_arrivals(directory):
    """What came in at all desks, by recipient."""
    arrivals = collections.defaultdict(list)
    for file in sorted(directory.glob("*/*.eml")):
        for arrival in read_mail(file):
            arrivals[arrival.recipient].append(arrival)
    return arrivals


# What has arrived does not change.
@functools.cache
def read_mail(file):
    lines = file.with_suffix(".envelope").read_text(encoding="utf-8").splitlines()
    sender, parameters = path_of(lines[0])
    content = file.read_bytes()
    return [Arrival(file.parent.name, sender, parameters, *path_of(line), content) for line in lines[1:]]


def path_of(line):
    """The address in MAIL or RCPT, in one form of the many that mean the same, and its parameters."""
    found = re.fullmatch(r'[A-Z ]+:<((?:[^"<>]|"(?:[^"\\]|\\.)*")*)>(.*)', line)
    # aiosmtpd takes the quotes off.
    found = found or re.fullmatch(r"[A-Z ]+:<(.*)>(.*)", line)
    return plain(found[1]), found[2].strip()


def plain(address):
    """An address with its local part unquoted (RFC 5321 §4.1.2: the quotes are no part of it)."""
    local, at, domain = address.rpartition("@")
    if local.startswith('"') and local.endswith('"'):
        local = re.sub(r"\\(.)", r"\1", local[1:-1])
    return local + at + domain


def read_journal(file):
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def problems(directory, journal, source_count=0, source_octets=0):
    """What is wrong with what arrived in the directory, a text each. Beside the mails of the journal
    there have to be so many of smtp-source."""
    arrivals = read_arrivals(directory)
    found = list(check_smtp_source(arrivals.pop(SOURCE_RECIPIENT, []), source_count, source_octets))
    # Recipients for whom a notification has to come, by the sender who gets it.
    notified = collections.defaultdict(set)
    for entry in journal:
        case, way = case_of(entry), ways.WAYS[entry["way"]]
        recipient = entry["recipient"]
        got = arrivals.pop(plain(recipient), [])
        where = f"{entry['way']}: {case.name} to {recipient}"
        try:
            expected = way.expected(case, recipient)
        except ways.Refusal as refusal:
            by = refusal.args[0]
            if got:
                found.append(f"{where}: {by} should have refused it, and it arrived")
            if by == way.receiver:
                if not 500 <= entry["code"] <= 599:
                    found.append(
                        f"{where}: it should be refused, and {by} said {entry['code']} {entry['text']}"
                    )
            elif case.sender and ways.notifies(way.programs[way.programs.index(by) - 1], case):
                notified[plain(case.sender)].add(plain(recipient))
            continue
        if entry["code"] != 250:
            found.append(f"{where}: {entry['code']} {entry['text']}")
        if len(got) != 1:
            found.append(f"{where}: arrived {len(got)} times")
        for arrival in got:
            found += [f"{where}: {text}" for text in differences(case, way, expected, arrival)]
    for sender, recipients in notified.items():
        found += check_notifications(sender, recipients, arrivals.pop(sender, []))
    for recipient, got in arrivals.items():
        found.append(f"nobody sent a mail to {recipient}: {got[0].content[:200]!r}")
    for file in sorted(directory.glob("*/complaints")):
        found += [
            f"at {file.parent.name}: {line}" for line in file.read_text(encoding="utf-8").splitlines()
        ]
    return found


def case_of(entry):
    """What an entry of the journal is about: a case of the corpus, or what a client composed."""
    if "content" not in entry:
        return corpus.by_name()[entry["case"]]
    return corpus.Case("composed", base64.b64decode(entry["content"]), sender=entry["sender"])


def differences(case, way, expected, arrival):
    """How a mail differs from what it has to be."""
    if arrival.desk != way.desk:
        yield f"it arrived at {arrival.desk}, not at {way.desk}"
    if arrival.sender != plain(case.sender):
        yield f"it came from {arrival.sender}, not from {case.sender}"
    if case.eight_bit and way.declares_body() and "BODY=8BITMIME" not in arrival.parameters:
        yield f"it was declared as 8BITMIME, and came with {arrival.parameters!r}"
    if case.utf8 and way.declares_utf8() and "SMTPUTF8" not in arrival.parameters:
        yield f"it was declared as SMTPUTF8, and came with {arrival.parameters!r}"
    content = way.without_trace(arrival.content)
    if content is None:
        yield f"the trace is missing: {arrival.content[:300]!r}"
        return
    for program in way.programs:
        content = ways.without_added(program, case.wire(), content)
    if content != expected:
        at = next(
            (at for at, (a, b) in enumerate(zip(content, expected)) if a != b),
            min(len(content), len(expected)),
        )
        start = max(0, at - 20)
        yield (
            f"it differs at octet {at} of {len(expected)}, {len(content)} arrived: "
            f"expected {expected[start : at + 60]!r}, came {content[start : at + 60]!r}"
        )


def check_notifications(sender, recipients, got):
    """Each of the recipients is named in a notification that came to the sender, and no others are."""
    named = collections.Counter()
    for arrival in got:
        if arrival.sender != "":
            yield f"{sender} got a mail of {arrival.sender}: {arrival.content[:200]!r}"
            continue
        try:
            named.update(failed_recipients(arrival.content))
        except ValueError as error:
            yield f"{sender} got what is no notification: {error}: {arrival.content[:200]!r}"
    for recipient in sorted(recipients | named.keys()):
        if (named[recipient] == 1) != (recipient in recipients):
            yield f"{sender}: {named[recipient]} notifications for {recipient}"


def failed_recipients(content):
    """The recipients that a notification of failure names (RFC 3462, RFC 3464). Raises ValueError."""
    mail = email.message_from_bytes(content, policy=email.policy.default)
    if mail.defects:
        raise ValueError(f"defects {mail.defects}")
    if (
        mail.get_content_type() != "multipart/report"
        or mail.get_param("report-type") != "delivery-status"
    ):
        raise ValueError(f"it is {mail['Content-Type']}")
    parts = list(mail.iter_parts())
    kinds = [part.get_content_type() for part in parts]
    if len(parts) not in (2, 3) or not kinds[1].endswith("delivery-status"):
        raise ValueError(f"its parts are {kinds}")
    blocks = parts[1].get_payload()
    if not isinstance(blocks, list):
        # The type of RFC 6533 is not known to Python.
        text = parts[1].get_content()
        text = text.decode() if isinstance(text, bytes) else text
        blocks = [email.message_from_string(block) for block in re.split(r"\r?\n\r?\n", text.strip())]
    if "Reporting-MTA" not in blocks[0]:
        raise ValueError("it does not say who reports")
    names = []
    for block in blocks[1:]:
        if not block.keys():
            continue
        if block["Action"] != "failed" or not re.match(r"5\.\d+\.\d+", block["Status"]):
            raise ValueError(f"action {block['Action']}, status {block['Status']}")
        names.append(plain(block["Final-Recipient"].split(";", 1)[1].strip()))
    if not names:
        raise ValueError("it names nobody")
    return names


def check_smtp_source(got, count, octets):
    """There are so many mails of `smtp-source -l octets`, each with an id of its own."""
    pattern = re.compile(
        rb"From: <sender@client\.example>\r\nTo: <%s>\r\nDate: [^\r\n]+\r\n"
        rb"Message-Id: <([^\r\n]+)>\r\n\r\n((?:[0-9]*X+\r\n)+)" % re.escape(SOURCE_RECIPIENT.encode())
    )
    ids = set()
    for arrival in got:
        content = ways.WAYS["raw"].without_trace(arrival.content)
        found = content is not None and pattern.fullmatch(content)
        # It ends the last of its octets with a line end of its own.
        if not found or len(found[2]) != octets + 2:
            yield f"this is no mail of smtp-source: {arrival.content[:300]!r}"
        elif found[1] in ids:
            yield f"it came twice: {found[1]}"
        else:
            ids.add(found[1])
    if len(ids) != count:
        yield f"of {count} mails of smtp-source {len(ids)} arrived"


def report(found):
    """Prints the problems. Returns the exit status."""
    for text in found[:NAMED_MAX]:
        print(text)
    if len(found) > NAMED_MAX:
        print(f"and {len(found) - NAMED_MAX} more")
    return int(bool(found))
