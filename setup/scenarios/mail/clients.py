"""Clients of others, each of which sends a mail of the corpus.

Each function takes the address of the server, the cases with their recipients, and a scratch directory,
and yields (case, recipient, code, text), where the code is 250 if the client says that the mail was
taken.
"""

import json
import os
import pathlib
import re
import smtplib
import subprocess

from . import corpus, wire

# Seconds after which a client is given up.
PATIENCE = 60


def raw(address, mails, _scratch):
    """Our own: sends exactly what the case says. Recipients beyond the server's bound get a transaction
    of their own (RFC 5321 §4.5.3.1.10)."""
    with wire.Client(address) as client:
        for case, recipients in mails:
            while recipients:
                outcomes = wire.transaction(client, case, recipients)
                left = [recipient for recipient, answer in outcomes.items() if is_beyond_bound(answer)]
                if len(left) == len(recipients):
                    left = []
                yield from (
                    (case, recipient, *outcomes[recipient])
                    for recipient in recipients
                    if recipient not in left
                )
                recipients = left
        client.quit()


def by_bdat(address, mails, _scratch):
    """Ours, in chunks (RFC 3030): of one octet, of none, of more; the last has what is left."""
    with wire.Client(address) as client:
        for case, recipients in mails:
            outcomes = wire.transaction(
                client, case, recipients[: corpus.PER_TRANSACTION], chunks=(1, 0, 2, 1_000)
            )
            yield from ((case, recipient, *answer) for recipient, answer in outcomes.items())
        client.quit()


def is_beyond_bound(answer):
    """Too many recipients; OpenSMTPD says 451."""
    code, text = answer
    return code == 452 or code == 451 and text.startswith("4.5.3")


def by_smtplib(address, mails, _scratch):
    """Python's."""
    host, port = address.rsplit(":", 1)
    with smtplib.SMTP(host, int(port), "smtplib.example", timeout=PATIENCE) as session:
        for case, recipients in mails:
            options = ["BODY=8BITMIME"] if case.eight_bit else []
            options += ["SMTPUTF8"] if case.utf8 else []
            try:
                refused = session.sendmail(case.sender, recipients, case.content, options)
            except smtplib.SMTPRecipientsRefused as error:
                refused = error.recipients
            except smtplib.SMTPResponseException as error:
                refused = dict.fromkeys(recipients, (error.smtp_code, error.smtp_error))
            for recipient in recipients:
                code, text = refused.get(recipient, (250, b""))
                yield case, recipient, code, text.decode("utf-8", "replace")


def by_curl(address, mails, scratch):
    """curl, with one exit status for all recipients; it is verbose because only so it names a code."""
    for case, recipients in mails:
        file = scratch / "curl.eml"
        file.write_bytes(case.content)
        command = [
            "curl",
            "--silent",
            "--verbose",
            f"smtp://{address}/curl.example",
            "--mail-from",
            case.sender,
        ]
        for recipient in recipients:
            command += ["--mail-rcpt", recipient]
        yield from outcome(case, recipients, [*command, "--upload-file", str(file)])


def by_swaks(address, mails, scratch):
    """swaks, told to leave the content alone: it is dot-stuffed here."""
    host, port = address.rsplit(":", 1)
    for case, recipients in mails:
        file = scratch / "swaks.eml"
        file.write_bytes(re.sub(rb"(^|\r\n)\.", rb"\1..", case.wire()) + b".")
        command = [
            "swaks",
            "--server",
            host,
            "--port",
            port,
            "--ehlo",
            "swaks.example",
            "--from",
            case.sender or "<>",
            "--to",
            ",".join(recipients),
            "--no-data-fixup",
            "--data",
            f"@{file}",
        ]
        yield from outcome(case, recipients, command)


def outcome(case, recipients, command):
    """Runs a client that sends one mail. A refusal is an exit status other than 0, and its code is in
    what the client says."""
    done = subprocess.run(command, capture_output=True, timeout=PATIENCE, check=False)
    said = (done.stdout + done.stderr).decode("utf-8", "replace")
    found = re.search(r"(?m)^<[ *-]*([45]\d\d)\b", said)
    code = 250 if done.returncode == 0 else int(found[1]) if found else 0
    return [(case, recipient, code, said.strip()[-500:]) for recipient in recipients]


def by_nodemailer(address, mails, scratch):
    """nodemailer, by nodemailer.js; NODE_PATH says where it is."""
    listed = []
    by_name = {}
    for case, recipients in mails:
        file = scratch / f"nodemailer-{case.name}.eml"
        file.write_bytes(case.content)
        by_name[case.name] = case
        listed.append(
            json.dumps(
                {
                    "case": case.name,
                    "sender": case.sender,
                    "recipients": recipients,
                    "eight_bit": case.eight_bit,
                    "file": str(file),
                }
            )
        )
    (scratch / "nodemailer.list").write_text("".join(line + "\n" for line in listed), encoding="utf-8")
    script = pathlib.Path(__file__).with_name("nodemailer.js")
    command = ["node", str(script), *address.rsplit(":", 1), str(scratch / "nodemailer.list")]
    done = subprocess.run(command, capture_output=True, timeout=PATIENCE, check=True, env=os.environ)
    for line in done.stdout.decode().splitlines():
        answer = json.loads(line)
        yield by_name[answer["case"]], answer["recipient"], answer["code"], answer["text"]


CLIENTS = {
    "raw": raw,
    "bdat": by_bdat,
    "smtplib": by_smtplib,
    "curl": by_curl,
    "swaks": by_swaks,
    "nodemailer": by_nodemailer,
}


def expressible(way, case, recipients):
    """The recipients to whom the client of this way can send the case; none: the case is left out."""
    if way == "bdat":
        return recipients
    # DSN is for those who know it. Reports of unknown recipients do not depend on the client.
    if case.parameters or case.of_recipient or case.unknown:
        return []
    # swaks knows no SMTPUTF8, and the others ask for it when an address wants it.
    if case.utf8 and (way == "swaks" or way in ("curl", "nodemailer") and case.name == "header-utf-8"):
        return []
    # swaks takes content without a line end for the name of a file, and commas for separators.
    if way == "swaks":
        return [recipient for recipient in recipients if "," not in recipient] if case.content else []
    # nodemailer takes a local part apart that needs its quotes for more than a blank.
    if way == "nodemailer":
        return [recipient for recipient in recipients if re.fullmatch(r'"[a-z ]+"@.*|[^"]+', recipient)]
    return recipients
