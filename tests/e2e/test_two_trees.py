"""Two trees of one computation on one host: everything that processes say to each other, with one end in each."""

import os
import subprocess
import time

import pytest

import harness

users = pytest.mark.parametrize("user", harness.users(), indirect=True)

WRITER = r"""
import os, sys, time
i = 0
while not os.path.exists('stop'):
    sys.stdout.write('%d %s\n' % (i, 'x' * (i % 1000)))
    sys.stdout.flush()
    i += 1
    if i % 20 == 0:
        time.sleep(0.001)
sys.stdout.write('last %d\n' % i)
"""

READER = r"""
import sys, time
n = 0
for line in sys.stdin:
    if line.startswith('last'):
        open('result', 'w').write('%s %d' % (line.split()[1], n))
        break
    assert line == '%d %s\n' % (n, 'x' * (n % 1000)), (n, line)
    n += 1
    if n == 100:
        open('begun', 'w').close()
    if n % 50 == 0:
        time.sleep(0.005)   # so that the pipe is full
"""


@users
@pytest.mark.parametrize("pair,mode", (("pipe", "resume"), ("pipe", "restart"), ("socketpair", "restart2")))
def test_pipeline(lab, pair, mode):
    """dmtcp_launch a | dmtcp_launch b"""
    import socket
    lab.write("writer.py", WRITER)
    lab.write("reader.py", READER)
    if pair == "pipe":
        r, w = os.pipe()
        ends = [os.fdopen(r, "rb"), os.fdopen(w, "wb")]
    else:
        ends = list(socket.socketpair())
    writer = lab.launch(["/usr/bin/python3", "writer.py"], stdout=ends[1])
    reader = lab.launch(["/usr/bin/python3", "reader.py"], stdin=ends[0], stdout=subprocess.DEVNULL)
    for end in ends:
        end.close()
    lab.wait_until("the reader reads", lambda: lab.path("begun").exists())
    for _ in range({"resume": 3, "restart": 1, "restart2": 2}[mode]):
        lab.checkpoint()
        if mode != "resume":
            lab.kill_everything()
            lab.restart(stdout=subprocess.DEVNULL)
            lab.wait_running()
        time.sleep(0.05)
    lab.write("stop", "")
    lab.wait_until("the reader has it all", lambda: lab.path("result").exists() and lab.path("result").read_text(), 60)
    sent, got = lab.path("result").read_text().split()
    assert sent == got
    if mode == "resume":
        assert lab.wait_end(writer, 20) == 0 and lab.wait_end(reader, 20) == 0
    else:
        assert lab.finish() == 0, lab.tail("restart.stderr")
    lab.wait_gone()


# Both make what is of the kind, and then talk by turns: `b` answers what `a` asks, with a count.
TALK = r"""
import ctypes, mmap, os, socket, struct, sys, time
kind, role, key = sys.argv[1:4]
libc = ctypes.CDLL(None, use_errno=True)
def must(r):
    if r == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return r
def wait(name):
    while not os.path.exists(name):
        time.sleep(0.002)
def say(name, text=''):
    open(name + '.new', 'w').write(text)
    os.rename(name + '.new', name)

class Stream:
    def __init__(self, family, address):
        if role == 'b':
            self.listener = socket.socket(family)
            if family != socket.AF_UNIX:
                self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self.listener.bind(address)
            self.listener.listen(5)
            say('there', repr(self.listener.getsockname()))
            self.s, _ = self.listener.accept()
        else:
            wait('there')
            self.s = socket.socket(family)
            self.s.connect(eval(open('there').read()))
    def send(self, n):
        self.s.sendall(struct.pack('i', n))
    def receive(self):
        return struct.unpack('i', self.s.recv(4, socket.MSG_WAITALL))[0]

class Datagrams:
    def __init__(self, family, mine):
        self.s = socket.socket(family, socket.SOCK_DGRAM)
        self.s.bind(mine)
        say('at-' + role, repr(self.s.getsockname()))
        other = 'at-' + ('b' if role == 'a' else 'a')
        wait(other)
        self.to = eval(open(other).read())
    def send(self, n):
        self.s.sendto(struct.pack('i', n), self.to)
    def receive(self):
        data, sender = self.s.recvfrom(100)
        assert sender == self.to, (sender, self.to)
        return struct.unpack('i', data)[0]

class SysvQueue:
    def __init__(self):
        self.id = must(libc.msgget(int(key), 0o1600))
    def send(self, n):
        must(libc.msgsnd(self.id, struct.pack('li', 1 if role == 'a' else 2, n), 4, 0))
    def receive(self):
        buf = ctypes.create_string_buffer(12)
        while libc.msgrcv(self.id, buf, 4, ctypes.c_long(2 if role == 'a' else 1), 0) < 0:
            assert ctypes.get_errno() == 4
        return struct.unpack('li', buf.raw)[1]
    def end(self):
        libc.msgctl(self.id, 0, None)

class Shared:   # a word for each direction, and semaphores that say that it is there
    def __init__(self):
        if kind == 'sysv':
            self.shm = must(libc.shmget(int(key), 4096, 0o1600))
            libc.shmat.restype = ctypes.c_void_p
            at = libc.shmat(self.shm, None, 0)
            self.words = (ctypes.c_int * 4).from_address(at)
        else:
            f = open('/dev/shm/dmtcp-test-' + key, 'a+b')
            f.truncate(4096)
            self.map = mmap.mmap(f.fileno(), 4096)
            self.words = (ctypes.c_int * 4).from_buffer(self.map)
        self.sem = must(libc.semget(int(key), 2, 0o1600))
    def op(self, number, n):
        while libc.semop(self.sem, struct.pack('Hhh', number, n, 0), 1) < 0:
            assert ctypes.get_errno() == 4, ctypes.get_errno()
    def send(self, n):
        mine = 0 if role == 'a' else 1
        self.words[mine] = n
        self.op(mine, 1)
    def receive(self):
        theirs = 1 if role == 'a' else 0
        self.op(theirs, -1)
        return self.words[theirs]
    def end(self):
        if kind == 'sysv':
            libc.shmctl(self.shm, 0, None)
        else:
            os.unlink('/dev/shm/dmtcp-test-' + key)
        libc.semctl(self.sem, 0, 0, 0)

class PosixQueue:
    def __init__(self):
        names = [('/dmtcp-test-%s-%d' % (key, i)).encode() for i in range(2)]
        self.names = names
        attr = struct.pack('8l', 0, 8, 16, 0, 0, 0, 0, 0)
        q = [must(libc.mq_open(n, os.O_RDWR | os.O_CREAT, 0o600, attr)) for n in names]
        self.out, self.inn = q if role == 'a' else q[::-1]
    def send(self, n):
        must(libc.mq_send(self.out, struct.pack('i', n), 4, 0))
    def receive(self):
        buf = ctypes.create_string_buffer(16)
        while libc.mq_receive(self.inn, buf, 16, None) < 0:
            assert ctypes.get_errno() == 4
        return struct.unpack('i', buf.raw[:4])[0]
    def end(self):
        for n in self.names:
            libc.mq_unlink(n)

class Fifo:
    def __init__(self):
        for name in ('fifo-a', 'fifo-b'):
            try:
                os.mkfifo(name)
            except FileExistsError:
                pass
        mine = os.open('fifo-' + role, os.O_RDWR)
        theirs = os.open('fifo-' + ('b' if role == 'a' else 'a'), os.O_RDWR)
        self.out, self.inn = mine, theirs
    def send(self, n):
        os.write(self.out, struct.pack('i', n))
    def receive(self):
        return struct.unpack('i', os.read(self.inn, 4))[0]

made = {
    'tcp': lambda: Stream(socket.AF_INET, ('127.0.0.1', 0)),
    'tcp6': lambda: Stream(socket.AF_INET6, ('::1', 0)),
    'unix': lambda: Stream(socket.AF_UNIX, 'socket'),
    'abstract': lambda: Stream(socket.AF_UNIX, '\0dmtcp-test-' + key),
    'udp': lambda: Datagrams(socket.AF_INET, ('127.0.0.1', 0)),
    'dgram': lambda: Datagrams(socket.AF_UNIX, 'socket-' + role),
    'msg': SysvQueue, 'sysv': Shared, 'shm': Shared, 'mq': PosixQueue, 'fifo': Fifo,
}[kind]()
n = 0
ahead = 1 if kind in ('sysv', 'shm') else 2     # one of two is always on its way
if role == 'a':
    while not os.path.exists('stop'):
        for k in range(ahead):
            made.send(n + k)
        for k in range(ahead):
            got = made.receive()
            assert got == n + k, (got, n + k)
        n += ahead
        if n == 100:
            say('begun')
    made.send(-1)
    say('end-a', str(n))
else:
    while True:
        k = made.receive()
        if k == -1:
            break
        assert k == n, (k, n)
        made.send(k)
        n += 1
    if hasattr(made, 'end'):
        made.end()
    say('end-b', str(n))
"""

KINDS = ("tcp", "tcp6", "unix", "abstract", "udp", "dgram", "msg", "sysv", "shm", "mq", "fifo")


# To go on after a checkpoint is the same for everybody.
CASES = [("resume", next(iter(harness.users())))] + [("restart", name) for name in harness.users()]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode,user", CASES, indirect=["user"])
def test_talk(lab, ipcns, kind, mode):
    key = str((os.getpid() << 8 | KINDS.index(kind)) & 0x7fffffff)
    lab.write("talk.py", TALK)
    b = lab.launch(["/usr/bin/python3", "talk.py", kind, "b", key], stdout=subprocess.DEVNULL)
    a = lab.launch(["/usr/bin/python3", "talk.py", kind, "a", key], stdout=subprocess.DEVNULL)
    lab.wait_until("they talk", lambda: lab.path("begun").exists())
    for _ in range(3 if mode == "resume" else 1):
        lab.checkpoint()
        if mode == "restart":
            lab.kill_everything()
            lab.restart(stdout=subprocess.DEVNULL)
            lab.wait_running()
        time.sleep(0.02)
    lab.write("stop", "")
    lab.wait_until("both have ended", lambda: lab.path("end-a").exists() and lab.path("end-b").exists(), 20)
    assert lab.path("end-a").read_text() == lab.path("end-b").read_text()
    if mode == "resume":
        assert lab.wait_end(a, 20) == 0 and lab.wait_end(b, 20) == 0
    else:
        assert lab.finish() == 0
    lab.wait_gone()
