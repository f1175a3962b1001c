"""Fixtures of the whole-run tests: binaries, users, and a Lab that leaves nothing behind."""

import contextlib
import fcntl
import os
import pathlib
import signal
import socket
import struct
import sys
import tempfile

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

import harness  # noqa: E402


CLONE_NEWNS, CLONE_NEWIPC, CLONE_NEWNET = 0x00020000, 0x08000000, 0x40000000
MS_BIND, MS_REC, MS_PRIVATE = 0x1000, 0x4000, 0x40000
SIOCSIFFLAGS, IFF_UP = 0x8914, 1
HUGE_PAGES = pathlib.Path("/proc/sys/vm/nr_hugepages")
huge_pages_before = pytest.StashKey[str]()


def loopback_up():
    """In a new network namespace."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        fcntl.ioctl(s, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP))


def name_test_user():
    """Some servers look their user up: in a new mount namespace the ordinary user of the tests gets a name."""
    harness.libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None)
    for path, line in (("/etc/passwd", f"tester:x:{harness.TEST_UID}:{harness.TEST_UID}::/tmp:/bin/sh"),
                       ("/etc/group", f"tester:x:{harness.TEST_UID}:")):
        with tempfile.NamedTemporaryFile("w", prefix="dmtcp-test-") as file:
            file.write(pathlib.Path(path).read_text().rstrip("\n") + f"\n{line}\n")
            file.flush()
            os.fchmod(file.fileno(), 0o644)
            harness.libc.mount(file.name.encode(), path.encode(), None, MS_BIND, None)


def own_namespaces():
    """For each worker of xdist. What a killed program had must be free again at its restart: ports, abstract names of
    sockets, System V objects, numbers of pseudo-terminals. Other tests would get them meanwhile."""
    if os.geteuid() != 0:
        return
    if harness.libc.unshare(CLONE_NEWNS) == 0:
        name_test_user()
        harness.libc.mount(b"devpts", b"/dev/pts", b"devpts", 0, b"newinstance,mode=600,ptmxmode=000")
    harness.libc.unshare(CLONE_NEWIPC)
    if harness.libc.unshare(CLONE_NEWNET) == 0:
        loopback_up()


def set_huge_pages(config):
    """As root a few, for the time of the tests, for the programs that need them. Once, not in each worker of xdist."""
    config.stash[huge_pages_before] = None
    if os.geteuid() != 0 or hasattr(config, "workerinput"):
        return
    with contextlib.suppress(OSError):
        before = HUGE_PAGES.read_text()
        if int(before) < 16:
            HUGE_PAGES.write_text("16")
            config.stash[huge_pages_before] = before


def pytest_configure(config):
    harness.become_subreaper()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # end as with ^C: nothing is left running
    # A shell that started us in the background has us ignore ^C: so would the jobs of the shells that we test.
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, lambda *_: None)  # not inherited
    own_namespaces()
    set_huge_pages(config)


# They use what all of the machine share, by number, where a worker has no namespaces of its own: one after the other.
GROUPS = {"pty": ("test_terminals.py", "[file_pty", "vim")}


@pytest.hookimpl(tryfirst=True)  # before xdist looks for groups
def pytest_collection_modifyitems(items):
    for item in items:
        for group, parts in GROUPS.items():
            if any(part in item.nodeid for part in parts):
                item.add_marker(pytest.mark.xdist_group(group))


def pytest_unconfigure(config):
    if config.stash[huge_pages_before]:
        with contextlib.suppress(OSError):
            HUGE_PAGES.write_text(config.stash[huge_pages_before])


@pytest.fixture(scope="session")
def binaries():
    found = harness.Binaries()
    yield found
    found.remove()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """A failing test tells what its lab saw."""
    outcome = yield
    report = outcome.get_result()
    lab = item.funcargs.get("lab") if hasattr(item, "funcargs") else None
    if report.when == "call" and report.failed and lab is not None:
        report.sections.append(("lab", lab.report()))


@pytest.fixture
def user(request):
    """The user of a test: root where there is one; parametrise indirectly to choose."""
    known = harness.users()
    name = getattr(request, "param", next(iter(known)))
    if name not in known:
        pytest.skip(f"not running as root: can't run as {name}")
    return known[name]


@pytest.fixture
def lab(binaries, user):
    lab = harness.Lab(binaries, user)
    yield lab
    lab.close()


@pytest.fixture(autouse=True)
def nothing_left_behind():
    """Whatever a test started is gone before the next one begins."""
    yield
    harness.kill_all_descendants()


@contextlib.contextmanager
def namespace(kind, name):
    """A namespace of the test's own. It is gone when the test is over."""
    before = os.open(f"/proc/self/ns/{name}", os.O_RDONLY)
    try:
        if harness.libc.unshare(kind) != 0:
            pytest.skip(f"no {name} namespace can be made here")
        yield
        harness.libc.setns(before, 0)
    finally:
        os.close(before)


@pytest.fixture
def netns():
    """A network namespace in which nothing happened yet, with its loopback interface up."""
    with namespace(CLONE_NEWNET, "net"):
        loopback_up()
        yield


@pytest.fixture
def ipcns():
    """An IPC namespace in which there is nothing: what earlier tests left is not taken for the program's."""
    with namespace(CLONE_NEWIPC, "ipc"):
        yield
