"""Sockets and IPC that can't be saved or rebuilt: one clear line, nothing half restored, and the program of a failed
checkpoint goes on with its connections whole. What was in the way is taken away: then the restart works."""

import fcntl
import os
import pathlib
import random
import re
import select
import socket
import struct
import subprocess
import termios
import time

import pytest

import harness
from survive import Program, verify

LIMIT = 99

# Makes things as the words of its command line say, says so, waits until the file `stop` is there, and looks at them.
PROGRAM = r"""
import os, socket, sys, time
kept = []
def inet(kind, address, port):
    family = socket.AF_INET6 if ':' in address else socket.AF_INET
    s = socket.socket(family, kind)
    s.bind((address, int(port)))
    if kind == socket.SOCK_STREAM:
        s.listen(5)
    return s
def unix(name):
    s = socket.socket(socket.AF_UNIX)
    s.bind('\0' + name[1:] if name[0] == '@' else name)
    s.listen(5)
    return s
for word in sys.argv[1:]:
    what, *args = word.split(',')
    if what == 'tcp':
        kept.append(inet(socket.SOCK_STREAM, *args))
    elif what == 'udp':
        kept.append(inet(socket.SOCK_DGRAM, *args))
    elif what == 'unix':
        kept.append(unix(*args))
    elif what == 'family':
        kept.append(socket.socket(int(args[0]), int(args[1]), int(args[2])))
def names():
    return ' '.join(str(s.getsockname()) for s in kept if s.family in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX))
open('made.new', 'w').write(names())
os.rename('made.new', 'made')
while not os.path.exists('stop'):
    time.sleep(0.005)
open('end', 'w').write(names())
"""


def start(lab, *words):
    lab.write("program.py", PROGRAM)
    lab.launch(["/usr/bin/python3", "program.py", *words], stdout=subprocess.DEVNULL)
    lab.wait_until("the program has made its sockets", lambda: lab.path("made").exists())
    return lab.path("made").read_text()


def finish(lab):
    lab.write("stop", "")
    assert lab.finish() == 0, lab.tail("restart.stderr")
    assert lab.path("end").read_text() == lab.path("made").read_text()
    lab.wait_gone()


def restart(lab):
    lab.restart(stdout=subprocess.DEVNULL)
    lab.wait_running()


def refused_restart(lab, *patterns):
    """It fails with one line that says what and why, and starts nothing."""
    lab.restart(stdout=subprocess.DEVNULL)
    assert lab.finish() >= LIMIT
    text = lab.tail("restart.stderr")
    lab.path("restart.stderr").unlink()
    # That a user's pids are those of a new namespace is said before.
    assert len([line for line in text.splitlines() if "new pid namespace" not in line]) == 1, text
    for pattern in patterns:
        assert re.search(pattern, text), text
    lab.wait_gone()


def refused_checkpoint(lab, *patterns):
    with pytest.raises(harness.CommandFailed) as failed:
        lab.checkpoint()
    for pattern in patterns:
        assert re.search(pattern, failed.value.output), failed.value.output
    assert lab.images() == []


def port_of(made):
    return int(re.search(r", (\d+)", made).group(1))


users = pytest.mark.parametrize("user", harness.users(), indirect=True)
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="takes root")

# -- taken at the restart -------------------------------------------------------------------------


@users
@pytest.mark.parametrize("kind", ("tcp", "udp"))
@pytest.mark.parametrize("address", ("127.0.0.1", "::1"))
def test_port_is_taken(lab, kind, address):
    port = port_of(start(lab, f"{kind},{address},0"))
    lab.checkpoint_and_kill()
    thief = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET,
                          socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM)
    thief.bind((address, port))
    if kind == "tcp":
        thief.listen(1)
    refused_restart(lab, rf"{re.escape(address)}\]?:{port}\b.*in use")
    thief.close()
    restart(lab)
    finish(lab)


@users
def test_abstract_name_is_taken(lab):
    name = f"dmtcp-test-{os.getpid()}"
    start(lab, f"unix,@{name}")
    lab.checkpoint_and_kill()
    thief = socket.socket(socket.AF_UNIX)
    thief.bind("\0" + name)
    thief.listen(1)
    refused_restart(lab, rf"@{name}\b.*in use")
    thief.close()
    restart(lab)
    finish(lab)


@users
def test_path_is_taken_by_a_socket(lab):
    start(lab, "unix,here")
    lab.checkpoint_and_kill()
    path = lab.path("here")
    path.unlink()
    thief = socket.socket(socket.AF_UNIX)
    thief.bind(str(path))
    os.chmod(path, 0o777)
    thief.listen(1)
    refused_restart(lab, r"/here\b")
    thief.close()
    path.unlink()
    restart(lab)
    finish(lab)


@users
def test_path_is_taken_by_a_file(lab):
    start(lab, "unix,here")
    lab.checkpoint_and_kill()
    lab.path("here").unlink()
    lab.write("here", "somebody's")
    refused_restart(lab, r"/here\b")
    assert lab.path("here").read_text() == "somebody's"
    lab.path("here").unlink()
    restart(lab)
    finish(lab)


@users
def test_directory_of_a_path_is_gone(lab):
    lab.mkdir(lab.path("sub"))
    start(lab, "unix,sub/here")
    lab.checkpoint_and_kill()
    lab.path("sub/here").unlink()
    lab.path("sub").rmdir()
    refused_restart(lab, r"/sub\b")
    lab.mkdir(lab.path("sub"))
    restart(lab)
    finish(lab)


@root_only
@pytest.mark.parametrize("kind", ("tcp", "udp"))
@pytest.mark.parametrize("address", ("10.9.8.7", "fd00:9:8::7"))
def test_address_is_gone(lab, netns, kind, address):
    length = 128 if ":" in address else 32
    flags = ["nodad"] if ":" in address else []
    subprocess.run(["ip", "addr", "add", f"{address}/{length}", "dev", "lo", *flags], check=True)
    start(lab, f"{kind},{address},0")
    lab.checkpoint_and_kill()
    subprocess.run(["ip", "addr", "del", f"{address}/{length}", "dev", "lo"], check=True)
    refused_restart(lab, re.escape(address), "none of this host's")
    subprocess.run(["ip", "addr", "add", f"{address}/{length}", "dev", "lo", *flags], check=True)
    restart(lab)
    finish(lab)


# -- families that are not saved --------------------------------------------------------------------

FAMILIES = {
    "alg": (38, 5, 0), "bluetooth": (31, 3, 1), "can": (29, 3, 1), "kcm": (41, 5, 0), "rds": (21, 5, 0),
    "tipc": (30, 1, 0), "vsock": (40, 1, 0), "xdp": (44, 3, 0), "mptcp": (2, 1, 262), "sctp": (2, 1, 132),
}
NAMES = {"mptcp": "Multipath TCP", "sctp": "SCTP"}


@users
@pytest.mark.parametrize("name", FAMILIES)
def test_family_is_refused_by_name(lab, name):
    try:
        socket.socket(*FAMILIES[name]).close()
    except OSError:
        pytest.skip(f"this kernel has no {name} sockets, or not for everyone")
    if lab.user.uid and name == "xdp":
        pytest.skip("XDP sockets take root")
    start(lab, "family,%d,%d,%d" % FAMILIES[name])
    refused_checkpoint(lab, r"process \d+ \(.*\): fd \d+: ", rf"(?i)\b{NAMES.get(name, name)}\b")
    finish(lab)


# -- the program of a failed checkpoint ---------------------------------------------------------------

# Opens what can't be saved and becomes the program that is tested.
WITH = "import os, socket, sys; s = socket.socket(40, 1, 0); s.set_inheritable(True); os.execv(sys.argv[1], sys.argv[1:])"


@users
@pytest.mark.parametrize("name", ("sock_tcp", "sock_tcp_listen", "sock_udp", "sock_unix", "sock_unix_dgram",
                                  "sock_listen", "sock_rights", "ipc_mqueue", "ipc_sysv", "file_pipe"))
def test_failed_checkpoint_leaves_all_whole(lab, name):
    """One fd of another process can't be saved: everything in flight is where it was."""
    try:
        socket.socket(40, 1, 0).close()
    except OSError:
        pytest.skip("no vsock here, which can't be saved")
    lab.launch(["/usr/bin/python3", "-c", WITH, *lab.program_argv(name)])
    lab.wait_ready()
    for _ in range(3):
        refused_checkpoint(lab, "(?i)vsock")
    verify(lab, Program(name))
    lab.wait_gone()


# -- who dies in the middle -----------------------------------------------------------------------------

PEERS = r"""
import os, socket, sys, time
listener = socket.create_server(('127.0.0.1', 0))
tcp = socket.create_connection(listener.getsockname())
theirs, _ = listener.accept()
unix, theirs_unix = socket.socketpair()
listener.close()
big = bytearray(os.urandom(1 << 20)) * 64
pid = os.fork()
if pid == 0:
    tcp.close(); unix.close()
    theirs.sendall(b'last words'); theirs_unix.sendall(b'last words')
    open('sent', 'w').close()
    while True:
        time.sleep(1)
theirs.close(); theirs_unix.close()
while not os.path.exists('sent'):
    time.sleep(0.002)
open('made.new', 'w').write(str(pid))
os.rename('made.new', 'made')
while not os.path.exists('stop'):
    time.sleep(0.005)
os.waitpid(pid, 0)
for s in (tcp, unix):
    data = b''
    try:
        while d := s.recv(100):
            data += d
    except ConnectionResetError:
        pass
    assert data == b'last words', data
open('end', 'w').write(str(pid))
"""


@users
@pytest.mark.parametrize("number", range(4))
def test_peer_dies_during_a_checkpoint(lab, number):
    """The checkpoint fails with a line or works; the survivor goes on and gets what was sent to it."""
    lab.write("peers.py", PEERS)
    lab.launch(["/usr/bin/python3", "peers.py"], stdout=subprocess.DEVNULL)
    lab.wait_until("the program has a child", lambda: lab.path("made").exists())
    child = harness.read_process(int(lab.path("made").read_text()))
    with open(lab.path("command"), "wb") as output:
        command = lab.popen([lab.bin.command("dmtcp_command"), *lab.where(), "-bc"], stdout=output, stderr=output)
    time.sleep(random.uniform(0, 0.05) + 0.02 * number)
    harness.kill_process(child)
    status = lab.wait_end(command, 60)
    said = lab.path("command").read_text().strip()
    assert status == 0 or (len(said.splitlines()) == 1 and said), said
    if status:
        assert lab.images() == []
    finish(lab)


# -- a buffer that is too small ---------------------------------------------------------------------------


@pytest.fixture
def smaller_tcp_buffers():
    """Makes what the kernel gives to TCP sockets by itself smaller, until the test is over."""
    files = [pathlib.Path("/proc/sys/net/ipv4") / name for name in ("tcp_rmem", "tcp_wmem")]
    before = [file.read_text() for file in files]

    def make():
        for file in files:
            file.write_text("4096 65536 131072")

    yield make
    for file, text in zip(files, before):
        file.write_text(text)


@root_only
@pytest.mark.parametrize("user", [name for name in harness.users() if name == "user"], indirect=True)
@pytest.mark.parametrize("kind", ("tcp", "unix"))
def test_buffer_can_not_be_filled_again(lab, kind, smaller_tcp_buffers):
    """Root has made the buffers larger than the user's restart may, and than the kernel does."""
    with socket.socket() as s:  # an older kernel shows net.core.rmem_max in the first network namespace only
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 29)
        most = s.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2
    size = 4 * most
    if kind == "unix":
        a, b = socket.socketpair()
    else:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            a = socket.create_connection(listener.getsockname())
            b, _ = listener.accept()
    for s in (a, b):
        if kind == "unix":
            s.setsockopt(socket.SOL_SOCKET, 32, size)  # SO_SNDBUFFORCE
        s.setsockopt(socket.SOL_SOCKET, 33, size)  # SO_RCVBUFFORCE
        s.setblocking(False)
        os.set_inheritable(s.fileno(), True)
    total = 0
    try:
        while total < 3 * most:
            if kind == "tcp":
                select.select([], [a], [], 1)
            total += a.send(bytes(1 << 16))
    except BlockingIOError:
        pass
    if kind == "tcp":  # until all of it is at the receiver
        harness.wait_until("all has arrived", lambda: struct.unpack("i", fcntl.ioctl(a, termios.TIOCOUTQ, bytes(4)))[0] == 0)
    text = f"""
import os, socket, time
s = socket.socket(fileno={b.fileno()})
open('made', 'w').write('')
while not os.path.exists('stop'):
    time.sleep(0.005)
n = 0
while n < {total}:
    n += len(s.recv(1 << 20))
open('end', 'w').write('')
"""
    lab.write("program.py", text)
    lab.launch(["/usr/bin/python3", "program.py"], stdout=subprocess.DEVNULL, pass_fds=(a.fileno(), b.fileno()))
    a.close()
    b.close()
    lab.wait_until("the program runs", lambda: lab.path("made").exists())
    lab.checkpoint()
    lab.kill_everything()
    lab.start_coordinator()
    smaller_tcp_buffers()
    refused_restart(lab, r"\d+ bytes|do not fit|does not fit", "fit|larger|room")


# -- System V and POSIX IPC -------------------------------------------------------------------------------

IPC = r"""
import ctypes, os, sys, time
libc = ctypes.CDLL(None, use_errno=True)
def must(r):
    assert r != -1, os.strerror(ctypes.get_errno())
    return r
kind, key = sys.argv[1], sys.argv[2]
def make():
    if kind == 'shm':
        return must(libc.shmget(int(key), 4096, 0o1600))
    if kind == 'sem':
        return must(libc.semget(int(key), 3, 0o1600))
    if kind == 'msg':
        return must(libc.msgget(int(key), 0o1600))
    return must(libc.mq_open(key.encode(), os.O_RDWR | os.O_CREAT, 0o600, None))
def remove(i):
    if kind == 'shm':
        libc.shmctl(i, 0, None)
    elif kind == 'sem':
        libc.semctl(i, 0, 0, 0)
    elif kind == 'msg':
        libc.msgctl(i, 0, None)
    else:
        libc.mq_unlink(key.encode())
if len(sys.argv) > 3:
    if sys.argv[3] == 'make':
        print(make())
    else:
        remove(int(sys.argv[3]))
    sys.exit()
i = make()
if kind == 'shm':
    libc.shmat.restype = ctypes.c_void_p
    libc.shmat(i, None, 0)
open('made.new', 'w').write(str(i))
os.rename('made.new', 'made')
while not os.path.exists('stop'):
    time.sleep(0.005)
remove(i)
open('end', 'w').write(str(i))
"""


def ipc(lab, *args):
    """The program, as the user of the lab, to its end."""
    out = lab.path("ipc")
    with open(out, "wb") as f:
        assert lab.wait_end(lab.popen(["/usr/bin/python3", "ipc.py", *args], stdout=f), 20) == 0
    return out.read_text().strip()


@users
@pytest.mark.parametrize("kind", ("shm", "sem", "msg", "mq"))
def test_ipc_is_taken(lab, ipcns, kind):
    """Somebody has made an object with that key or name meanwhile: his is left alone. (What an ordinary user restarts
    gets an IPC namespace of its own.)"""
    key = f"/dmtcp-test-{os.getpid()}" if kind == "mq" else str(random.randrange(1 << 20, 1 << 30))
    lab.write("ipc.py", IPC)
    # in the second in which the tree began: the object's time is that of the second's start
    harness.wait_until("the end of a second", lambda: 0.7 < time.time() % 1 < 0.8)
    lab.launch(["/usr/bin/python3", "ipc.py", kind, key], stdout=subprocess.DEVNULL)
    lab.wait_until("the program has made its object", lambda: lab.path("made").exists())
    old = lab.path("made").read_text()
    # now the seconds of the two clocks, without their fractions, differ by one more
    ahead = (time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)) % 1
    harness.wait_until("the start of a second", lambda: time.time() % 1 < max(ahead, 0.1))
    lab.checkpoint_and_kill()
    ipc(lab, kind, key, old)
    new = ipc(lab, kind, key, "make")
    try:
        if lab.user.uid or os.geteuid():
            restart(lab)
            finish(lab)
        else:
            refused_restart(lab, key if kind == "mq" else f"{int(key):#x}", "another")
    finally:
        ipc(lab, kind, key, new)  # it is there still
    if not lab.user.uid and os.geteuid() == 0:
        restart(lab)
        finish(lab)
