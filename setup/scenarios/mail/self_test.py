"""Tests of the comparison: what is altered on the way has to be reported."""

import pathlib
import tempfile
import unittest

from . import check, corpus, recorder, reports, ways

TRACE = "Received: from there ([127.0.0.1])\r\n\tby %s with ESMTP id 1;\r\n\tMon, 1 Jan 2024 00:00:00 +0000\r\n"
HOSTS = {
    "gateway": "gw1.example",
    "postfix": "postfix.example",
    "opensmtpd": "opensmtpd.example",
    "exim": "exim.example",
}
NOTIFICATION = """From: <MAILER-DAEMON@exim.example>\r
MIME-Version: 1.0\r
Content-Type: multipart/report; report-type=delivery-status; boundary=b\r
\r
--b\r
\r
It was refused.\r
--b\r
Content-Type: message/delivery-status\r
\r
Reporting-MTA: dns; postfix.example\r
\r
Action: failed\r
Final-Recipient: rfc822;%s\r
Status: 5.6.0\r
\r
--b\r
Content-Type: message/rfc822\r
\r
Subject: x\r
\r
--b--\r
"""


class Comparison(unittest.TestCase):
    """A run in which all went well, and then something that did not."""

    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.directory = pathlib.Path(directory.name)
        self.desk = recorder.Desk(self.directory / "gateway", False)
        self.journal = []
        for way in ("raw", "from-exim", "from-opensmtpd"):
            for name in (
                "no-final-newline",
                "eight-bit",
                "lines-999",
                "sender-plus",
                "addresses",
                "empty",
                "notify-success",
                "unknown-notify",
                "unknown-never",
            ):
                self.pass_mail(way, corpus.by_name()[name])

    def pass_mail(self, name, case):
        """A mail on its way, as all programs should treat it."""
        way = ways.WAYS[name]
        trace = "".join(TRACE % HOSTS[program] for program in reversed(way.programs)).encode()
        for local in case.local_parts():
            recipient = f"{local}@{way.domain}"
            code = 250
            try:
                parameters = " ".join(["BODY=8BITMIME"] * case.eight_bit + [*case.parameters])
                of_recipient = case.of_recipient.format(recipient)
                envelope = [
                    f"MAIL FROM:<{case.sender}> {parameters}",
                    f"RCPT TO:<{recipient}> {of_recipient}",
                ]
                self.desk.keep(envelope, trace + way.expected(case, recipient))
            except ways.Refusal as refusal:
                if refusal.args[0] == way.receiver:
                    code = 554
                elif way.told(case, recipient):
                    self.notify(case.sender, recipient, case)
            self.journal.append(
                {"way": name, "case": case.name, "recipient": recipient, "code": code, "text": ""}
            )

    def notify(self, sender, recipient, case=None):
        text = NOTIFICATION % recipient
        if case is not None and case.parameters:
            fields = f"Original-Recipient: rfc822;first+{recipient}\r\nFinal"
            text = text.replace("Final", fields).replace(
                "Reporting", "Original-Envelope-Id: QQ+314159\r\nReporting"
            )
        self.desk.keep(["MAIL FROM:<>", f"RCPT TO:<{sender}>"], text.encode())

    def arrival(self, recipient, part=b""):
        """The files of the mail to a recipient, with that part."""
        for file in self.desk.directory.glob("*.envelope"):
            mail = file.with_suffix(".eml")
            if f"RCPT TO:<{recipient}>" in file.read_text() and part in mail.read_bytes():
                return file, mail
        raise AssertionError(f"no mail to {recipient}")

    def alter(self, recipient, change):
        _, mail = self.arrival(recipient)
        mail.write_bytes(change(mail.read_bytes()))

    def problems(self):
        return check.problems(self.directory, self.journal)

    def assert_reports(self, *texts):
        """As many problems as texts, each with its text."""
        found = self.problems()
        self.assertEqual(len(found), len(texts), found)
        for problem, text in zip(found, texts):
            self.assertIn(text, problem)

    def test_mails_that_went_well_are_not_reported(self):
        self.assertEqual(self.problems(), [])

    def test_an_octet_that_changed_is_reported(self):
        self.alter("eight-bit@raw.example", lambda mail: mail.replace(b"\xc3\xbc", b"\xc3\xbd"))
        self.assert_reports("it differs at octet")

    def test_a_lost_last_line_end_is_reported(self):
        self.alter("no-final-newline@raw.example", lambda mail: mail[:-2])
        self.assert_reports("it differs at octet")

    def test_an_added_line_end_is_reported(self):
        self.alter("empty@raw.example", lambda mail: mail + b"\r\n")
        self.assert_reports("it differs at octet 0 of 0")

    def test_an_added_field_is_reported(self):
        self.alter("eight-bit@from-exim.example", lambda mail: b"X-Spam: no\r\n" + mail)
        self.assert_reports("the trace is missing")

    def test_a_field_within_is_reported(self):
        self.alter(
            "eight-bit@from-exim.example",
            lambda mail: mail.replace(b"Subject:", b"X-Spam: no\r\nSubject:"),
        )
        self.assert_reports("it differs at octet")

    def test_fields_that_another_program_may_add_are_reported(self):
        added = b"Date: Mon, 01 Jan 2024 00:00:00 +0000 (UTC)\r\nMessage-ID: <1f@opensmtpd.example>\r\n"
        self.alter("empty@from-opensmtpd.example", lambda mail: mail + added)
        self.assertEqual(self.problems(), [])
        check.read_mail.cache_clear()
        self.alter("empty@raw.example", lambda mail: mail + added)
        self.assert_reports("it differs at octet")

    def test_a_trace_that_is_missing_is_reported(self):
        self.alter("eight-bit@raw.example", lambda mail: mail[mail.index(b"From:") :])
        self.assert_reports("the trace is missing")

    def test_a_lost_mail_is_reported(self):
        envelope, mail = self.arrival('"two words"@raw.example')
        envelope.unlink()
        mail.unlink()
        self.assert_reports("arrived 0 times")

    def test_a_mail_that_came_twice_is_reported(self):
        envelope, mail = self.arrival("empty@raw.example")
        self.desk.keep(envelope.read_text().splitlines(), mail.read_bytes())
        self.assert_reports("arrived 2 times")

    def test_a_strange_mail_is_reported(self):
        self.desk.keep(["MAIL FROM:<a@b.example>", "RCPT TO:<c@d.example>"], b"x\r\n")
        self.assert_reports("nobody sent a mail to c@d.example")

    def test_another_sender_or_parameter_is_reported(self):
        envelope, _ = self.arrival("eight-bit@raw.example")
        envelope.write_text("MAIL FROM:<other@client.example>\nRCPT TO:<eight-bit@raw.example>\n")
        self.assert_reports("it came from other@client.example", "it was declared as 8BITMIME")

    def test_quotes_without_need_are_no_difference(self):
        envelope, _ = self.arrival('"quoted"@raw.example')
        envelope.write_text(envelope.read_text().replace('"quoted"', "quoted"))
        self.assertEqual(self.problems(), [])

    def test_a_case_that_changed_is_reported(self):
        envelope, _ = self.arrival("UPPER.lower@raw.example")
        envelope.write_text(envelope.read_text().replace("UPPER", "upper"))
        self.assert_reports("arrived 0 times", "nobody sent a mail to upper.lower@")

    def test_a_refused_mail_that_arrives_is_reported(self):
        self.desk.keep(
            ["MAIL FROM:<sender@client.example>", "RCPT TO:<lines-999@raw.example>"], b"x\r\n"
        )
        self.assert_reports("should have refused it")

    def test_an_answer_that_should_be_another_is_reported(self):
        entries = {(entry["way"], entry["case"]): entry for entry in self.journal}
        entries["raw", "lines-999"]["code"] = 250
        entries["raw", "empty"]["code"] = 451
        self.assert_reports("it should be refused", "raw: empty to empty@raw.example: 451")

    def test_a_wrong_desk_is_reported(self):
        (self.directory / "exim").mkdir()
        for file in self.arrival("empty@raw.example"):
            file.rename(self.directory / "exim" / file.name)
        self.assert_reports("it arrived at exim")

    def test_complaints_of_the_recorder_are_reported(self):
        self.desk.complain("a bare CR")
        self.assert_reports("a bare CR")

    def test_a_missing_notification_is_reported(self):
        for file in self.arrival(corpus.SENDER):
            file.unlink()
        self.assert_reports("should be told that lines-999@from-exim.example is failed")

    def test_a_notification_of_what_was_delivered_is_reported(self):
        self.notify(corpus.SENDER, "empty@raw.example")
        self.assert_reports("was told of empty@raw.example")

    def test_an_ill_formed_notification_is_reported(self):
        whole = NOTIFICATION % "a@b.example"
        for old, new in (
            ("multipart/report", "multipart/mixed"),
            ("Action: failed", "Action: delayed"),
            ("Reporting-MTA", "X-MTA"),
            ("--b--", "--c--"),
            ("5.6.0", "4.6.0"),
            ("message/delivery-status", "text/plain"),
        ):
            with self.subTest(old), self.assertRaises(ValueError):
                reports.read(whole.replace(old, new).encode())
        ((name, block),) = reports.read(whole.encode())
        self.assertEqual((name, block["action"]), ("a@b.example", "failed"))

    def test_parameters_that_do_not_arrive_are_reported(self):
        envelope, _ = self.arrival("notify-success@raw.example")
        for wanted in ("RET=HDRS", "ENVID=QQ+2B314159", "NOTIFY=SUCCESS,FAILURE", "ORCPT=rfc822;first"):
            whole = envelope.read_text()
            envelope.write_text(whole.replace(wanted, "X=y"))
            check.read_mail.cache_clear()
            self.assert_reports(f"{wanted}")
            envelope.write_text(whole)

    def test_a_report_without_what_the_sender_asked_for_is_reported(self):
        names = (
            "Original-Envelope-Id: QQ+314159",
            "Original-Recipient: rfc822;first+unknown-notify@raw.example",
        )
        for name in names:
            _, mail = self.arrival(corpus.SENDER, b"unknown-notify@raw")
            whole = mail.read_bytes()
            self.assertIn(name.encode(), whole)
            mail.write_bytes(whole.replace(name.encode(), b"X-Other: x"))
            check.read_mail.cache_clear()
            self.assert_reports("the report for unknown-notify@raw.example has")
            mail.write_bytes(whole)

    def test_a_report_that_nobody_wants_is_reported(self):
        self.notify(corpus.SENDER, "unknown-never@raw.example")
        self.assert_reports("was told of unknown-never@raw.example")

    def test_a_report_that_comes_twice_is_reported(self):
        self.notify(corpus.SENDER, "lines-999@from-exim.example")
        self.assert_reports("should be told that lines-999@from-exim.example is failed")


class Corpus(unittest.TestCase):
    """The mails themselves."""

    def test_names_and_recipients_are_unique(self):
        cases = corpus.cases()
        self.assertEqual(len({case.name for case in cases}), len(cases))
        locals_ = [check.plain(f"{local}@x") for case in cases for local in case.local_parts()]
        self.assertEqual(len(set(locals_)), len(locals_))

    def test_lines_end_with_crlf_and_are_as_long_as_said(self):
        for case in corpus.cases():
            rest = case.content.replace(b"\r\n", b"")
            self.assertNotIn(b"\n", rest, case.name)
            self.assertNotIn(b"\r", rest, case.name)
            longest = max(map(len, case.content.split(b"\r\n")))
            self.assertEqual(case.refused, longest > 998, case.name)


def run():
    """Returns the exit status."""
    tests = unittest.defaultTestLoader.loadTestsFromModule(__import__(__name__, fromlist=["*"]))
    outcome = unittest.TextTestRunner(verbosity=0).run(tests)
    return int(not outcome.wasSuccessful())
