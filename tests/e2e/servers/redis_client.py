"""redis with an append-only file: pipelined writers that know what must be there, a publisher with subscribers,
a blocking list, transactions and a benchmark of redis's own; at the end the data of the server must be those which
another server reads from the append-only file."""

import hashlib
import random
import subprocess

import common
from common import PORT, check, connect, equal, rounds


class Redis:
    """The protocol: arrays of bulk strings go there, all five kinds of replies come back."""

    def __init__(self, port=PORT):
        self.file = connect(port).makefile("rwb")

    def send(self, *words):
        words = [word if isinstance(word, bytes) else str(word).encode() for word in words]
        self.file.write(b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(w), w) for w in words))

    def receive(self):
        self.file.flush()
        line = self.file.readline()
        check(line.endswith(b"\r\n"), "the connection ended:", line)
        kind, rest = line[:1], line[1:-2]
        check(kind != b"-", "redis says", rest)
        if kind == b"+":
            return rest
        if kind == b":":
            return int(rest)
        if int(rest) < 0:
            return None
        if kind == b"$":
            return self.file.read(int(rest) + 2)[:-2]
        return [self.receive() for _ in range(int(rest))]

    def ask(self, *words):
        self.send(*words)
        return self.receive()


def value(name, number):
    chance = random.Random(f"{name} {number}")
    return chance.randbytes(chance.randrange(1, 20000))


def write_and_read(name):
    """One key after the other, several commands on their way at a time."""
    redis = Redis()
    for number in rounds():
        for i in range(8):
            redis.send("SET", f"{name}:{i}", value(name, number * 8 + i))
            redis.send("INCR", f"{name}:count")
        for i in range(8):
            equal(redis.receive(), b"OK", "SET")
            equal(redis.receive(), number * 8 + i + 1, "INCR")
        for i in range(8):
            redis.send("GET", f"{name}:{i}")
        for i in range(8):
            equal(redis.receive(), value(name, number * 8 + i), f"{name}:{i} in round {number}")
        redis.send("MULTI")
        redis.send("RPUSH", f"{name}:list", number)
        redis.send("LLEN", f"{name}:list")
        redis.send("EXEC")
        equal([redis.receive() for _ in range(4)], [b"OK", b"QUEUED", b"QUEUED", [number + 1] * 2], "MULTI")


def publish(subscribers):
    redis = Redis()
    for number in rounds():
        equal(redis.ask("PUBLISH", "news", f"{number} " + "x" * (number % 5000)), subscribers, "number of subscribers")
        redis.ask("LPUSH", "tasks", number)
        equal(redis.ask("BRPOP", "results", 0), [b"results", b"%d" % (number * 2)], "result")
    redis.ask("PUBLISH", "news", "end")
    redis.ask("LPUSH", "tasks", "end")


def subscribe(ready):
    redis = Redis()
    equal(redis.ask("SUBSCRIBE", "news"), [b"subscribe", b"news", 1], "SUBSCRIBE")
    ready.release()
    number = 0
    while (message := redis.receive()) != [b"message", b"news", b"end"]:
        equal(message, [b"message", b"news", b"%d " % number + b"x" * (number % 5000)], "message")
        number += 1


def work_on_tasks():
    waiting, answering = Redis(), Redis()
    while (task := waiting.ask("BRPOP", "tasks", 0)[1]) != b"end":
        answering.ask("LPUSH", "results", int(task) * 2)


def benchmark():
    for _ in rounds():
        said = subprocess.run(["redis-benchmark", "-p", str(PORT), "-q", "-n", "500", "-c", "5", "-t", "lpush,lpop"],
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        check(said.returncode == 0 and "rror" not in said.stdout, "redis-benchmark:", said)
        if common.STOP.exists():
            return


def digest(port):
    redis = Redis(port)
    keys = sorted(redis.ask("KEYS", "*"))
    sum = hashlib.sha256()
    for key in keys:
        sum.update(key + redis.ask("DUMP", key))
    return len(keys), sum.hexdigest()


def server(port):
    return common.start("redis-server", "--port", port, "--bind", "127.0.0.1", "--appendonly", "yes", "--save", "",
                        "--appendfsync", "everysec", "--dir", ".", "--logfile", "redis.log", "--enable-debug-command", "yes")


def main():
    redis = server(PORT)
    subscribed = common.threading.Semaphore(0)
    import threading
    subscribers = [threading.Thread(target=common.guarded, args=(subscribe, subscribed)) for _ in range(3)]
    worker = threading.Thread(target=common.guarded, args=(work_on_tasks,))
    for thread in [*subscribers, worker]:
        thread.start()
    for _ in subscribers:
        subscribed.acquire()
    common.in_threads((publish, len(subscribers)), (write_and_read, "a"), (write_and_read, "b"), benchmark)
    for thread in [*subscribers, worker]:
        thread.join()
    before = digest(PORT)
    said = subprocess.run(["redis-cli", "-p", str(PORT), "get", "a:count"], stdout=subprocess.PIPE, text=True).stdout
    equal(said.strip(), Redis().ask("GET", "a:count").decode(), "what redis-cli says")
    common.end(redis)
    redis = server(PORT)
    Redis()
    while Redis().ask("INFO", "persistence").find(b"\nloading:0") < 0:
        common.time.sleep(0.02)
    equal(digest(PORT), before, "what was in the append-only file")
    common.end(redis)
    common.done()


main()
