// nodemailer.js HOST PORT LIST: sends each mail of LIST, a file of JSON lines
// {"sender": …, "recipients": […], "eight_bit": …, "file": …}, by one pooled connection, and prints the
// answers as JSON lines {"recipient": …, "code": …, "text": …}.
"use strict";
const fs = require("fs");
const nodemailer = require("nodemailer");

const [host, port, list] = process.argv.slice(2);
const transport = nodemailer.createTransport({
    host, port: Number(port), secure: false, ignoreTLS: true, name: "nodemailer.example", pool: true, maxConnections: 1,
});

async function send(mail) {
    const envelope = { from: mail.sender, to: mail.recipients, use8BitMime: mail.eight_bit };
    try {
        const info = await transport.sendMail({ envelope, raw: fs.readFileSync(mail.file) });
        const rejected = new Map((info.rejectedErrors || []).map((error) => [error.recipient, error]));
        return mail.recipients.map((recipient) => {
            const error = rejected.get(recipient);
            const text = error ? error.response : info.response;
            return { recipient, code: Number(text.slice(0, 3)), text: text.slice(4) };
        });
    } catch (error) {
        return mail.recipients.map((recipient) => ({ recipient, code: error.responseCode || 0, text: String(error) }));
    }
}

(async () => {
    for (const line of fs.readFileSync(list, "utf8").split("\n").filter(Boolean)) {
        const mail = JSON.parse(line);
        for (const answer of await send(mail)) {
            console.log(JSON.stringify({ case: mail.case, ...answer }));
        }
    }
    transport.close();
})();
