"""Reports to senders (DSN): what they have to be, and what they have to tell."""

import collections
import email
import email.policy
import re

from .address import plain

REPORT_KINDS = {("multipart/report", kind) for kind in ("delivery-status", "global-delivery-status")}


def check(sender, wanted, got):
    """A sender is told what it has to be told, once, and nothing else. `wanted` has for each recipient
    the action, the case and the recipient as it was sent; yields what is wrong."""
    told = collections.defaultdict(list)
    for arrival in got:
        if arrival.sender != "":
            yield f"{sender} got a mail of {arrival.sender}: {arrival.content[:200]!r}"
            continue
        try:
            for name, block in read(arrival.content):
                told[name].append(block)
        except ValueError as error:
            yield f"{sender} got an ill-formed report: {error}: {arrival.content[:300]!r}"
    for recipient in sorted(wanted.keys() | told.keys()):
        blocks = told[recipient]
        if recipient not in wanted:
            yield f"{sender} was told of {recipient}: {blocks}"
            continue
        action, case, sent = wanted[recipient]
        if [block["action"] for block in blocks] != [action]:
            yield f"{sender} should be told that {recipient} is {action}: {blocks}"
        for block in blocks:
            yield from missing(case, sent, recipient, block)


def missing(case, sent, recipient, block):
    """What a report does not repeat of what the sender asked for (RFC 3461 §6.3)."""
    if block["by"] == "opensmtpd.example":
        # It repeats neither.
        return
    for parameter in (*case.parameters, *case.of_recipient.format(sent).split()):
        name, _, value = parameter.partition("=")
        # Exim does not decode what it repeats.
        wanted = value if block["by"] == "exim.example" else decoded(value)
        if name in ("ENVID", "ORCPT") and block[name] != wanted:
            yield f"the report for {recipient} has {name} {block[name]}, not {value}"


def decoded(value):
    """What xtext stands for (RFC 3461 §4)."""
    return re.sub(r"\+([0-9A-F]{2})", lambda found: chr(int(found[1], 16)), value)


def read(content):
    """The recipients that a report names (RFC 3462, RFC 3464, RFC 6533), with what it tells of each.
    Raises ValueError."""
    mail = email.message_from_bytes(content, policy=email.policy.default)
    if mail.defects:
        raise ValueError(f"defects {mail.defects}")
    parts = list(mail.iter_parts())
    kinds = [part.get_content_type() for part in parts]
    if len(parts) not in (2, 3) or not kinds[1].endswith("delivery-status"):
        raise ValueError(f"its parts are {kinds}")
    of_mail, *of_recipients = blocks_of(parts[1])
    by = of_mail.get("reporting-mta", "").partition(";")[2].strip()
    if not by:
        raise ValueError("it does not say who reports")
    kind = mail.get_content_type(), mail.get_param("report-type")
    # OpenSMTPD's parts are those of a report, and that is all.
    if kind not in REPORT_KINDS and (by, kind) != ("opensmtpd.example", ("multipart/mixed", None)):
        raise ValueError(f"it is {mail['Content-Type']}")
    told = [read_recipient(by, of_mail, block) for block in of_recipients]
    if not told:
        raise ValueError("it names nobody")
    return told


def blocks_of(part):
    """The groups of fields in a delivery-status, each by name."""
    # Python's parser knows message/delivery-status and not its sibling of RFC 6533: so none is asked.
    text = re.split(
        rb"\r?\n\r?\n", part.as_bytes(policy=part.policy.clone(cte_type="8bit", utf8=True)), maxsplit=1
    )[1]
    blocks = re.split(r"\r?\n\r?\n", text.decode("utf-8", "replace").strip())
    return [fields_of(block) for block in blocks]


def fields_of(block):
    """By names in small letters."""
    found = re.findall(r"(?m)^([!-9;-~]+):[ \t]*(.*(?:\r?\n[ \t].*)*)", block)
    return {name.lower(): value.strip() for name, value in found}


def read_recipient(by, of_mail, block):
    """One group of fields, as the recipient and what is told."""
    action, status = block.get("action", ""), block.get("status", "")
    success = action in ("delivered", "relayed", "expanded")
    if action not in ("failed", "delayed") and not success:
        raise ValueError(f"action {action!r}")
    if not re.match(
        {"failed": r"5\.\d+\.\d+", "delayed": r"4\.\d+\.\d+"}.get(action, r"2\.\d+\.\d+"), status
    ):
        raise ValueError(f"action {action}, status {status!r}")
    kind, _, final = block.get("final-recipient", "").partition(";")
    if not final.strip():
        raise ValueError("no final recipient")
    return plain(unescaped(kind, final.strip())), {
        "by": by,
        "action": action,
        "status": status,
        "ENVID": of_mail.get("original-envelope-id", ""),
        "ORCPT": re.sub(r";[ \t]+", ";", block.get("original-recipient", "")),
    }


def unescaped(kind, address):
    """An address of type utf-8 may be in ASCII (RFC 6533 §3)."""
    if kind.strip().lower() != "utf-8":
        return address
    return re.sub(r"\\x\{([0-9A-F]{2,6})\}", lambda found: chr(int(found[1], 16)), address)
