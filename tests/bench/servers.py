#!/usr/bin/env python3
"""What a server's clients see of it: its throughput under launch against bare, and the longest reply across a checkpoint.

    tests/bench/servers.py [--runs N] [--seconds S] [--only redis|nginx] [--mib N] [--dir DIR] [--json FILE]

The same server runs twice, bare and launched, on a CPU of its own. Both are loaded in turn (redis-benchmark, wrk), so that
noise hits both; `ratio` is the median of the pairs' ratios, `±` its standard error. Each pair has new processes: two of
the same program can differ by a few percent for as long as they live (where their pages are). Then a client outside
of the computation asks one thing after the other over one connection (kept: --ext-tcp keep) and notes the longest
reply, for as long as nothing happens and across checkpoints. `still` is what the tracer counted. Redis holds --mib MiB
of values then.
"""

import argparse
import json
import os
import pathlib
import re
import shutil
import socket
import statistics
import subprocess
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

from run import BenchLab, bench_binaries, common_arguments, seconds, table  # noqa: E402

NGINX = """
daemon off; worker_processes 1; pid %(dir)s/nginx.pid; error_log %(dir)s/error.log;
events { worker_connections 64; }
http { access_log off; sendfile on; keepalive_requests 100000000;
  client_body_temp_path %(dir)s/t1; proxy_temp_path %(dir)s/t2; fastcgi_temp_path %(dir)s/t3;
  uwsgi_temp_path %(dir)s/t4; scgi_temp_path %(dir)s/t5;
  server { listen 127.0.0.1:%(port)d; root %(dir)s; } }
"""


# The server has the first CPU, its clients the second, where there are two.
CPUS = sorted(os.sched_getaffinity(0))[:2]


def on_cpu(number, argv):
    return ["taskset", "-c", str(CPUS[number]), *argv] if len(CPUS) == 2 else argv


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Redis:
    name, needs = "redis", ("redis-server", "redis-benchmark")
    question = b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n"

    def __init__(self, directory, options):
        self.port, self.mib = free_port(), options.mib
        directory.mkdir()
        self.argv = ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no",
                     "--dir", str(directory), "--enable-debug-command", "yes", "--protected-mode", "no"]

    def prepare(self):
        with socket.create_connection(("127.0.0.1", self.port)) as s:
            s.settimeout(60)
            for command in (f"DEBUG POPULATE {self.mib * 1024} value 900", "SET k value"):
                s.sendall(command.encode() + b"\r\n")
                if not s.recv(100).startswith(b"+OK"):
                    raise AssertionError(f"redis does not take '{command}'")

    def requests_per_second(self, duration, scale=[20000]):
        done = subprocess.run(on_cpu(1, ["redis-benchmark", "-p", str(self.port), "-t", "get", "-c", "10", "-n", str(scale[0]),
                                         "--csv"]), check=True, capture_output=True, text=True)
        rate = float(done.stdout.strip().splitlines()[-1].split(",")[1].strip('"'))
        scale[0] = max(1000, int(rate * duration))  # the next takes as long as it should
        return rate


class Nginx:
    name, needs = "nginx", ("nginx", "wrk")
    question = b"GET /file HTTP/1.1\r\nHost: localhost\r\n\r\n"

    def __init__(self, directory, options):
        self.port = free_port()
        directory.mkdir()
        directory.chmod(0o755)
        (directory / "file").write_bytes(b"n" * 1000)
        (directory / "nginx.conf").write_text(NGINX % {"dir": directory, "port": self.port})
        self.argv = [shutil.which("nginx", path="/usr/sbin:" + os.environ["PATH"]), "-p", str(directory), "-c",
                     str(directory / "nginx.conf"), "-e", str(directory / "error.log")]

    def prepare(self):
        pass

    def requests_per_second(self, duration):
        done = subprocess.run(on_cpu(1, ["wrk", "-t", "1", "-c", "10", "-d", f"{max(1, round(duration))}s",
                                         f"http://127.0.0.1:{self.port}/file"]), check=True, capture_output=True, text=True)
        return float(re.search(r"Requests/sec:\s+([0-9.]+)", done.stdout)[1])


class Client(threading.Thread):
    """Asks until it is told to stop; `longest` is of the replies since it was last set to 0."""

    def __init__(self, server):
        super().__init__(daemon=True)
        self.socket, self.question = socket.create_connection(("127.0.0.1", server.port)), server.question
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.longest, self.replies, self.stop, self.failure = 0, 0, False, None

    def run(self):
        try:
            while not self.stop:
                begin = time.monotonic()
                self.socket.sendall(self.question)
                if not self.socket.recv(65536):
                    raise OSError("the connection ended")
                self.longest = max(self.longest, time.monotonic() - begin)
                self.replies += 1
        except OSError as e:
            self.failure = e


def wait_listening(server, process):
    for _ in range(1000):
        try:
            socket.create_connection(("127.0.0.1", server.port)).close()
            return
        except OSError:
            if process.poll() is not None:
                raise AssertionError(f"{server.name} ended with {process.returncode}") from None
            time.sleep(0.01)
    raise AssertionError(f"{server.name} does not listen")


def watch(client, duration):
    client.longest = 0
    time.sleep(duration)
    if client.failure:
        raise AssertionError(f"the client: {client.failure}")
    return client.longest


def rates(lab, kind, number, options):
    """Requests per second of a pair of new processes: bare, launched."""
    servers = [kind(pathlib.Path(lab.path(f"{name}{number}")), options) for name in ("bare", "ours")]
    order = (0, 1) if number % 2 else (1, 0)
    found = [[], []]
    processes = [lab.popen(on_cpu(0, servers[0].argv), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL),
                 lab.launch(on_cpu(0, servers[1].argv), stdout=subprocess.DEVNULL)]
    for server, process in zip(servers, processes):
        wait_listening(server, process)
        server.requests_per_second(options.seconds / 4)  # warm
    for which in order + order[::-1]:
        found[which].append(servers[which].requests_per_second(options.seconds))
    for process in processes:
        process.terminate()
        process.wait()
    return [statistics.mean(f) for f in found]


def throughput(binaries, directory, kind, options):
    pairs = []
    for number in range(options.runs):
        lab = BenchLab(binaries, directory)
        try:
            pairs.append(rates(lab, kind, number, options))
        finally:
            lab.close()
    ratios = [ours / bare for bare, ours in pairs]
    return {"bare": statistics.median(b for b, _ in pairs), "launched": statistics.median(o for _, o in pairs),
            "ratio": statistics.median(ratios),
            # of a median, for a normal distribution: 1.2533 of the mean's
            "error": 1.2533 * statistics.stdev(ratios) / len(ratios) ** 0.5 if len(ratios) > 1 else 0}


def replies(lab, server, options):
    client = Client(server)
    client.start()
    found = {"quiet": watch(client, options.seconds), "across": [], "still": [], "complete": []}
    for _ in range(options.runs + 1):
        client.longest = 0
        found["complete"].append(lab.timed_checkpoint())
        before = client.replies
        lab.wait_until("the client has replies again", lambda: client.failure or client.replies > before, 30)
        if client.failure:
            raise AssertionError(f"the client: {client.failure}")
        found["across"].append(client.longest)
        found["still"].append(lab.status()["last_frozen_seconds"])
    client.stop = True
    return {name: statistics.median(v[1:]) if isinstance(v, list) else v for name, v in found.items()}


def reply_times(binaries, directory, kind, options):
    lab = BenchLab(binaries, directory)
    try:
        server = kind(pathlib.Path(lab.path("server")), options)
        lab.launch(server.argv, "--compress", "none", "--ext-tcp", "keep", stdout=subprocess.DEVNULL)
        wait_listening(server, lab.program)
        server.prepare()
        return replies(lab, server, options)
    finally:
        lab.close()


def measure(binaries, directory, kind, options):
    return {**throughput(binaries, directory, kind, options), **reply_times(binaries, directory, kind, options)}


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    common_arguments(parser, 5)
    parser.add_argument("--seconds", type=float, default=2, help="how long each time (default 2)")
    parser.add_argument("--mib", type=int, default=100, help="what redis holds (default 100)")
    parser.add_argument("--only", choices=("redis", "nginx"))
    return parser.parse_args()


def main():
    options = parse()
    rows = [("server", "bare", "launched", "ratio", "±", "longest reply", "across a checkpoint", "still", "complete")]
    numbers = {}
    with bench_binaries() as binaries:
        for kind in (Redis, Nginx):
            missing = [c for c in kind.needs if not shutil.which(c, path="/usr/sbin:" + os.environ["PATH"])]
            if missing or options.only not in (None, kind.name):
                if missing:
                    print(f"{kind.name}: {missing[0]} is not installed", file=sys.stderr)
                continue
            m = numbers[kind.name] = measure(binaries, pathlib.Path(options.dir).resolve(), kind, options)
            rows.append((kind.name, f"{m['bare']:.0f}/s", f"{m['launched']:.0f}/s", f"{m['ratio']:.3f}", f"{m['error']:.3f}",
                         seconds(m["quiet"]), seconds(m["across"]), seconds(m["still"]), seconds(m["complete"])))
        table(rows)
    if options.json:
        pathlib.Path(options.json).write_text(json.dumps(numbers, indent=1) + "\n")


if __name__ == "__main__":
    main()
