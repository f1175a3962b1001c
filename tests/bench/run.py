#!/usr/bin/env python3
"""How long checkpoints and restarts take, how long a program stands still, and what being launched costs.

    tests/bench/run.py [--runs N] [--quick] [--sockets] [--only NAME,...] [--dir DIR] [--json FILE]

Every time is the median of N runs, with the machine's own limit for the same work, measured in the same run, next
to it. Needs a build (DMTCP_BUILD, default: build/); one with -Dbuildtype=release gives the numbers that count.

Columns: `complete` is how long dmtcp_command -bc took (`nosync`: with DMTCP_NO_FSYNC=1); `still` is what the
tracer counted from the first to the last process, `seen` the longest gap in any process's own clock loop; `restart`
is from the start of dmtcp_restart to the last process's first step, which it noted itself. The loops wake up now
and then only (`tick`), so `seen` and `restart` are up to one tick too long.

DMTCP_LOG_LEVEL=trace with DMTCP_TRACER_LOG or DMTCP_RESTART_LOG goes through to the commands, to see what takes the
time.
"""

import argparse
import contextlib
import json
import mmap
import os
import pathlib
import signal
import statistics
import struct
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "e2e"))

from harness import BUILD, Binaries, Lab, become_subreaper, descendants, kill_all_descendants, User  # noqa: E402

SLOT, HEAD, SLOTS = 64, 64, 1024
PASS_ON = ("DMTCP_LOG_LEVEL", "DMTCP_TRACER_LOG", "DMTCP_RESTART_LOG")
MIB = 1 << 20


class Load:
    """One thing that is checkpointed: the arguments of bench_load and what the machine must do for it at least."""

    def __init__(self, name, kind, count, content="0", options=("--compress", "none"), processes=1, threads=0,
                 mib=0, what=None):
        self.name, self.options, self.processes, self.threads, self.mib = name, options, processes, threads, mib
        self.argv = [kind, count, content]
        self.what = what or content
        self.compress = options[1] != "none"
        self.tick_us = 1000 if processes < 20 else 10000

    def limits(self, limit, disk, image):
        """Seconds: complete with and without the disk, standing still, restart."""
        size, packed = self.mib * MIB, limit.get(f"lz4-{self.what}")
        copy = size / (packed if self.compress and packed else limit["copy"])
        unpack = size / (limit[f"unlz4-{self.what}"] if self.compress and self.what != "random" else limit["copy-fault"])
        make = (self.processes - 1) * limit["fork"] + self.threads * limit["thread"]
        return {"complete": max(copy, image / disk), "nosync": copy, "still": copy,
                "restart": make + (max(unpack, size / limit["copy-fault"]) if self.what != "zero" else 0)}


def memory(mib, content, compress):
    how = "lz4" if compress else "raw"
    return Load(f"{mib} MiB {content} {how}", "memory", mib, content, ("--compress", "lz4" if compress else "none"),
                mib=mib)


def loads(options):
    big = 128 if options.quick else 1024
    threads, processes, small = (50, 5, 20) if options.quick else (500, 50, 200)
    found = [Load("small process", "memory", 0)]
    found += [memory(big, content, compress)
              for content in ("zero", "compressible", "random") for compress in (False, True)]
    found += [Load(f"{threads} threads", "threads", threads, threads=threads),
              Load(f"{processes} processes x 8 MiB", "processes", processes, "8", processes=processes,
                   mib=8 * processes, what="compressible"),
              Load(f"{small} small processes", "processes", small, processes=small)]
    if options.sockets:
        for kind, many, text in (("unix", 1000, "unix socket pairs"), ("tcp", 1000, "TCP connections"),
                                 ("pipes", 10000, "pipes")):
            for n in (many // 10, many):
                found.append(Load(f"{n} {text}", kind, n, processes=2 if kind == "pipes" else 1))
    if options.only:
        found = [x for x in found if any(word in x.name for word in options.only.split(","))]
    return found


# ---------------------------------------------------------------------------------------------
# What the machine can do


def machine_limits(binaries):
    text = subprocess.run([str(binaries / "bench_limit")], check=True, capture_output=True, text=True).stdout
    return {name: float(value) for name, value in (line.split() for line in text.splitlines())}


def disk_limit(directory, mib):
    """Bytes a second that dd with O_DIRECT writes, durable at its end; without O_DIRECT where it doesn't exist."""
    path = directory / "dd"
    for direct in (["oflag=direct"], []):
        begin = time.monotonic()
        done = subprocess.run(["dd", "if=/dev/zero", f"of={path}", "bs=4M", f"count={mib // 4}", "conv=fdatasync",
                               *direct], capture_output=True)
        took = time.monotonic() - begin
        path.unlink(missing_ok=True)
        if done.returncode == 0:
            return mib * MIB / took
    raise SystemExit(f"dd to {directory}: {done.stderr.decode().strip()}")


# ---------------------------------------------------------------------------------------------
# Checkpoint and restart


class Stamps:
    """The file that all processes of a load map: see load.c."""

    def __init__(self, path, processes):
        path.write_bytes(bytes(HEAD + SLOT * SLOTS))
        self.processes = processes
        with open(path, "r+b") as f:
            self.map = mmap.mmap(f.fileno(), HEAD + SLOT * SLOTS)

    def ready(self):
        return struct.unpack_from("Q", self.map, 8)[0] >= self.processes

    def begin(self):
        """A new round; returns when it began, on the clock that the load reads."""
        now = time.monotonic_ns()
        struct.pack_into("Q", self.map, 0, now)
        return now

    def slots(self):
        return [struct.unpack_from("QQQQ", self.map, HEAD + i * SLOT) for i in range(self.processes)]

    def all_in_round(self):
        """Has every process noted a step in this round?"""
        begin = struct.unpack_from("Q", self.map, 0)[0]
        return all(slot[0] == begin for slot in self.slots())

    def longest(self):
        return max(slot[3] for slot in self.slots()) / 1e9

    def last_first(self):
        return max(slot[1] for slot in self.slots())


class BenchLab(Lab):
    def __init__(self, binaries, directory):
        os.environ["TMPDIR"] = str(directory)
        super().__init__(binaries, User("root" if os.geteuid() == 0 else "user", None))
        self.more = {}

    def env(self, **more):
        return super().env(**{**{k: os.environ[k] for k in PASS_ON if k in os.environ}, **self.more, **more})

    def status(self):
        done = subprocess.run([self.bin.command("dmtcp_command"), *self.where(), "--json", "--status"],
                              check=True, capture_output=True, text=True, env=self.env())
        return json.loads(done.stdout)

    def timed_checkpoint(self):
        begin = time.monotonic()
        self.run("dmtcp_command", *self.where(), "-bc", seconds=300)
        return time.monotonic() - begin


def start(lab, load, stamps, programs):
    lab.launch([programs / "bench_load", lab.path("stamps"), str(load.tick_us), *map(str, load.argv)],
               *load.options, stdout=subprocess.DEVNULL)

    def ready():
        if lab.program.poll() is not None:
            raise AssertionError(f"the load ended with {lab.program.returncode}: {lab.tail('stderr')}")
        return stamps.ready()

    lab.wait_until(f"{load.name} is set up", ready, 120)
    time.sleep(0.3)  # page faults and wake-ups of the set-up are over


def checkpoints(lab, stamps, runs, into, times):
    lab.timed_checkpoint()  # the first finds cold caches; it is not what repeated checkpoints cost
    for _ in range(runs):
        os.sync()  # what others wrote is not waited for
        stamps.begin()
        times[into].append(lab.timed_checkpoint())
        lab.wait_until("every process runs", stamps.all_in_round, 60)
        status = lab.status()
        times["still"].append(status["last_frozen_seconds"])
        times["seen"].append(stamps.longest())
        times["image"].append(status["last_bytes"])


def restarts(lab, stamps, runs, times):
    for _ in range(runs):
        lab.kill_everything()
        lab.start_coordinator()
        begin = stamps.begin()
        lab.restart(stdout=subprocess.DEVNULL)

        def running():
            if lab.program.poll() is not None:
                raise AssertionError(f"dmtcp_restart ended with {lab.program.returncode}: {lab.tail('stderr')}")
            return stamps.all_in_round()

        lab.wait_until("every process runs again", running, 120, 0.01)
        times["restart"].append((stamps.last_first() - begin) / 1e9)


def measure(binaries, directory, load, runs):
    """Medians in seconds (and bytes) by name."""
    times = {name: [] for name in ("complete", "nosync", "still", "seen", "image", "restart")}
    for into in ("nosync", "complete"):
        lab = BenchLab(binaries, directory)
        if into == "nosync":
            lab.more["DMTCP_NO_FSYNC"] = "1"
        try:
            stamps = Stamps(lab.path("stamps"), load.processes)
            start(lab, load, stamps, binaries.bench)
            checkpoints(lab, stamps, runs, into, times)
            if into == "complete":
                restarts(lab, stamps, runs, times)
        finally:
            lab.close()
    return {name: statistics.median(values) for name, values in times.items()}


# ---------------------------------------------------------------------------------------------
# Being launched


def run_text(lab, argv):
    done = subprocess.run([str(a) for a in argv], check=True, capture_output=True, text=True, env=lab.env(),
                          cwd=lab.dir, stdin=subprocess.DEVNULL)
    return done.stdout


def first_output(lab, argv):
    begin = time.monotonic()
    program = subprocess.Popen([str(a) for a in argv], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=lab.env(),
                               cwd=lab.dir, stdin=subprocess.DEVNULL)
    program.stdout.read(1)
    took = time.monotonic() - begin
    _, said = program.communicate()
    if program.returncode != 0:
        raise AssertionError(f"{argv[0]}: status {program.returncode}: {said.decode()}")
    return took


def launched(binaries, directory, options):
    """Lists of (what, bare, launched, unit)."""
    lab = BenchLab(binaries, directory)
    work, scale, found = binaries.bench / "bench_work", 10 if options.quick else 1, []
    try:
        lab.start_coordinator()
        launch = [binaries.command("dmtcp_launch"), "--ckptdir", lab.ckptdir]
        joined = [*launch, *lab.where(), work]
        for kind, n in (("fork", 4000), ("thread", 20000), ("signal", 500000), ("compute", 60000)):
            pairs = [(float(run_text(lab, [work, kind, n // scale])), float(run_text(lab, [*joined, kind, n // scale])))
                     for _ in range(options.runs * 2 + 1)]  # in turns, so that noise hits both
            found.append((kind, *(statistics.median(column) for column in zip(*pairs))))
        pairs = [(first_output(lab, [work, "hello"]), first_output(lab, [*joined, "hello"]))
                 for _ in range(options.runs * 4)]
        found.append(("first output", *(statistics.median(column) for column in zip(*pairs))))
        pairs = []
        for i in range(options.runs):
            bare = first_output(lab, [work, "hello"])
            port_file = lab.path(f"own-port-{i}")
            pairs.append((bare, first_output(lab, [*launch, "--new-coordinator", "-p", "0", "--port-file", port_file,
                                                   "--coord-logfile", lab.path("own.log"), work, "hello"])))
        found.append(("first output, coordinator started", *(statistics.median(column) for column in zip(*pairs))))
    finally:
        lab.close()
    return found


# ---------------------------------------------------------------------------------------------
# Telling


def seconds(s):
    return f"{s * 1000:.0f} ms" if 0.0095 <= s < 1 else f"{s * 1000:.1f} ms" if s < 0.0095 else f"{s:.2f} s"


def size(n):
    return f"{n / MIB:.0f} MiB" if n >= 10 * MIB else f"{n / 1024:.0f} KiB"


def table(rows):
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for number, row in enumerate(rows):
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths)) + " |")
        if number == 0:
            print("| " + " | ".join("-" * width for width in widths) + " |")
    print(flush=True)


def common_arguments(parser, runs):
    parser.add_argument("--runs", type=int, default=runs, help=f"how often everything is measured (default {runs})")
    parser.add_argument("--dir", default=os.environ.get("TMPDIR", "/tmp"), help="where images go (default TMPDIR)")
    parser.add_argument("--json", help="all numbers into this file")


@contextlib.contextmanager
def bench_binaries():
    """The programs under test; in the end everything that was started is killed."""
    become_subreaper()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # what was started is killed then too
    binaries = Binaries()
    binaries.bench = BUILD / "tests" / "bench"
    try:
        yield binaries
    finally:
        kill_all_descendants()
        binaries.remove()


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    common_arguments(parser, 3)
    parser.add_argument("--quick", action="store_true", help="an eighth of the memory, a tenth of the rest")
    parser.add_argument("--sockets", action="store_true", help="also unix sockets, TCP connections and pipes")
    parser.add_argument("--only", help="loads whose name contains one of these words; launched: the cost of it")
    return parser.parse_args()


def say_limits(limit, disk):
    print("The machine: " + ", ".join(f"{name} {value / 1e9:.2f} GB/s" for name, value in
                                      [*((n, v) for n, v in limit.items() if v > 1000 and n != "warm"
                                         and n != "unlz4-random"), ("disk", disk)])
          + f", fork {limit['fork'] * 1e6:.0f} us, thread {limit['thread'] * 1e6:.0f} us\n", flush=True)


def main():
    options = parse()
    directory = pathlib.Path(options.dir).resolve()
    numbers, failed = {}, 0
    with bench_binaries() as binaries:
        limit, disk = machine_limits(binaries.bench), disk_limit(directory, 64 if options.quick else 512)
        numbers["limits"] = {**limit, "disk": disk}
        say_limits(limit, disk)
        names = ("complete", "nosync", "still", "seen", "restart")
        rows = [("load", "complete", "limit", "nosync", "limit", "still", "seen", "image", "restart", "limit")]
        for load in loads(options):
            try:
                m = measure(binaries, directory, load, options.runs)
            except AssertionError as e:
                print(f"{load.name}: {e}", file=sys.stderr, flush=True)
                failed = 1
                continue
            floor = load.limits(limit, disk, m["image"])
            numbers[load.name] = {**m, "limits": floor}
            rows.append((load.name, seconds(m["complete"]), seconds(floor["complete"]), seconds(m["nosync"]),
                         seconds(floor["nosync"]), seconds(m["still"]), seconds(m["seen"]), size(m["image"]),
                         seconds(m["restart"]), seconds(floor["restart"])))
            print("  " + "  ".join((load.name, *(f"{n} {seconds(m[n])}" for n in names))), file=sys.stderr, flush=True)
        if len(rows) > 1:
            table(rows)
        if not options.only or "launched" in options.only.split(","):
            rows = [("being launched", "bare", "launched", "extra", "ratio")]
            for name, bare, ours in launched(binaries, directory, options):
                numbers[name] = {"bare": bare, "launched": ours}
                rows.append((name, seconds(bare), seconds(ours), seconds(max(ours - bare, 0)), f"{ours / bare:.3f}"))
            table(rows)
    if options.json:
        pathlib.Path(options.json).write_text(json.dumps(numbers, indent=1) + "\n")
    return failed


if __name__ == "__main__":
    sys.exit(main())
