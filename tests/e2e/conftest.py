"""Fixtures of the whole-run tests: binaries, users, and a Lab that leaves nothing behind."""

import os
import pathlib
import signal
import subprocess
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

import harness  # noqa: E402


CLONE_NEWIPC, CLONE_NEWNET = 0x08000000, 0x40000000
HUGE_PAGES = pathlib.Path("/proc/sys/vm/nr_hugepages")
huge_pages_before = pytest.StashKey[str]()


def pytest_configure(config):
    """As root: make a few huge pages for the program that needs them (once, not in each worker of xdist)."""
    harness.become_subreaper()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # end as with ^C: nothing is left running
    # Detached System V objects belong to nobody that one could see: each worker has a namespace of its own for them.
    if os.geteuid() == 0:
        harness.libc.unshare(CLONE_NEWIPC)
    try:
        if os.geteuid() == 0 and not hasattr(config, "workerinput") and int(HUGE_PAGES.read_text()) < 16:
            config.stash[huge_pages_before] = HUGE_PAGES.read_text()
            HUGE_PAGES.write_text("16")
    except OSError:
        pass


# They use what all of the machine share, by number or by name: one after the other.
GROUPS = {"pty": ("test_terminals.py", "[file_pty", "vim"), "abstract": ("[sock_listen", "[sock_unix")}


@pytest.hookimpl(tryfirst=True)  # before xdist looks for groups
def pytest_collection_modifyitems(items):
    """Expected failures are in known_failures.txt, each with its reason."""
    for item in items:
        for group, parts in GROUPS.items():
            if any(part in item.nodeid for part in parts):
                item.add_marker(pytest.mark.xdist_group(group))
    known = []
    for line in (pathlib.Path(__file__).parent / "known_failures.txt").read_text().splitlines():
        name, colon, reason = line.partition(":")
        if colon and not line.startswith("#"):
            known.append((name.strip(), reason.strip()))
    for item in items:
        for name, reason in known:
            if name in item.name:
                item.add_marker(pytest.mark.xfail(reason=reason, strict=False))


def pytest_unconfigure(config):
    try:
        if huge_pages_before in config.stash:
            HUGE_PAGES.write_text(config.stash[huge_pages_before])
    except OSError:
        pass


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


@pytest.fixture
def netns():
    """A network namespace of the test's own, with its loopback interface up. It is gone when the test is over."""
    libc = harness.libc
    before = os.open("/proc/self/ns/net", os.O_RDONLY)
    if libc.unshare(CLONE_NEWNET) != 0:
        os.close(before)
        pytest.skip("no network namespace can be made here")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    yield
    libc.setns(before, 0)
    os.close(before)


@pytest.fixture
def ipcns():
    """An IPC namespace of the test's own: what other tests make there, and leave, is not taken for the program's."""
    libc = harness.libc
    before = os.open("/proc/self/ns/ipc", os.O_RDONLY)
    if libc.unshare(CLONE_NEWIPC) != 0:
        os.close(before)
        pytest.skip("no IPC namespace can be made here")
    yield
    libc.setns(before, 0)
    os.close(before)
