"""Shows the main job (see demo.sh): launch, checkpoint, kill -9 of everything, restart, and the right result.

    demo.py BUILD-DIRECTORY"""

import ctypes
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

LIMIT = 1_300_000
HERE = pathlib.Path(__file__).resolve().parent


def expected(limit):
    """The number of primes below limit, by a sieve: another way than the program's."""
    sieve = bytearray([1]) * limit
    sieve[0:2] = b"\0\0"
    for n in range(2, int(limit ** 0.5) + 1):
        if sieve[n]:
            sieve[n * n::n] = bytes(len(range(n * n, limit, n)))
    return sum(sieve)


def descendants():
    """Pid and name of every process below this one."""
    parents, names = {}, {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                text = pathlib.Path(f"/proc/{entry}/stat").read_text(errors="replace")
            except OSError:
                continue
            names[int(entry)] = text[text.index("(") + 1:text.rindex(")")]
            parents[int(entry)] = int(text[text.rindex(")") + 2:].split()[1])
    found = [os.getpid()]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return {pid: names[pid] for pid in found[1:]}


def kill_everything():
    killed = {}
    while now := descendants():
        killed.update(now)
        for pid in now:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            pass
        time.sleep(0.01)
    return killed


class Demo:
    def __init__(self, build, directory):
        self.build, self.dir = build, directory
        self.output = directory / "output"
        self.port = None

    def start(self, program, *args, **options):
        shown = " ".join(str(a) for a in (program.rsplit("/", 1)[-1], *args))
        print(f"$ {shown.replace(str(self.dir), '…').replace(str(HERE), 'examples')}", flush=True)
        return subprocess.Popen([self.build / program, *map(str, args)], stdin=subprocess.DEVNULL, **options)

    def lines(self):
        return self.output.read_text().splitlines() if self.output.exists() else []

    def wait_for(self, what, condition, seconds=120):
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end:
                sys.exit(f"demo: {what}: nothing happened for {seconds} s")
            time.sleep(0.02)

    def start_coordinator(self):
        port = self.dir / "port"
        self.start("coordinator/dmtcp_coordinator", "-p", "0", "--port-file", port,
                   "--ckptdir", self.dir / "ckpt", stdout=subprocess.DEVNULL)
        self.wait_for("the coordinator's port", lambda: port.exists() and port.read_text().strip())
        self.port = port.read_text().strip()

    def run(self):
        self.start_coordinator()
        with open(self.output, "wb") as output:
            program = self.start("tracer/dmtcp_launch", "-p", self.port, "--ckptdir", self.dir / "ckpt", sys.executable,
                                 HERE / "primes.py", LIMIT, stdout=output)
        self.wait_for("the program", lambda: len(self.lines()) >= 10 or program.poll() is not None)
        print(f"  the program says: {self.lines()[-1]}")
        if self.start("coordinator/dmtcp_command", "-p", self.port, "-bc").wait() != 0:
            sys.exit("demo: the checkpoint failed")
        images = sorted((self.dir / "ckpt").glob("**/*.dmtcp"))
        print(f"  {len(images)} images, {sum(i.stat().st_size for i in images) / 1e6:.1f} MB")
        seen = len(self.lines())
        self.wait_for("the program going on", lambda: len(self.lines()) > seen + 2)
        print(f"  the program went on: {self.lines()[-1]}")
        killed = kill_everything()
        print("$ kill -9 " + " ".join(map(str, killed)) + "   # " + ", ".join(sorted(set(killed.values()))))
        program = self.start("restorer/dmtcp_restart", "-p", self.port, "--ckptdir", self.dir / "ckpt", self.dir / "ckpt")
        status = program.wait()
        for line in self.lines()[-2:]:
            print(f"  the program says: {line}")
        return status

    def judge(self, status):
        right = f"total {expected(LIMIT)}"
        numbers = [int(line.split()[1]) for line in self.lines() if line.startswith("slice")]
        if status == 0 and self.lines()[-1] == right and numbers == list(range(1, len(numbers) + 1)):
            print(f"Right: {right.split()[1]} primes below {LIMIT}, and no line of output lost or doubled.")
            return 0
        print(f"WRONG: status {status}, expected '{right}', lines {numbers}")
        return 1


def main():
    os.environ["DMTCP_QUIET"] = "1"
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER: what detaches itself stays below this process
    with tempfile.TemporaryDirectory(prefix="dmtcp-demo-") as directory:
        demo = Demo(pathlib.Path(sys.argv[1]).resolve(), pathlib.Path(directory))
        try:
            (demo.dir / "ckpt").mkdir()
            return demo.judge(demo.run())
        finally:
            kill_everything()


if __name__ == "__main__":
    sys.exit(main())
