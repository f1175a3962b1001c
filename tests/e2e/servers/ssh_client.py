"""ssh to an sshd of our own: a session that answers lines with checksums, one with a pseudo-terminal, a forwarded
port with traffic, and files that are copied by sessions of their own; keys are exchanged anew all the time."""

import hashlib
import os
import random
import socket
import subprocess
import threading

import common
from common import PORT, check, equal

HERE = os.getcwd()
CONFIGURATION = f"""
Port {PORT}
ListenAddress 127.0.0.1
HostKey {HERE}/host
PidFile {HERE}/sshd.pid
AuthorizedKeysFile {HERE}/key.pub
StrictModes no
PermitRootLogin yes
UsePAM no
Subsystem sftp internal-sftp
LogLevel VERBOSE
"""
SSH = ["-F", "none", "-i", "key", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR",
       "-o", "RekeyLimit=300K"]
ECHO = "import sys,hashlib\nfor line in sys.stdin: print(len(line), hashlib.sha256(line.encode()).hexdigest(), flush=True)"


def ssh(*argv, **options):
    return subprocess.Popen(["ssh", *SSH, "-p", str(PORT), *argv], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                            bufsize=1, **options)


def lines():
    session = ssh("127.0.0.1", f"python3 -c '{ECHO}'")
    chance = random.Random(1)
    for number in common.rounds():
        sent = [f"{number} " + "x" * chance.randrange(20000) + "\n" for _ in range(3)]
        for line in sent:
            session.stdin.write(line)
        for line in sent:
            equal(session.stdout.readline(), f"{len(line)} {hashlib.sha256(line.encode()).hexdigest()}\n", "answer")
    session.stdin.close()
    equal(session.wait(), 0, "the session's status")


def terminal():
    """A shell on a pseudo-terminal that the server made."""
    session = ssh("-tt", "127.0.0.1", "exec sh -c 'stty -echo; echo up; while read x; do echo got $x; done'")
    equal(session.stdout.readline().strip(), "up", "the terminal's first word")
    for number in common.rounds():
        session.stdin.write(f"{number}\n")
        equal(session.stdout.readline().strip(), f"got {number}", "the terminal's answer")
    session.stdin.write("\x04")
    session.stdin.close()
    session.wait()


def echo_server(listener):
    connection, _ = listener.accept()
    while data := connection.recv(65536):
        connection.sendall(data)
    connection.close()


def forwarded():
    listener = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=common.guarded, args=(echo_server, listener)).start()
    port = PORT + 1
    session = ssh("-N", "-L", f"127.0.0.1:{port}:127.0.0.1:{listener.getsockname()[1]}", "127.0.0.1")
    connection = common.connect(port)
    chance = random.Random(2)
    for number in common.rounds():
        data = chance.randbytes(chance.randrange(1, 100000))
        sender = threading.Thread(target=connection.sendall, args=(data,))
        sender.start()
        got = b""
        while len(got) < len(data):
            part = connection.recv(65536)
            check(part, "the forwarded connection ended")
            got += part
        sender.join()
        check(got == data, "forwarded data in round", number)
    connection.close()
    session.terminate()
    session.wait()


def server_said():
    return common.pathlib.Path("sshd.log").read_text(errors="replace")[-2000:]


def copies():
    data = random.Random(3).randbytes(300_000)
    common.pathlib.Path("file").write_bytes(data)
    for _ in common.rounds():
        done = subprocess.run(["scp", *SSH, "-P", str(PORT), "-q", "file", f"127.0.0.1:{HERE}/copy"], stderr=subprocess.STDOUT,
                              stdout=subprocess.PIPE)
        check((done.returncode, done.stdout) == (0, b""), "scp:", done, "the server said:", server_said())
        check(common.pathlib.Path("copy").read_bytes() == data, "the copy differs")
        if common.STOP.exists():
            return


def main():
    for name in ("host", "key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", name], check=True)
    common.pathlib.Path("sshd_config").write_text(CONFIGURATION)
    os.makedirs("/run/sshd", 0o755, exist_ok=True)
    server = common.start("/usr/sbin/sshd", "-D", "-e", "-f", f"{HERE}/sshd_config", stderr=open("sshd.log", "wb"))
    common.connect().close()
    common.in_threads(lines, terminal, forwarded, copies)
    check(server.poll() is None, "sshd has ended")
    server.terminate()
    server.wait()
    common.done()


common.guarded(main)
