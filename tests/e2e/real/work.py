"""Threads with locks and queues, subprocesses with pipes, a multiprocessing pool with queues and shared
memory, timers; prints what it computes, the same each time."""

import ctypes
import hashlib
import multiprocessing
import queue
import subprocess
import sys
import threading
import time


def digest(n, rounds=300):
    value = str(n).encode()
    for _ in range(rounds):
        value = hashlib.sha256(value).digest()
    return value.hex()[:16]


def with_threads(items):
    todo, done, results = queue.Queue(), threading.Event(), {}
    lock = threading.Lock()

    def work():
        while True:
            item = todo.get()
            if item is None:
                return
            value = digest(item)
            with lock:
                results[item] = value

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    ticker = threading.Thread(target=lambda: [time.sleep(0.002) for _ in range(3)] and done.set())
    ticker.start()
    for item in items:
        todo.put(item)
    for _ in threads:
        todo.put(None)
    for thread in threads + [ticker]:
        thread.join()
    assert done.wait(1)
    return [results[item] for item in items]


def with_subprocess(n):
    child = subprocess.Popen(["sh", "-c", "while read x; do echo $((x * 3)); done; sleep 0.01"],
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    out, _ = child.communicate("".join(f"{i}\n" for i in range(n)))
    assert child.returncode == 0
    return sum(map(int, out.split()))


def count(counter, times):
    for _ in range(times):
        with counter.get_lock():
            counter.value += 1


def with_processes(pool, base):
    counter = multiprocessing.Value(ctypes.c_long, 0)
    counters = [multiprocessing.Process(target=count, args=(counter, 200)) for _ in range(2)]
    for process in counters:
        process.start()
    values = pool.map(digest, range(base, base + 20))
    for process in counters:
        process.join()
        assert process.exitcode == 0
    return values, counter.value


def main():
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 25
    with multiprocessing.Pool(2) as pool:
        for n in range(rounds):
            print("threads", n, hashlib.sha256("".join(with_threads(range(n, n + 60))).encode()).hexdigest())
            print("subprocess", n, with_subprocess(50 + n))
            values, counter = with_processes(pool, n * 100)
            print("processes", n, hashlib.sha256("".join(values).encode()).hexdigest(), counter, flush=n % 3 == 0)
    print("end")


if __name__ == "__main__":
    main()
