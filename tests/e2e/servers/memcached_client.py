"""memcached with several connections over TCP and one over UDP: what was set is there, counters count, and what a
compare-and-swap says is right."""

import random
import socket

import common
from common import PORT, check, connect, equal, rounds


class Memcached:
    def __init__(self):
        self.file = connect().makefile("rwb")

    def line(self):
        self.file.flush()
        line = self.file.readline()
        check(line.endswith(b"\r\n"), "the connection ended:", line)
        return line[:-2]

    def store(self, how, key, value, *more):
        self.file.write(b" ".join([how, key, b"0", b"0", b"%d" % len(value), *more]) + b"\r\n" + value + b"\r\n")

    def get(self, *keys):
        """The values, with the numbers that cas needs."""
        self.file.write(b"gets " + b" ".join(keys) + b"\r\n")
        found = {}
        while (line := self.line()) != b"END":
            _, key, _, size, unique = line.split(b" ")
            found[key] = (self.file.read(int(size) + 2)[:-2], unique)
        return found


def value(name, number):
    chance = random.Random(f"{name} {number}")
    return chance.randbytes(chance.randrange(1, 50000))


def use(name):
    server = Memcached()
    name = name.encode()
    server.store(b"set", name + b"count", b"0")
    equal(server.line(), b"STORED", "set")
    for number in rounds():
        keys = [name + b"%d" % i for i in range(10)]
        for i, key in enumerate(keys):
            server.store(b"set", key, value(name, number * 10 + i))
        for _ in keys:
            equal(server.line(), b"STORED", "set")
        found = server.get(*keys)
        for i, key in enumerate(keys):
            equal(found[key][0], value(name, number * 10 + i), f"{key} in round {number}")
        server.store(b"cas", keys[0], b"new", found[keys[0]][1])
        equal(server.line(), b"STORED", "cas of what nobody changed")
        server.store(b"cas", keys[0], b"newer", found[keys[0]][1])
        equal(server.line(), b"EXISTS", "cas of what was changed")
        server.file.write(b"incr " + name + b"count 1\r\n")
        equal(server.line(), b"%d" % (number + 1), "incr")


def by_udp():
    """Requests of one datagram; the reply has the same number."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.connect(("127.0.0.1", PORT))
    for number in rounds():
        head = (number % 65536).to_bytes(2, "big") + bytes([0, 0, 0, 1, 0, 0])
        sock.send(head + b"set udp 0 0 %d\r\n%d\r\n" % (len(str(number)), number))
        equal(sock.recv(2000), head + b"STORED\r\n", "set by UDP")
        sock.send(head + b"get udp\r\n")
        equal(sock.recv(2000), head + b"VALUE udp 0 %d\r\n%d\r\nEND\r\n" % (len(str(number)), number), "get by UDP")


def main():
    server = common.start("memcached", "-l", "127.0.0.1", "-p", PORT, "-U", PORT, "-t", "4", "-m", "64",
                          *(["-u", "nobody"] if common.os.geteuid() == 0 else []))
    connect().close()
    common.in_threads((use, "a"), (use, "b"), (use, "c"), by_udp)
    common.end(server)
    common.done()


main()
