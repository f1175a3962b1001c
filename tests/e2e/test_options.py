"""What dmtcp_launch was told holds after a restart, too."""

import subprocess

import pytest

import harness

SIZE = 16 << 20  # compressed a small part of that
PROGRAM = f"""
import os, time
text = b"all work and no play " * ({SIZE} // 21)
open("ready", "w").close()
while not os.path.exists("stop"):
    time.sleep(0.005)
print(open("data").read())
"""


def generations(lab):
    return len({image.stem.rpartition("_")[2] for image in lab.images()})


def runs(lab):
    status, said = lab.run("dmtcp_command", *lab.where(), "-s", check=False)
    return status == 0 and "RUNNING=yes" in said


@pytest.mark.parametrize("user", harness.users(), indirect=True)
def test_options_hold(lab, user):
    """--compress, --keep (of what was there before the restart as well) and --ckpt-open-files."""
    lab.write("program.py", PROGRAM)
    data = lab.write("data", "as it was")
    lab.launch(["sh", "-c", "exec /usr/bin/python3 program.py >said 3<data"], "--compress", "none", "--keep", "2",
               "--ckpt-open-files", "--allow-file-overwrite")
    lab.wait_until("it runs", lab.path("ready").exists)
    for restarts in range(3):
        if restarts:
            lab.kill_everything()
            data.write_text("changed")
            lab.restart()
            lab.wait_running()
            assert data.read_text() == "as it was"
        for _ in range(3):
            images = lab.checkpoint()
            assert max(image.stat().st_size for image in images) > SIZE
        lab.wait_until("two generations are left", lambda: generations(lab) == 2)
    lab.write("stop", "")
    assert lab.finish() == 0
    assert lab.path("said").read_text() == "as it was\n"


@pytest.mark.parametrize("user", harness.users(), indirect=True)
def test_root_has_ended(lab, user):
    """They are the tree's, whatever became of the process that was launched."""
    lab.write("program.py", PROGRAM)
    lab.write("data", "as it was")
    lab.launch(["sh", "-c", "setsid /usr/bin/python3 program.py >said 2>&1 </dev/null &"], "--compress", "none", "--keep", "2",
               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert lab.finish() == 0
    lab.wait_until("it runs", lab.path("ready").exists)
    for restarts in range(2):
        if restarts:
            lab.kill_everything()
            lab.restart(stdout=subprocess.DEVNULL)
            lab.wait_until("it runs", lambda: runs(lab))  # dmtcp_restart may have nobody to stand in for
        for _ in range(3):
            assert max(image.stat().st_size for image in lab.checkpoint()) > SIZE
        lab.wait_until("two generations are left", lambda: generations(lab) == 2)


@pytest.mark.parametrize("user", harness.users(), indirect=True)
def test_nested(lab, user):
    """A dmtcp_launch below a launched shell: what it was told holds for the computation, as before the restart."""
    lab.write("program.py", PROGRAM)
    data = lab.write("data", "as it was")
    lab.start_coordinator()
    inner = [lab.bin.command("dmtcp_launch"), *lab.where(), "--ckptdir", lab.ckptdir, "--ckpt-open-files",
             "--allow-file-overwrite"]
    lab.launch(["sh", "-c", '"$@" >said 3<data; true', "sh", *inner, "/usr/bin/python3", "program.py"])
    lab.wait_until("it runs", lab.path("ready").exists)
    for _ in range(3):
        lab.checkpoint_and_kill()
        data.write_text("changed")
        lab.restart(stdout=subprocess.DEVNULL)
        lab.wait_running()
        assert data.read_text() == "as it was"
    lab.write("stop", "")
    assert lab.finish() == 0


def test_keep_is_the_computation_s(lab):
    """A computation with an option of its own changes nothing for the next one of the coordinator."""
    lab.start_coordinator("--keep", "3")
    for options, kept in (["--keep", "1"], 1), ([], 3):
        lab.go.unlink(missing_ok=True)
        lab.out.unlink(missing_ok=True)
        for image in lab.images():
            image.unlink()
        lab.launch(lab.program_argv("count"), *options)
        lab.wait_ready()
        for _ in range(4):
            lab.checkpoint()
        lab.wait_until("the others are gone", lambda: generations(lab) == kept)
        lab.go.touch()
        assert lab.finish() == 0
        lab.wait_gone()
