"""dmtcp_inspect on images of programs that really ran."""

import json
import re

import pytest

import harness

FRAME = re.compile(r"#\d+ +0x0*([0-9a-f]+) (\S*)", re.M)


def frames(text):
    """The frames of each thread: pairs of address and symbol, by thread id."""
    threads = {}
    for part in re.split(r"^(?:process \d+|  )? ?thread ", text, flags=re.M)[1:]:
        threads[int(re.match(r"\d+", part)[0])] = [(ip, name if "+" in name else "?") for ip, name in FRAME.findall(part)]
    return threads


@pytest.mark.parametrize("user", harness.users(), indirect=True)
def test_backtraces(lab):
    """A backtrace that is made from an image is that of the running program, thread by thread."""
    lab.start_coordinator()
    lab.launch(lab.program_argv("thr_block"))
    lab.wait_ready()
    live = frames(lab.run("dmtcp_command", *lab.where(), "--bt")[1])
    lab.checkpoint()
    saved = frames(lab.run("dmtcp_inspect", "--bt", lab.path("ckpt"))[1])
    both = set(saved) & set(live)  # a few end soon after the program is ready
    # In an image a thread that answers EINTR to a stop is set back to before its call: two bytes.
    for threads in (live, saved):
        for backtrace in threads.values():
            backtrace[0] = (backtrace[0][1].partition("+")[0], "")
    moved = [(live[tid], saved[tid]) for tid in both if saved[tid] != live[tid]]
    assert len(both) > 10 and len(moved) <= 1, moved  # the main thread may be somewhere else the second time
    assert any(name.startswith("main+") for backtrace in saved.values() for _, name in backtrace)
    text = lab.run("dmtcp_inspect", "--bt", "--json", lab.path("ckpt"))[1]
    assert '"symbol": "main"' in json.dumps(json.loads(text))
