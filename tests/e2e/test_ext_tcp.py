"""TCP connections that lead out of the computation (--ext-tcp): the program is a small server, its client is the test
itself."""

import ctypes
import os
import select
import socket
import struct
import subprocess
import time

import pytest

import harness

FIN_WAIT2 = 5  # of TCP_INFO
LIMIT = 99  # DMTCP_FAIL_RC's default is the least of the exit statuses that mean that we failed

# Answers lines with their number. Before it reads anything, it does what the words of its command line say.
SERVER = r"""
import os, select, socket, sys, time, hashlib
words = sys.argv[2:]
family = socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET
listener = socket.socket(family)
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.bind((sys.argv[1], 0))
listener.listen(5)
open('port.new', 'w').write(str(listener.getsockname()[1]))
os.rename('port.new', 'server-port')
s, _ = listener.accept()
said = open('said', 'w', 1)
def wait(name):
    while not os.path.exists(name):
        time.sleep(0.005)
if 'stuff' in words:
    s.setblocking(False)
    total = 0
    try:
        while True:
            total += s.send(bytes((total + i) % 251 for i in range(4096)))
    except BlockingIOError:
        pass
    s.setblocking(True)
    said.write('sent %d\n' % total)
if 'late' in words:
    wait('close')
if 'close' in words:
    s.shutdown(socket.SHUT_WR)
if 'wait' in words:
    said.write('waits\n')
    wait('stop')
if 'poll' in words:
    p = select.poll()
    p.register(s, select.POLLIN | select.POLLOUT | select.POLLRDHUP)
    said.write('events %d\n' % p.poll(1000)[0][1])
if 'all' in words:
    h = hashlib.sha256()
    total = 0
    while d := s.recv(1 << 16):
        h.update(d)
        total += len(d)
    said.write('got %d %s\n' % (total, h.hexdigest()))
count = 0
try:
    f = s.makefile('rb')
    for line in f:
        count += 1
        s.sendall(b'%d: ' % count + line)
    said.write('end\n' if s.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR) else 'SO_REUSEADDR lost\n')
except OSError as e:
    said.write('error %d\n' % e.errno)
"""


class Peer:
    """The client; it can be made deaf, as if the network were cut."""

    def __init__(self, address, port):
        self.socket = socket.create_connection((address, port))
        self.socket.settimeout(20 * harness.SLOW)
        self.file = self.socket.makefile("rb")
        self.is_deaf = False

    def ask(self, text, expected):
        self.send(text)
        self.expect(expected)

    def send(self, text):
        self.socket.sendall(text.encode() + b"\n")

    def expect(self, text):
        assert self.file.readline().decode() == text + "\n"

    def deaf(self, yes):
        if yes == self.is_deaf:
            return
        self.is_deaf = yes
        if not yes:
            self.socket.setsockopt(socket.SOL_SOCKET, 27, 0)  # SO_DETACH_FILTER
            return
        code = ctypes.create_string_buffer(struct.pack("HBBI", 6, 0, 0, 0))
        self.socket.setsockopt(socket.SOL_SOCKET, 26, struct.pack("HxxxxxxP", 1, ctypes.addressof(code)))

    def acknowledge(self):
        """What has come, now: the kernel may do so later, when there is nobody any more."""
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)

    def undisturbed(self):
        """Nothing has come, no end and no reset."""
        readable, _, _ = select.select([self.socket], [], [], 0.05)
        assert not readable

    def close(self):
        self.file.close()
        self.socket.close()


def start(lab, *words, address="127.0.0.1", options=()):
    lab.write("server.py", SERVER)
    lab.launch(["/usr/bin/python3", "server.py", address, *words], *options, stdout=subprocess.DEVNULL)
    lab.wait_until("the server listens", lambda: lab.path("server-port").exists())
    return Peer(address, int(lab.path("server-port").read_text()))


def kill_program(lab, keeper):
    """-kc; without the helper that holds the connections if keeper is false."""
    lab.checkpoint_and_kill()
    if not keeper:
        lab.kill_everything()


def restart(lab, *options):
    lab.restart(*options, stdout=subprocess.DEVNULL)
    lab.wait_running()


def said(lab):
    return lab.path("said").read_text().splitlines() if lab.path("said").exists() else []


def wait_said(lab, what):
    lab.wait_until(f"the server says {what}", lambda: any(line.startswith(what) for line in said(lab)))


def ended(lab, peer):
    """The program has ended the connection, and itself."""
    assert peer.file.read() == b""
    peer.close()
    assert lab.finish() == 0


def finish(lab, peer):
    peer.socket.shutdown(socket.SHUT_WR)
    ended(lab, peer)
    assert said(lab)[-1] == "end"
    lab.wait_gone()


def refused_restart(lab, *words, options=()):
    lab.restart(*options, stdout=subprocess.DEVNULL)
    assert lab.finish() >= LIMIT
    text = lab.tail("restart.stderr")
    for word in words:
        assert word in text
    lab.path("restart.stderr").unlink()
    assert [p.comm for p in harness.descendants() if p.comm not in ("dmtcp_coordinat", "dmtcp_keeper") and p.alive] == []


root_only = pytest.mark.skipif(os.geteuid() != 0, reason="keeping connections takes CAP_NET_ADMIN")
ADDRESSES = ("127.0.0.1", "::1")


# -- kept -----------------------------------------------------------------------------------------


@root_only
def test_peer_does_not_notice_checkpoints(lab):
    peer = start(lab)
    peer.ask("one", "1: one")
    longest = 0
    for n in range(2, 40, 2):
        if n % 8 == 2:
            lab.run("dmtcp_command", *lab.where(), "-c")
        begin = time.monotonic()
        peer.ask("more", f"{n}: more")
        peer.ask("again", f"{n + 1}: again")
        longest = max(longest, time.monotonic() - begin)
    lab.checkpoint()
    peer.undisturbed()
    assert longest < 5 * harness.SLOW
    finish(lab, peer)


@root_only
@pytest.mark.parametrize("address", ADDRESSES)
def test_killed_after_checkpoint(lab, address):
    """What the peer sends while the program is dead is answered by the restarted one; twice."""
    peer = start(lab, address=address)
    peer.ask("one", "1: one")
    for n in (2, 4):
        kill_program(lab, keeper=True)
        peer.send("while it is dead")
        peer.undisturbed()
        restart(lab)
        peer.expect(f"{n}: while it is dead")
        peer.ask("and then", f"{n + 1}: and then")
    finish(lab, peer)


@root_only
def test_in_a_new_pid_namespace(lab):
    """The helper that holds the connection is not to be seen from there."""
    peer = start(lab)
    peer.ask("one", "1: one")
    kill_program(lab, keeper=True)
    peer.send("while it is dead")
    restart(lab, "--in-new-pidns")
    peer.expect("2: while it is dead")
    lab.wait_until("the helper has ended", lambda: not [p for p in harness.descendants() if p.comm == "dmtcp_keeper" and p.alive])
    peer.send("last")
    peer.expect("3: last")
    peer.socket.shutdown(socket.SHUT_WR)
    ended(lab, peer)


@root_only
@pytest.mark.parametrize("address", ADDRESSES)
def test_killed_without_a_helper(lab, address):
    """Nothing holds the connection in between, but the peer is quiet."""
    peer = start(lab, address=address)
    peer.ask("one", "1: one")
    for n in (2, 4):
        peer.acknowledge()
        kill_program(lab, keeper=False)
        peer.undisturbed()
        restart(lab)
        peer.ask("two", f"{n}: two")
        peer.ask("three", f"{n + 1}: three")
    finish(lab, peer)


@root_only
@pytest.mark.parametrize("keeper", (True, False), ids=("held", "alone"))
@pytest.mark.parametrize("address", ADDRESSES)
def test_full_queues(lab, address, keeper):
    """As much as fits in both directions, some of it never sent."""
    import hashlib
    peer = start(lab, "stuff", "wait", "all", address=address)
    wait_said(lab, "waits")
    sent = int(said(lab)[0].split()[1])
    peer.socket.setblocking(False)
    data, total = os.urandom(1 << 16), 0
    digest = hashlib.sha256()
    try:
        while True:
            n = peer.socket.send(data)
            digest.update(data[:n])
            total += n
    except BlockingIOError:
        pass
    peer.socket.settimeout(20 * harness.SLOW)
    peer.deaf(not keeper)  # it sends all the time; nobody may answer that it knows of no such connection
    kill_program(lab, keeper)
    restart(lab)
    peer.deaf(False)
    lab.write("stop", "")
    received = b""
    while len(received) < sent:
        received += peer.socket.recv(1 << 16)
    assert received == bytes(i % 251 for i in range(sent))
    peer.socket.shutdown(socket.SHUT_WR)
    wait_said(lab, "got")
    assert said(lab)[-1] in (f"got {total} {digest.hexdigest()}", "end")
    assert f"got {total} {digest.hexdigest()}" in said(lab)
    ended(lab, peer)


@root_only
@pytest.mark.parametrize("keeper", (True, False), ids=("held", "alone"))
@pytest.mark.parametrize("address", ADDRESSES)
def test_peer_has_ended(lab, address, keeper):
    """The peer's end of the stream, and data before it that was not read, are there after the restart."""
    peer = start(lab, "wait", "all", address=address)
    peer.send("last words")
    peer.socket.shutdown(socket.SHUT_WR)
    wait_said(lab, "waits")
    lab.wait_until("its end has arrived", lambda: peer.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == FIN_WAIT2)
    kill_program(lab, keeper)
    restart(lab)
    lab.write("stop", "")
    wait_said(lab, "end")
    assert said(lab)[1].startswith("got 11 ")
    ended(lab, peer)


@root_only
@pytest.mark.parametrize("keeper", (True, False), ids=("held", "alone"))
@pytest.mark.parametrize("address", ADDRESSES)
def test_program_has_ended(lab, address, keeper):
    """The program has shut down its side; the peer goes on sending."""
    peer = start(lab, "close", "wait", "all", address=address)
    wait_said(lab, "waits")
    assert peer.file.read() == b""
    kill_program(lab, keeper)
    restart(lab)
    peer.send("yes")
    peer.socket.shutdown(socket.SHUT_WR)
    lab.write("stop", "")
    wait_said(lab, "end")
    assert said(lab)[1].startswith("got 4 ")
    peer.close()
    assert lab.finish() == 0


@root_only
@pytest.mark.parametrize("keeper", (True, False), ids=("held", "alone"))
@pytest.mark.parametrize("both", (False, True), ids=("one", "both"))
@pytest.mark.parametrize("address", ADDRESSES)
def test_ends_under_way(lab, address, both, keeper):
    """The program's end of the stream has not been acknowledged; the peer's own may have come."""
    peer = start(lab, "late", "close", "wait", "all", address=address)
    peer.deaf(True)
    peer.send("yes")
    lab.write("close", "")
    wait_said(lab, "waits")
    if both:
        peer.socket.shutdown(socket.SHUT_WR)
        time.sleep(0.05)
    kill_program(lab, keeper)
    restart(lab)
    peer.deaf(False)
    assert peer.file.read() == b""
    if not both:
        peer.socket.shutdown(socket.SHUT_WR)
    lab.write("stop", "")
    wait_said(lab, "end")
    assert said(lab)[1].startswith("got 4 ")
    peer.close()
    assert lab.finish() == 0


@root_only
def test_killed_while_the_network_is_cut(lab):
    """SIGKILL some time after the checkpoint, but the peer does not hear of it: as when a host dies."""
    peer = start(lab)
    peer.ask("one", "1: one")
    lab.checkpoint()
    peer.deaf(True)
    lab.kill_everything()
    restart(lab)
    peer.deaf(False)
    peer.ask("two", "2: two")
    finish(lab, peer)


@root_only
def test_reset_in_between(lab):
    """Nothing holds the connection, and the peer sends: it is told that there is no such connection. So is the program."""
    peer = start(lab, "stuff", "wait", "poll")
    wait_said(lab, "waits")
    kill_program(lab, keeper=False)
    peer.send("anybody there?")
    lab.wait_until("the peer is told", lambda: peer.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR), 5)
    restart(lab)
    lab.write("stop", "")
    assert lab.finish() == 0
    assert said(lab)[-1] == "error 104"
    peer.close()


@root_only
def test_checkpoint_that_fails(lab):
    """-kc, but the images can't be written: the program goes on, with its connection."""
    peer = start(lab, options=("--ckptdir", lab.path("nowhere") / "at" / "all"))
    peer.ask("one", "1: one")
    lab.write("nowhere", "a file")
    status, _ = lab.run("dmtcp_command", *lab.where(), "-kc", check=False)
    assert status != 0
    peer.ask("two", "2: two")
    finish(lab, peer)


@root_only
def test_failed_restart_can_be_tried_again(lab, netns):
    """The address is gone: one clear line. It is back: the connection lives on."""
    subprocess.run(["ip", "addr", "add", "10.9.8.7/32", "dev", "lo"], check=True)
    peer = start(lab, address="10.9.8.7")
    peer.ask("one", "1: one")
    kill_program(lab, keeper=False)
    subprocess.run(["ip", "addr", "del", "10.9.8.7/32", "dev", "lo"], check=True)
    lab.start_coordinator()
    refused_restart(lab, "10.9.8.7", "none of this host's")
    subprocess.run(["ip", "addr", "add", "10.9.8.7/32", "dev", "lo"], check=True)
    peer.undisturbed()
    restart(lab)
    peer.ask("two", "2: two")
    finish(lab, peer)


@root_only
def test_leaves_no_rules(lab, netns):
    peer = start(lab)
    peer.ask("one", "1: one")
    lab.checkpoint()
    kill_program(lab, keeper=True)
    for table in ("/proc/net/ip_tables_names", "/proc/net/ip6_tables_names"):
        assert not os.path.exists(table) or not open(table).read()
    restart(lab)
    peer.ask("two", "2: two")
    finish(lab, peer)


# -- reset ----------------------------------------------------------------------------------------


# Who has no CAP_NET_ADMIN must say so when the checkpoint is made.
RESETS = [("checkpoint", name) for name in harness.users()] + [("restart", "root")] * (os.geteuid() == 0)


@pytest.mark.parametrize("when,user", RESETS, indirect=["user"])
def test_reset(lab, when):
    peer = start(lab, "wait", "poll", options=("--ext-tcp=reset",) if when == "checkpoint" else ())
    wait_said(lab, "waits")
    peer.undisturbed()
    lab.checkpoint()
    peer.undisturbed()
    lab.kill_everything()
    restart(lab, *(("--ext-tcp=reset",) if when == "restart" else ()))
    lab.write("stop", "")
    assert lab.finish() == 0
    wanted = select.POLLIN | select.POLLOUT | select.POLLRDHUP | select.POLLERR | select.POLLHUP
    assert said(lab)[1:] == [f"events {wanted}", "error 104"]
    peer.close()


# -- refused --------------------------------------------------------------------------------------


def refused_checkpoint(lab, peer, *words):
    with pytest.raises(harness.CommandFailed) as failed:
        lab.checkpoint()
    for word in (*words, f":{peer.socket.getsockname()[1]} outside of the computation", "--ext-tcp=reset"):
        assert word in failed.value.output
    assert lab.images() == []
    peer.ask("two", "2: two")
    finish(lab, peer)


@pytest.mark.parametrize("user", harness.users(), indirect=True)
def test_refused_at_checkpoint(lab):
    peer = start(lab, options=("--ext-tcp=refuse",))
    peer.ask("one", "1: one")
    refused_checkpoint(lab, peer, "--ext-tcp=refuse")


@pytest.mark.parametrize("user", harness.users(), indirect=True)
def test_option_of_attach(lab):
    """A program that was not launched: dmtcp_command says what is to become of its connections."""
    lab.start_coordinator()
    lab.write("server.py", SERVER)
    lab.run_bare(["/usr/bin/python3", "server.py", "127.0.0.1"], stdout=subprocess.DEVNULL)
    lab.wait_until("the server listens", lambda: lab.path("server-port").exists())
    peer = Peer("127.0.0.1", int(lab.path("server-port").read_text()))
    peer.ask("one", "1: one")
    status, text = lab.run("dmtcp_command", *lab.where(), "--ext-tcp=nonsense", "--attach", str(lab.program.pid), check=False)
    assert status and "--ext-tcp nonsense" in text
    lab.run("dmtcp_command", *lab.where(), "--ext-tcp=refuse", "--attach", str(lab.program.pid))
    refused_checkpoint(lab, peer, "--ext-tcp=refuse")


@pytest.mark.parametrize("user", [name for name in harness.users() if name == "user"], indirect=True)
@pytest.mark.parametrize("option", ((), ("--ext-tcp=keep",)), ids=("unsaid", "keep"))
def test_not_allowed(lab, option):
    peer = start(lab, options=option)
    peer.ask("one", "1: one")
    refused_checkpoint(lab, peer, "CAP_NET_ADMIN")


@root_only
def test_refused_at_restart(lab):
    peer = start(lab)
    peer.ask("one", "1: one")
    kill_program(lab, keeper=True)
    refused_restart(lab, "--ext-tcp=refuse", options=("--ext-tcp=refuse",))
    restart(lab)
    peer.ask("two", "2: two")
    finish(lab, peer)


@root_only
def test_given_up_at_checkpoint(lab):
    peer = start(lab, options=("--ext-tcp=reset",))
    peer.ask("one", "1: one")
    kill_program(lab, keeper=True)
    refused_restart(lab, "given up", options=("--ext-tcp=keep",))
    peer.close()


@root_only
def test_older_checkpoint(lab):
    """The connection has gone on since: the peer would not take what this image has."""
    peer = start(lab)
    peer.ask("one", "1: one")
    old = [(image.name, image.read_bytes()) for image in lab.checkpoint()]
    peer.ask("two", "2: two")
    kill_program(lab, keeper=True)
    where = lab.path("old")
    lab.mkdir(where)
    for name, data in old:
        (where / name).write_bytes(data)
    lab.restart(what=[where], stdout=subprocess.DEVNULL)
    assert lab.finish() >= LIMIT
    assert "another socket of this host has that connection" in lab.tail("restart.stderr")
    restart(lab)
    peer.ask("three", "3: three")
    finish(lab, peer)
