"""A process that has left the namespaces of its computation would be restored into others than it knows: refused by
name, and it runs on unharmed. A mount namespace in which the same is mounted makes no difference."""

import shutil
import subprocess

import pytest

import harness

LOOP = "touch made; while [ ! -e stop ]; do sleep 0.02; done; echo end >>end"

REFUSED = {
    "user": ("-Ur", "a user namespace"),
    "pid": ("-Urpf", "namespace"),
    "pid-root": ("-pf", "a pid namespace"),
    "net-root": ("-n", "a network namespace"),
    "ipc-root": ("-i", "an IPC namespace"),
    "uts-root": ("-u", "a UTS namespace"),
    "cgroup-root": ("-C", "a control group namespace"),
    "time-root": ("-T", "a time namespace"),
    "mounts-root": ("-m", "a mount namespace with other mounts"),
}


def cases():
    for name, (options, words) in REFUSED.items():
        for user in ("root",) if name.endswith("-root") else ("root", "user"):
            if user in harness.users():
                yield pytest.param(options, words, user, id=f"{name.removesuffix('-root')}-{user}")


def start(lab, options, before=""):
    if not shutil.which("unshare"):
        pytest.skip("unshare is not installed")
    if subprocess.run(["unshare", options, "true"], capture_output=True, **lab.user.popen_args()).returncode != 0:
        pytest.skip("this system does not give the namespace")
    lab.launch(["unshare", options, "sh", "-c", before + LOOP], stdout=subprocess.DEVNULL)
    lab.wait_until("the program is in its namespace", lambda: lab.path("made").exists())


@pytest.mark.parametrize("options,words,user", cases(), indirect=["user"])
def test_refused(lab, options, words, user):
    start(lab, options, "mount -t tmpfs none /mnt || exit; " if options == "-m" else "")
    with pytest.raises(harness.CommandFailed) as failed:
        lab.checkpoint()
    assert words in failed.value.output
    assert lab.images() == []
    lab.write("stop", "")
    assert lab.finish() == 0
    assert lab.tail("end") == "end\n"


@pytest.mark.skipif("root" not in harness.users(), reason="a mount namespace takes root")
@pytest.mark.parametrize("user", ["root"], indirect=True)
def test_same_mounts(lab, user):
    start(lab, "-m")
    lab.checkpoint_and_kill()
    lab.restart(stdout=subprocess.DEVNULL)
    lab.wait_running()
    lab.write("stop", "")
    assert lab.finish() == 0
    assert lab.tail("end") == "end\n"
