"""dmtcp_inspect --dot: who talks to whom, for a small family of processes that talk in every way."""

import os
import re
import socket
import subprocess

import pytest

import harness

FAMILY = r"""
import ctypes, mmap, os, socket, sys, time
libc = ctypes.CDLL(None, use_errno=True)
outside = socket.create_connection(('127.0.0.1', int(sys.argv[1])))
listener = socket.create_server(('127.0.0.1', 0))
mine = socket.create_connection(listener.getsockname())
theirs, _ = listener.accept()
waits = socket.create_connection(listener.getsockname())
a, b = socket.socketpair()
inbox = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
inbox.bind('inbox')
to = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
to.connect('inbox')
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.bind(('127.0.0.1', 0))
udp_to = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp_to.connect(udp.getsockname())
netlink = socket.socket(16, 3, 0)
r, w = os.pipe()
memory = mmap.mmap(-1, 4096)
sem = libc.semget(0x4711, 1, 0o1600)
queue = libc.mq_open(b'/dmtcp-test-dot', os.O_RDWR | os.O_CREAT, 0o600, None)
pid = os.fork()
if pid == 0:
    for s in (mine, a, to, udp_to, outside, listener, waits):
        s.close()
    os.close(r)
    open('made', 'w').close()
    while True:
        time.sleep(1)
for s in (theirs, b, inbox, udp):
    s.close()
os.close(w)
while not os.path.exists('made'):
    time.sleep(0.005)
open('all-made', 'w').close()
while not os.path.exists('stop'):
    time.sleep(0.005)
libc.semctl(sem, 0, 0, 0)
libc.mq_unlink(b'/dmtcp-test-dot')
os.kill(pid, 9)
"""


def find_objects(text, label):
    return re.findall(rf'^  (o\d+) \[shape=ellipse, label="{label}"\];$', text, re.M)


def one(text, label):
    found = find_objects(text, label)
    assert len(found) == 1, (label, found, text)
    return found[0]


@pytest.mark.parametrize("user", harness.users(), indirect=True)
def test_dot(lab, ipcns):
    server = socket.create_server(("127.0.0.1", 0))
    port = server.getsockname()[1]
    lab.write("family.py", FAMILY)
    lab.launch(["/usr/bin/python3", "family.py", str(port)], "--ext-tcp=reset", stdout=subprocess.DEVNULL)
    lab.wait_until("the family is there", lambda: lab.path("all-made").exists())
    images = lab.checkpoint()
    _, text = lab.run("dmtcp_inspect", "--dot", *images)
    line = re.compile(r'(digraph checkpoint \{|\}|  [pox]\d+ \[shape=\w+, label="([^"\\]|\\.)*"\];|'
                      r'  [pox]\d+ -> [pox]\d+ \[[^"\]]*("[^"\\]*")?\];)')
    assert all(line.fullmatch(k) for k in text.splitlines()), text
    assert len(re.findall(r'^  (p\d) \[shape=box, label="\d+ [^"]*"\];$', text, re.M)) == 2
    parent, child = re.search(r"^  (p\d) -> (p\d) \[style=bold, arrowhead=none\];$", text, re.M).groups()

    def edge(a, b, attributes):
        assert re.search(rf"^  {a} -> {b} \[{attributes}\];$", text, re.M), (a, b, attributes, text)

    # A connection: an end in each process, and a line between them.
    ends = [o for o in find_objects(text, r"tcp \d+ 127\.0\.0\.1:\d+") if f"{child} -> {o} " in text]
    assert len(ends) == 1
    assert re.search(rf"(o\d+ -> {ends[0]}|{ends[0]} -> o\d+) \[dir=both, style=dashed\]", text)
    # One that waits to be accepted.
    edge(r"o\d+", one(text, r"tcp \d+ 127\.0\.0\.1:\d+ listening"), 'style=dotted, label="waits"')
    # One that leads out.
    out = re.search(rf'^  (x\d+) \[shape=plaintext, label="127\.0\.0\.1:{port}"\];$', text, re.M).group(1)
    edge(r"o\d+", out, "dir=both, style=dashed")
    # Unix: a pair, and one who sends to a name.
    assert len(find_objects(text, r"unix \d+")) >= 3
    edge(r"o\d+", one(text, r"unix \d+ inbox"), "style=dashed")
    # UDP: found by the address.
    receivers = [o for o in find_objects(text, r"udp \d+ 127\.0\.0\.1:\d+") if f"{child} -> {o} " in text]
    assert len(receivers) == 1
    edge(r"o\d+", receivers[0], "style=dashed")
    edge(child, one(text, r"pipe \d+"), 'dir=forward, label="\\d+"')
    edge(parent, one(text, r"pipe \d+"), 'dir=back, label="\\d+"')
    for who in (parent, child):
        edge(who, one(text, r"shm \d+.*"), 'dir=both, label="memory"')
        edge(who, one(text, r"mqueue \d+ /dmtcp-test-dot"), 'dir=both, label="\\d+"')
    one(text, r"semaphores \d+ key 0x4711")
    assert "the kernel" in text  # netlink
    lab.write("stop", "")
    assert lab.finish() == 0
    server.close()
