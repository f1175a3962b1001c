"""What dmtcp_launch was told holds after a restart, too."""

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
