"""Compares what was sent with what arrived."""

import base64
import collections
import dataclasses
import functools
import json
import re

from . import corpus, reports, ways
from .address import plain

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


def read_journal(file):
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def problems(directory, journal, source_count=0, source_octets=0):
    """What is wrong with what arrived in the directory, a text each. Beside the mails of the journal
    there have to be so many of smtp-source."""
    arrivals = read_arrivals(directory)
    found = list(check_smtp_source(arrivals.pop(SOURCE_RECIPIENT, []), source_count, source_octets))
    # What senders have to be told: of which recipients which action.
    told = collections.defaultdict(dict)
    for entry in journal:
        case, way = case_of(entry), ways.WAYS[entry["way"]]
        recipient = entry["recipient"]
        got = arrivals.pop(plain(recipient), [])
        where = f"{entry['way']}: {case.name} to {recipient}"
        action = way.told(case, recipient)
        if action:
            told[plain(case.sender)][plain(recipient)] = (action, case, recipient)
        found += [f"{where}: {text}" for text in judge(case, way, entry, got)]
    for sender, actions in told.items():
        found += reports.check(sender, actions, arrivals.pop(sender, []))
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


def judge(case, way, entry, got):
    """What is wrong with what became of a mail for one recipient."""
    answer = f"{entry['code']} {entry['text']}"
    try:
        expected = way.expected(case, entry["recipient"])
    except ways.Refusal as refusal:
        by = refusal.args[0]
        if got:
            yield f"{by} should have refused it, and it arrived"
        if by == way.receiver and not 500 <= entry["code"] <= 599:
            yield f"it should be refused, and {by} said {answer}"
        return
    if entry["code"] != 250:
        yield answer
    if len(got) != 1:
        yield f"arrived {len(got)} times"
    for arrival in got:
        yield from differences(case, way, expected, arrival)


def differences(case, way, expected, arrival):
    """How a mail differs from what it has to be."""
    if arrival.desk != way.desk:
        yield f"it arrived at {arrival.desk}, not at {way.desk}"
    if arrival.sender != plain(way.sender(case)):
        yield f"it came from {arrival.sender}, not from {way.sender(case)}"
    if case.eight_bit and way.declares_body() and "BODY=8BITMIME" not in arrival.parameters:
        yield f"it was declared as 8BITMIME, and came with {arrival.parameters!r}"
    if case.utf8 and way.declares_utf8() and "SMTPUTF8" not in arrival.parameters:
        yield f"it was declared as SMTPUTF8, and came with {arrival.parameters!r}"
    if way.passes_notify():
        for wanted in (*case.parameters, *case.of_recipient.format(arrival.recipient).split()):
            if wanted not in f"{arrival.parameters} {arrival.recipient_parameters}".split():
                yield f"{wanted} is missing in {arrival.parameters!r} and {arrival.recipient_parameters!r}"
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
