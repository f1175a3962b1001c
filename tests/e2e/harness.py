"""What the whole-run tests stand on: where the binaries are, processes that never outlive a test,
and Lab, one computation under test with its coordinator, its program and its checkpoints.

Everything that waits has a deadline. Everything that a test started is found as a descendant of this
process, which is a child subreaper, and killed by pid (through a pidfd) at the end of the test.
"""

import contextlib
import ctypes
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("DMTCP_BUILD", ROOT / "build")).resolve()

# All deadlines are multiplied by this: sanitizers and busy machines are slow.
SLOW = float(os.environ.get("DMTCP_TEST_SLOW", "1"))
TEST_UID = int(os.environ.get("DMTCP_TEST_UID", "64321"))

PR_SET_CHILD_SUBREAPER = 36
libc = ctypes.CDLL(None, use_errno=True)

COMMANDS = {
    "dmtcp_coordinator": "coordinator",
    "dmtcp_command": "coordinator",
    "dmtcp_launch": "tracer",
    "dmtcp_tracer": "tracer",
    "dmtcp_nocheckpoint": "tracer",
    "dmtcp_restart": "restorer",
    "mtcp_restart": "restorer",
    "dmtcp_inspect": "image",
}


class Timeout(AssertionError):
    """Something did not happen in time."""


class CommandFailed(AssertionError):
    """One of our commands ended with a status that is not 0."""

    def __init__(self, argv, status, output):
        self.status = status
        self.output = output
        super().__init__(f"{' '.join(map(str, argv))}: exit status {status}: {output.strip()}")


def wait_until(what, condition, seconds=30.0, interval=0.005):
    """Call condition() until it is true and return what it returned."""
    end = time.monotonic() + seconds * SLOW
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise Timeout(f"after {seconds * SLOW:.0f} s: {what}")
        time.sleep(interval)


# ---------------------------------------------------------------------------------------------
# Processes


def become_subreaper():
    if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


class Process:
    """A process as /proc shows it; start (in clock ticks) tells it from a later one with its pid."""

    def __init__(self, pid, ppid, state, comm, start, threads):
        self.pid, self.ppid, self.state, self.comm, self.start = pid, ppid, state, comm, start
        self.alive = state != "Z" or threads > 1  # a dead thread-group leader with living threads is no zombie

    def __repr__(self):
        return f"{self.pid} {self.comm} ({self.state}, parent {self.ppid})"


def describe_machine():
    """What decides who gets a CPU."""
    said = [f"{os.uname().release}, {os.cpu_count()} CPUs"]
    for path in ("/proc/loadavg", "/proc/sys/kernel/sched_autogroup_enabled", "/proc/self/autogroup", "/proc/self/cgroup"):
        with contextlib.suppress(OSError):
            said.append(f"{path}: " + " ".join(pathlib.Path(path).read_text().split()))
    return "\n".join(said)


def read_process(pid):
    try:
        text = pathlib.Path(f"/proc/{pid}/stat").read_bytes().decode(errors="replace")
    except OSError:
        return None
    comm = text[text.index("(") + 1:text.rindex(")")]
    rest = text[text.rindex(")") + 2:].split()
    return Process(pid, int(rest[1]), rest[0], comm, int(rest[19]), int(rest[17]))


def descendants(of=None):
    """All descendants of a process (by default: this one), parents before children."""
    of = os.getpid() if of is None else of
    children = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            process = read_process(int(name))
            if process:
                children.setdefault(process.ppid, []).append(process)
    found, queue = [], [of]
    while queue:
        for process in children.get(queue.pop(0), ()):
            found.append(process)
            queue.append(process.pid)
    return found


def describe_threads(pid):
    """What the threads of a process are doing."""
    said = []
    for task in pathlib.Path(f"/proc/{pid}/task").glob("*"):
        try:
            said.append("  thread " + " ".join([task.name, (task / "stat").read_text().rsplit(")")[1].split()[0],
                                                (task / "wchan").read_text(), (task / "syscall").read_text().strip()]))
        except OSError:
            pass
    return said


def kill_process(process, signum=signal.SIGKILL):
    """Kill exactly this process, not another one that has its pid by now."""
    try:
        fd = os.pidfd_open(process.pid)
    except OSError:
        return
    try:
        now = read_process(process.pid)
        if now and now.start == process.start:
            signal.pidfd_send_signal(fd, signum)
    except OSError:
        pass
    finally:
        os.close(fd)


def kill_all_descendants(keep=()):
    """SIGKILL everything below us but the pids in keep; return those that were there and alive."""
    killed = {}
    end = time.monotonic() + 30 * SLOW
    while True:
        left = [p for p in descendants() if p.pid not in keep]
        if not left:
            return list(killed.values())
        for process in left:
            if process.alive:
                killed.setdefault((process.pid, process.start), process)
                kill_process(process)
            elif process.ppid == os.getpid():
                try:
                    os.waitpid(process.pid, os.WNOHANG)
                except ChildProcessError:
                    pass
        if time.monotonic() > end:
            raise Timeout(f"processes that can't be killed: {left}")
        time.sleep(0.002)


# ---------------------------------------------------------------------------------------------
# Who and where


class User:
    """Who runs the program and our commands: root, or the ordinary user of the tests."""

    def __init__(self, name, uid):
        self.name, self.uid = name, uid

    def popen_args(self):
        if self.uid is None or os.geteuid() == self.uid:
            return {}
        return {"user": self.uid, "group": self.uid, "extra_groups": []}

    def make_dir(self):
        base = pathlib.Path(tempfile.mkdtemp(prefix="dmtcp-test-"))
        base.chmod(0o755)
        if self.uid is not None and os.geteuid() == 0:
            os.chown(base, self.uid, self.uid)
        return base


def users():
    """The users that tests run as on this machine, by name."""
    if os.geteuid() == 0:
        return {"root": User("root", None), "user": User("user", TEST_UID)}
    return {"user": User("user", None)}


def reachable_by_others(path):
    """May any user execute below this directory?"""
    path = pathlib.Path(path).resolve()
    return all(p.stat().st_mode & 0o001 for p in [path, *path.parents])


class Binaries:
    """The commands and test programs, staged to where every user of the tests can reach them."""

    def __init__(self, build=BUILD):
        self.build, self.staged = build, None
        if os.geteuid() == 0 and build.exists() and not reachable_by_others(build):
            self.stage()

    def stage(self):
        self.staged = pathlib.Path(tempfile.mkdtemp(prefix="dmtcp-bin-"))
        self.staged.chmod(0o755)
        for part in ("coordinator", "tracer", "restorer", "image", "injector", "tests/programs"):
            source = self.build / part
            target = self.staged / part
            target.mkdir(parents=True, exist_ok=True)
            for file in source.iterdir() if source.exists() else ():
                if file.is_file() and (os.access(file, os.X_OK) or file.suffix in (".so", ".bin", ".blob")):
                    shutil.copy2(file, target / file.name)
        self.build = self.staged

    def command(self, name):
        return self.build / COMMANDS[name] / name

    def program(self, name):
        return self.build / "tests" / "programs" / name

    def missing(self, names=("dmtcp_coordinator", "dmtcp_command", "dmtcp_launch", "dmtcp_restart")):
        return [name for name in names if not self.command(name).exists()]

    def remove(self):
        if self.staged:
            shutil.rmtree(self.staged, ignore_errors=True)


# ---------------------------------------------------------------------------------------------
# One computation


class Lab:
    """One computation under test, in a directory of its own."""

    def __init__(self, binaries, user):
        self.bin, self.user = binaries, user
        self.dir = user.make_dir()
        self.ckptdir = self.path("ckpt")
        self.mkdir(self.ckptdir)
        self.go, self.out = self.path("go"), self.path("out")
        self.port = None
        self.coordinator = None
        self.program = None  # the Popen that stands for the program: dmtcp_launch or dmtcp_restart
        self.popens = []
        self.log = []  # what was done, for the report of a failure

    def path(self, name):
        return self.dir / name

    def mkdir(self, path):
        path.mkdir(exist_ok=True)
        if self.user.uid is not None and os.geteuid() == 0:
            os.chown(path, self.user.uid, self.user.uid)

    def write(self, name, data, mode=0o644):
        """A file in the lab's directory that belongs to its user."""
        path = self.path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data if isinstance(data, bytes) else data.encode())
        path.chmod(mode)
        if self.user.uid is not None and os.geteuid() == 0:
            os.chown(path, self.user.uid, self.user.uid)
        return path

    def env(self, **more):
        keep = ("PATH", "ASAN_OPTIONS", "UBSAN_OPTIONS", "LSAN_OPTIONS", "DMTCP_LOG_LEVEL")
        env = {name: os.environ[name] for name in keep if name in os.environ}
        env.update(HOME=str(self.dir), LANG="C.UTF-8", TMPDIR=str(self.dir))
        if os.environ.get("DMTCP_TEST_TRACE"):
            env.update(DMTCP_LOG_LEVEL="trace", DMTCP_TRACER_LOG=str(self.path("tracer.log")),
                       DMTCP_RESTART_LOG=str(self.path("restart.log")))
        env.update({name: str(value) for name, value in more.items()})
        return env

    # -- starting things ------------------------------------------------------------------------

    def popen(self, argv, **options):
        """Start argv as the lab's user, in the lab's directory, in a session of its own."""
        options.setdefault("stdin", subprocess.DEVNULL)
        options.setdefault("cwd", self.dir)
        options.setdefault("env", self.env())
        options.setdefault("start_new_session", True)
        argv = [str(a) for a in argv]
        self.log.append(" ".join(argv))
        process = subprocess.Popen(argv, **self.user.popen_args(), **options)
        self.popens.append(process)
        return process

    def run(self, name, *args, seconds=60, check=True, **options):
        """Run one of our commands to its end; return (status, what it said)."""
        with open(self.path(f"{name}.output"), "w+b") as output:
            process = self.popen([self.bin.command(name), *args], stdout=output, stderr=output, **options)
            try:
                status = self.wait_end(process, seconds)
            except Timeout:
                output.seek(0)
                said = output.read().decode(errors="replace")
                raise Timeout(f"{name} {' '.join(map(str, args))} did not end; it said: {said}; "
                              f"processes: {self.describe_processes()}") from None
            output.seek(0)
            said = output.read().decode(errors="replace")
        self.log.append(f"  status {status}: {said.strip()}")
        if check and status != 0:
            raise CommandFailed([name, *args], status, said)
        return status, said

    def start_coordinator(self, *options):
        port_file = self.path("port")
        port_file.unlink(missing_ok=True)
        log = open(self.path("coordinator.log"), "ab")
        self.coordinator = self.popen(
            [self.bin.command("dmtcp_coordinator"), "-p", "0", "--port-file", port_file,
             "--ckptdir", self.ckptdir, *options],
            stdin=subprocess.PIPE, stdout=log, stderr=log)
        log.close()

        def port():
            if self.coordinator.poll() is not None:
                raise AssertionError("dmtcp_coordinator ended at once: " + self.tail("coordinator.log"))
            text = port_file.read_text() if port_file.exists() else ""
            return int(text) if text.endswith("\n") or text.strip().isdigit() else None

        self.port = self.wait_until("dmtcp_coordinator writes its port", port, 20)
        return self.port

    def where(self):
        return ["-p", str(self.port)]

    def launch(self, argv, *options, **popen_options):
        """dmtcp_launch argv. Its standard output is in self.program.stdout unless said otherwise."""
        if self.port is None:
            self.start_coordinator()
        popen_options.setdefault("stdout", subprocess.PIPE)
        if "stderr" not in popen_options:
            popen_options["stderr"] = self.open_stderr()
        self.program = self.popen(
            [self.bin.command("dmtcp_launch"), *self.where(), "--ckptdir", self.ckptdir, *options, *argv],
            **popen_options)
        return self.program

    def open_stderr(self, name="stderr"):
        """The program's own is never the one that dmtcp_restart writes to: what is written after a checkpoint
        is cut off again at the restart."""
        self.stderr = open(self.path(name), "ab")
        if self.user.uid is not None and os.geteuid() == 0:
            os.chown(self.path(name), self.user.uid, self.user.uid)
        return self.stderr

    def run_bare(self, argv, **popen_options):
        """The same without us."""
        popen_options.setdefault("stdout", subprocess.PIPE)
        if "stderr" not in popen_options:
            popen_options["stderr"] = self.open_stderr()
        self.program = self.popen(argv, **popen_options)
        return self.program

    def program_argv(self, name, *options):
        return [self.bin.program(name), "--go", self.go, "--out", self.out, *options]

    # -- what is done to it -----------------------------------------------------------------------

    def images(self):
        return sorted(self.ckptdir.glob("**/*.dmtcp"))

    def checkpoint(self, seconds=60):
        """dmtcp_command -bc; returns the images: ckpt_…_GENERATION.dmtcp. The older ones go a moment later."""
        self.run("dmtcp_command", *self.where(), "-bc", seconds=seconds)
        images = self.images()
        assert images, f"dmtcp_command -bc succeeded, but there is no image in {self.ckptdir}"
        newest = max(image.stem.rpartition("_")[2] for image in images)
        return [image for image in images if image.stem.endswith(f"_{newest}")]

    def checkpoint_and_kill(self, seconds=60):
        """dmtcp_command -kc: the program does not run on after the checkpoint. For those that change files."""
        self.run("dmtcp_command", *self.where(), "-kc", seconds=seconds)
        self.wait_end(self.program, seconds)

    def kill_everything(self):
        """SIGKILL program, tracer, coordinator and whatever else is there, as a power cut would. One goes after the other:
        what a process says of those that it misses meanwhile is cut off."""
        said = self.out.stat().st_size if self.out.exists() else 0
        kill_all_descendants()
        if self.out.exists():
            os.truncate(self.out, said)
        for process in self.popens:
            process.wait()
        self.close_pipes()
        self.coordinator = None

    def restart(self, *options, what=None, **popen_options):
        """dmtcp_restart of all images (or of `what`); becomes self.program."""
        popen_options.setdefault("stdout", subprocess.PIPE)
        if "stderr" not in popen_options:
            popen_options["stderr"] = self.open_stderr("restart.stderr")
        # the coordinator that it starts
        popen_options.setdefault("env", self.env(DMTCP_COORD_LOG_FILENAME=self.path("restart.coordinator.log")))
        self.program = self.popen(
            [self.bin.command("dmtcp_restart"), *self.where(), "--ckptdir", self.ckptdir, *options,
             *([self.ckptdir] if what is None else what)], **popen_options)
        return self.program

    def wait_running(self, seconds=60):
        """After restart(): until the coordinator says that the computation runs."""

        def running():
            if self.program.poll() is not None:
                raise AssertionError(f"dmtcp_restart ended with {self.program.returncode}: {self.tail('restart.stderr')}")
            status, said = self.run("dmtcp_command", *self.where(), "-s", check=False)
            return status == 0 and "RUNNING=yes" in said.replace(" ", "")

        self.wait_until("the restarted computation runs", running, seconds, 0.02)

    # -- what came out ----------------------------------------------------------------------------

    def lines(self):
        return self.out.read_text(errors="replace").splitlines() if self.out.exists() else []

    def wait_ready(self, count=1, seconds=30):
        def ready():
            said = self.lines()
            if said.count("ready") >= count:
                return True
            if self.program.poll() is not None:
                raise AssertionError(f"the program ended with {self.program.returncode} before it was ready: "
                                     f"{said}; {self.tail('stderr')}")
            return False

        self.wait_until("the program is ready", ready, seconds)

    def finish(self, seconds=60):
        """Wait for the program's end and the end of its output; return the status."""
        try:
            self.wait_end(self.program, seconds)
            # whoever still has its standard output (but the program has ended) is one process too many
            output, _ = self.program.communicate(timeout=10 * SLOW)
        except (Timeout, subprocess.TimeoutExpired):
            raise Timeout(f"the program (or its output) did not end; it said {self.lines()}; "
                          f"stderr: {self.tail('stderr')}; processes: {self.describe_processes()}") from None
        self.output = output
        return self.program.returncode

    def wait_gone(self, seconds=10):
        """After the program's end: nothing but the coordinator may be left."""

        def strangers():
            return [p for p in descendants() if p.comm != "dmtcp_coordinat" and p.alive]

        end = time.monotonic() + seconds * SLOW
        while left := strangers():
            self.reap()
            if time.monotonic() > end:
                raise Timeout(f"left over after the program's end: {left}")
            time.sleep(0.005)

    def tail(self, name, size=3000):
        path = self.path(name)
        return path.read_bytes()[-size:].decode(errors="replace") if path.exists() else ""

    def describe_processes(self, most=40):
        """What the processes are doing; zombies only by their number."""
        everything = descendants()
        said = [f"{sum(not p.alive for p in everything)} zombies"]
        for process in [p for p in everything if p.alive][:most]:
            try:
                wchan = pathlib.Path(f"/proc/{process.pid}/wchan").read_text()
                call = pathlib.Path(f"/proc/{process.pid}/syscall").read_text().strip()
                ran, waited = (int(ns) / 1e9 for ns in
                               pathlib.Path(f"/proc/{process.pid}/schedstat").read_text().split()[:2])
            except OSError:
                wchan, call, ran, waited = "?", "?", 0, 0
            said.append(f"{process} in {wchan} syscall {call}; ran {ran:.1f} s, waited {waited:.1f} s for a CPU")
            threads = describe_threads(process.pid)
            if len(threads) > 1:
                said += threads[:most]
        return "\n  ".join(said)

    def report(self):
        """Everything that helps to understand a failure."""
        parts = ["--- what was done", *self.log, "--- what the program said", *self.lines()]
        size = 60000 if os.environ.get("DMTCP_TEST_TRACE") else 3000
        for name in ("stderr", "restart.stderr", "coordinator.log", "restart.coordinator.log", "tracer.log", "restart.log"):
            parts += [f"--- {name}", self.tail(name, size)]
        parts += ["--- processes", self.describe_processes(), "--- machine", describe_machine()]
        return "\n".join(parts)

    # -- the end ------------------------------------------------------------------------------------

    def close_pipes(self):
        for process in self.popens:
            for pipe in (process.stdin, process.stdout, process.stderr):
                if pipe:
                    try:
                        pipe.close()
                    except OSError:
                        pass

    def reap(self):
        """Take the statuses of dead orphans that came to us. One that nobody waits for keeps its pid."""
        # One whose status was taken already may have its pid back: as a restarted process.
        known = {process.pid: process for process in self.popens if process.returncode is None}
        while True:
            try:
                dead = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if dead is None:
                return
            if dead.si_pid in known:
                known[dead.si_pid].poll()
            else:
                os.waitpid(dead.si_pid, os.WNOHANG)

    def wait_until(self, what, condition, seconds=30.0, interval=0.005):
        """The same as wait_until(), and reaps meanwhile."""

        def reap_and_ask():
            self.reap()
            return condition()

        return wait_until(what, reap_and_ask, seconds, interval)

    def wait_end(self, process, seconds):
        """Wait for the end of a Popen, and reap meanwhile; raises Timeout."""
        self.wait_until(f"{process.args[0]} ends", lambda: process.poll() is not None, seconds, 0.002)
        return process.returncode

    def remove_cgroups(self):
        """The control groups that a program made, named after our directory."""
        for where in ("", "*/"):
            for group in pathlib.Path("/sys/fs/cgroup").glob(where + self.dir.name):
                try:
                    group.rmdir()
                except OSError:
                    pass

    def close(self):
        kill_all_descendants()
        for process in self.popens:
            process.poll()
        self.close_pipes()
        self.remove_cgroups()
        if os.environ.get("DMTCP_TEST_KEEP"):
            print(f"kept: {self.dir}")
        else:
            shutil.rmtree(self.dir, ignore_errors=True)
