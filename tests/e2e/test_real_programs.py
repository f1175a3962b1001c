"""Real programs from Debian's packages: each runs uninterrupted, then with checkpoints at random instants, then
through checkpoint, SIGKILL of everything and restart, several times, restarts of restarts among them. What
comes out must be the same each time.

DMTCP_ROUNDS checkpoints or restarts of each (default 3); DMTCP_STORM_SEED repeats a run."""

import dataclasses
import fcntl
import hashlib
import os
import pty
import random
import select
import shutil
import struct
import subprocess
import termios
import time
from typing import Callable

import pytest

import harness

ROUNDS = int(os.environ.get("DMTCP_ROUNDS", "3"))
SEED = int(os.environ.get("DMTCP_STORM_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 30)
REAL = harness.ROOT / "tests" / "e2e" / "real"


@dataclasses.dataclass
class Real:
    """One real program. prepare(lab) makes its files in the lab's directory and returns its argv; result(lab)
    returns what came out. at_once: it changes files that it does not only append to, so it must not run on
    between checkpoint and kill (dmtcp_command -kc)."""

    name: str
    needs: tuple
    prepare: Callable
    result: Callable = lambda lab: lab.tail("stdout", 1 << 30)
    at_once: bool = False
    first: float = 0.2  # seconds until the first checkpoint, at least
    most: float = 0.4  # seconds between checkpoints, at most
    large: bool = False  # only with DMTCP_TEST_ALL=1 (run-tests.sh --all)


def need(*commands):
    for command in commands:
        if not shutil.which(command):
            pytest.skip(f"{command} is not installed")


def copy_in(lab, name):
    return lab.write(name, (REAL / name).read_bytes(), 0o755)


def random_bytes(size, seed):
    """Half random, half text that compresses."""
    chance = random.Random(seed)
    words = [bytes(chance.choices(range(97, 123), k=chance.randrange(2, 10))) for _ in range(500)]
    parts, total = [], 0
    while total < size:
        part = chance.randbytes(2000) if chance.random() < 0.5 else b" ".join(chance.choices(words, k=400)) + b"\n"
        parts.append(part)
        total += len(part)
    return b"".join(parts)[:size]


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else "missing"


# -- how each is set up -----------------------------------------------------------------------------


def script(name, interpreter, *args):
    return lambda lab: [*interpreter, copy_in(lab, name), *args]


def make_project(lab):
    """A C project of many files whose objects take a moment each."""
    files = 24
    header = "".join(f"unsigned f{i}(unsigned);\n" for i in range(files))
    lab.write("project/all.h", "#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n" + header)
    for i in range(files):
        body = "".join(f"static unsigned g{k}(unsigned x) {{ unsigned a[8] = {{x}}; for (int i = 1; i < 8; i++) "
                       f"a[i] = a[i - 1] * {2 * k + 3}u + {i}; return a[7] ^ a[x % 8]; }}\n" for k in range(40))
        calls = "".join(f"    x += g{k}(x);\n" for k in range(40))
        lab.write(f"project/f{i}.c", f'#include "all.h"\n{body}unsigned f{i}(unsigned x)\n{{\n{calls}    return x;\n}}\n')
    calls = "".join(f"    x = f{i}(x);\n" for i in range(files))
    lab.write("project/main.c", f'#include "all.h"\nint main(void)\n{{\n    unsigned x = 1;\n{calls}    printf("%u\\n", x);\n'
                                "    return 0;\n}\n")
    objects = " ".join(f"f{i}.o" for i in range(files)) + " main.o"
    lab.write("project/Makefile", f"program: {objects}\n\tgcc -o $@ $^\n%.o: %.c all.h\n\tgcc -O2 -c -o $@ $<\n"
                                  "check: program\n\t./program > out\n")
    lab.mkdir(lab.path("project"))
    return ["make", "-s", "-j2", "-C", "project", "check"]


def made(lab):
    objects = sorted(lab.path("project").glob("*.o"))
    return [lab.tail("project/out"), *(sha256(path) for path in objects), sha256(lab.path("project/program"))]


def tar_pipeline(lab):
    for i in range(12):
        lab.write(f"data/part{i}", random_bytes(700_000, i))
    lab.mkdir(lab.path("data"))
    return ["sh", "-c", "tar -c --sort=name --mtime=@0 --owner=0 --group=0 --format=gnu data | xz -6 -T1 | sha256sum"]


def big_sort(lab):
    chance = random.Random(5)
    lab.write("unsorted", "".join(f"{chance.randrange(1 << 60):x} {i}\n" for i in range(1_200_000)))
    return ["sort", "-S", "3M", "--parallel=2", "-T", ".", "-o", "sorted", "unsorted"]


def go_binary(lab):
    need("go")
    copy_in(lab, "work.go")
    env = dict(os.environ, CGO_ENABLED="0", GOCACHE=str(lab.path("gocache")), GO111MODULE="off", HOME=str(lab.dir))
    subprocess.run(["go", "build", "-o", "work", "work.go"], cwd=lab.dir, env=env, check=True, timeout=300)
    shutil.rmtree(lab.path("gocache"), ignore_errors=True)
    return [lab.path("work"), "100"]


def musl_binary(lab):
    copy_in(lab, "musl.c")
    subprocess.run(["musl-gcc", "-static", "-O1", "-o", "musl", "musl.c"], cwd=lab.dir, check=True, timeout=60)
    return [lab.path("musl")]


def java_class(lab):
    copy_in(lab, "Work.java")
    subprocess.run(["javac", "Work.java"], cwd=lab.dir, check=True, timeout=120)
    return ["java", "-Xmx128m", "Work"]


def sqlite(lab, journal):
    lines = [f"PRAGMA journal_mode={journal};", "CREATE TABLE t(id INTEGER PRIMARY KEY, k INT, v TEXT);",
             "CREATE INDEX by_k ON t(k);", "CREATE TABLE log(round INT, n INT, sum INT);"]
    for number in range(400):
        lines += ["BEGIN IMMEDIATE;",
                  "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM c WHERE x<300) "
                  f"INSERT INTO t(k, v) SELECT (x*{number * 2 + 7919})%1000, printf('%064d', x*{number}) FROM c;",
                  f"UPDATE t SET k = k + 1 WHERE k % 7 = {number % 7};",
                  f"DELETE FROM t WHERE id % 11 = {number % 11};",
                  f"INSERT INTO log SELECT {number}, count(*), sum(k) FROM t;",
                  "ROLLBACK;" if number % 5 == 4 else "COMMIT;",
                  f"SELECT {number}, count(*), sum(k), sum(length(v)) FROM t;"]
    lines += ["PRAGMA integrity_check;", "SELECT count(*), sum(n), sum(sum) FROM log;"]
    lab.write("work.sql", "\n".join(lines) + "\n")
    return ["sqlite3", "-batch", "work.db", ".read work.sql"]


def lammps(lab):
    """Molten Lennard-Jones; what it prints of the state is the same each time, what it prints of the time is not."""
    lab.write("in.melt", """
units lj
atom_style atomic
lattice fcc 0.8442
region box block 0 6 0 6 0 6
create_box 1 box
create_atoms 1 box
mass 1 1.0
velocity all create 3.0 87287 loop geom
pair_style lj/cut 2.5
pair_coeff 1 1 1.0 1.0 2.5
neighbor 0.3 bin
fix 1 all nve
thermo 50
run 6000
write_dump all atom dump modify sort id
""")
    return ["env", "OMP_NUM_THREADS=1", "lmp", "-in", "in.melt", "-log", "none"]


def lammps_result(lab):
    numbers = [line for line in lab.tail("stdout", 1 << 30).splitlines() if line.split() and line.split()[0].isdigit()]
    return "\n".join(numbers) + sha256(lab.path("dump"))


PROGRAMS = [
    Real("bash", ("bash",), script("shell.sh", ["bash"], "130")),
    Real("python", ("python3",), script("work.py", ["python3"], "60")),
    Real("perl", ("perl",), script("work.pl", ["perl"], "90")),
    Real("make", ("make", "gcc"), make_project, made, at_once=True),
    Real("tar", ("tar", "xz", "sha256sum"), tar_pipeline),
    Real("sort", ("sort",), big_sort, lambda lab: sha256(lab.path("sorted")), first=0.05, most=0.2, at_once=True),
    Real("node", ("node",), script("work.js", ["node"], "120"), first=0.5),
    Real("go", ("go",), go_binary),
    Real("musl", ("musl-gcc",), musl_binary),
    Real("java", ("java", "javac"), java_class, first=0.5),
    Real("sqlite", ("sqlite3",), lambda lab: sqlite(lab, "delete"), first=0.05, most=0.2, at_once=True),
    Real("lammps", ("lmp",), lammps, lammps_result, first=0.5, large=True, at_once=True),
    Real("sqlite-wal", ("sqlite3",), lambda lab: sqlite(lab, "wal"), first=0.05, most=0.2, at_once=True),
]


# -- the three runs ---------------------------------------------------------------------------------

uninterrupted_results = {}


def open_stdout(lab):
    return open(lab.write("stdout", b""), "wb")


def uninterrupted(binaries, user, real):
    """What comes out when nobody interferes; run once."""
    need(*real.needs)
    key = (real.name, user.name)
    if key not in uninterrupted_results:
        lab = harness.Lab(binaries, user)
        try:
            with open_stdout(lab) as stdout:
                lab.run_bare(real.prepare(lab), stdout=stdout)
            status = lab.finish(120)
            assert status == 0, lab.report()
            uninterrupted_results[key] = real.result(lab)
        finally:
            lab.close()
    return uninterrupted_results[key]


def cases():
    known = harness.users()
    for real in PROGRAMS:
        if real.large and not os.environ.get("DMTCP_TEST_ALL"):
            continue
        for user in ("root", "user"):
            if user in known:
                yield pytest.param(real, user, id=f"{real.name}-{user}")


def launch(lab, real):
    with open_stdout(lab) as stdout:
        lab.launch(real.prepare(lab), stdout=stdout)


def ended(lab, seconds=2):
    """Has the program ended, or is it about to?"""
    try:
        lab.wait_end(lab.program, seconds / harness.SLOW)
        return True
    except harness.Timeout:
        return False


def checkpoint(lab, kill=False):
    """False if the program ended before."""
    if lab.program.poll() is not None:
        return False
    try:
        if kill:
            lab.checkpoint_and_kill()
        else:
            lab.checkpoint()
    except harness.CommandFailed:
        if ended(lab):
            return False
        raise
    return True


def chance_of(request):
    print(f"DMTCP_STORM_SEED={SEED}")
    return random.Random(f"{SEED} {request.node.name}")


@pytest.mark.parametrize("real,user", cases(), indirect=["user"])
def test_uninterrupted(binaries, user, real):
    result = uninterrupted(binaries, user, real)
    assert result and "missing" not in result


@pytest.mark.parametrize("real,user", cases(), indirect=["user"])
def test_checkpoints(lab, binaries, user, real, request):
    """Checkpoint and go on at random instants."""
    expected = uninterrupted(binaries, user, real)
    chance, done = chance_of(request), 0
    launch(lab, real)
    time.sleep(real.first)
    while done < ROUNDS:
        time.sleep(chance.uniform(0, real.most))
        if not checkpoint(lab):
            break
        done += 1
    assert done > 0, "the program ended before the first checkpoint"
    assert lab.finish(120) == 0
    assert real.result(lab) == expected
    assert lab.tail("stderr") == ""
    lab.wait_gone()


@pytest.mark.parametrize("real,user", cases(), indirect=["user"])
def test_restarts(lab, binaries, user, real, request):
    """Checkpoint, lose everything, restart; again from the restarted one, and so on."""
    expected = uninterrupted(binaries, user, real)
    chance, done = chance_of(request), 0
    launch(lab, real)
    time.sleep(real.first)
    while done < ROUNDS:
        time.sleep(chance.uniform(0, real.most))
        if not checkpoint(lab, kill=real.at_once):
            break
        if not real.at_once:
            time.sleep(chance.uniform(0, 0.3))
        lab.kill_everything()
        lab.restart(stdout=subprocess.DEVNULL)
        if not ended(lab, 0):
            try:
                lab.wait_running()
            except AssertionError:
                if not ended(lab) or lab.program.returncode != 0:
                    raise
        done += 1
    assert done > 0, "the program ended before the first checkpoint"
    assert lab.finish(120) == 0, lab.tail("restart.stderr")
    assert real.result(lab) == expected
    lab.wait_gone()


# -- vim, with a terminal and somebody who types --------------------------------------------------------


class Typist:
    """A pseudo-terminal with a program in it (its session's controlling terminal)."""

    def __init__(self):
        self.master, self.slave = pty.openpty()
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self.seen = b""

    def options(self):
        slave = self.slave
        return dict(stdin=slave, stdout=slave, stderr=slave,
                    preexec_fn=lambda: fcntl.ioctl(slave, termios.TIOCSCTTY, 0))

    def type(self, keys):
        os.write(self.master, keys.encode())

    def drain(self):
        while select.select([self.master], [], [], 0)[0]:
            try:
                self.seen += os.read(self.master, 65536)
            except OSError:
                return

    def close(self):
        os.close(self.master)
        os.close(self.slave)


def await_file(lab, typist, name, content):
    def there():
        typist.drain()
        return lab.path(name).exists() and lab.path(name).read_text() == content

    lab.wait_until(f"vim writes {name}", there)


def start_vim(start):
    """start: lab.launch or lab.run_bare. Returns the typist, with vim in the middle of something."""
    lab, typist = start.__self__, Typist()
    start(["vim", "-u", "NONE", "-N", "-n", "-i", "NONE", "text"], **typist.options(), env=lab.env(TERM="xterm"))
    typist.type("ifirst line\rsecond\x1b:w! one\r")
    await_file(lab, typist, "one", "first line\nsecond\n")
    typist.type("yyPA (again)")  # still inserting when the checkpoint comes
    time.sleep(0.2)
    typist.drain()
    return typist


def end_vim(lab, typist):
    typist.type(" more\x1b:w! two\r")
    await_file(lab, typist, "two", "first line\nsecond (again) more\nsecond\n")
    typist.type("u:w! three\r")  # undo
    await_file(lab, typist, "three", "first line\nsecond\nsecond\n")
    typist.type(":wq\r")

    def gone():
        typist.drain()
        return lab.program.poll() is not None

    lab.wait_until("vim ends", gone)
    assert lab.program.returncode == 0
    assert lab.path("text").read_text() == "first line\nsecond\nsecond\n"


def test_vim_uninterrupted(lab):
    need("vim")
    typist = start_vim(lab.run_bare)
    end_vim(lab, typist)
    typist.close()


def test_vim_checkpoints(lab):
    need("vim")
    typist = start_vim(lab.launch)
    for _ in range(ROUNDS):
        lab.checkpoint()
        typist.type("!")
        typist.type("\x08")
    end_vim(lab, typist)
    typist.close()


def test_vim_restarts(lab):
    need("vim")
    typist = start_vim(lab.launch)
    for _ in range(ROUNDS):
        lab.checkpoint()
        lab.kill_everything()
        typist.close()
        typist = Typist()
        lab.restart(**typist.options(), env=lab.env(TERM="xterm"))
        lab.wait_running()
    end_vim(lab, typist)
    typist.close()
