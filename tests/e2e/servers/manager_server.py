"""multiprocessing.Manager: processes that share a dictionary, a list, a queue, a namespace, locks, a barrier and
conditions through the manager's process; a pool with it; and a manager that listens on TCP."""

import multiprocessing
from multiprocessing.managers import BaseManager

import common
from common import PORT, check, equal


def count_up(shared, lock, name, times):
    for _ in range(times):
        with lock:
            shared["sum"] += 1
            shared[name] = shared.get(name, 0) + 1


def work(tasks, results):
    while (task := tasks.get()) is not None:
        results.put((task, task * task))


def meet(barrier, numbers, mine, times):
    for i in range(times):
        numbers[mine] = i
        barrier.wait()
        check(all(n == i for n in numbers), "at the barrier", i, list(numbers))
        barrier.wait()


def square(n):
    return n * n


class Remote:
    def __init__(self):
        self.number = 0

    def add(self, n):
        self.number += n
        return self.number


remote = Remote()


class Manager(BaseManager):
    pass


Manager.register("remote", callable=lambda: remote)


def serve():
    Manager(("127.0.0.1", PORT), b"secret").get_server().serve_forever()


def one_round(number, manager, context, tasks, results, pool, far):
    shared, lock = manager.dict(sum=0), manager.Lock()
    numbers, barrier = manager.list([0, 0, 0]), manager.Barrier(3)
    started = [context.Process(target=count_up, args=(shared, lock, f"p{i}", 10)) for i in range(2)]
    started += [context.Process(target=meet, args=(barrier, numbers, i, 4)) for i in range(3)]
    for process in started:
        process.start()
    for i in range(20):
        tasks.put(number * 20 + i)
    got = sorted(results.get() for _ in range(20))
    equal(got, [(n, n * n) for n in range(number * 20, number * 20 + 20)], "results of the queue")
    equal(pool.map(square, range(50), chunksize=3), [n * n for n in range(50)], "results of the pool")
    for process in started:
        process.join()
        equal(process.exitcode, 0, "a process's status")
    equal(dict(shared), {"sum": 20, "p0": 10, "p1": 10}, "the dictionary")
    equal(far.add(1), number + 1, "the remote number")


def main():
    context = multiprocessing.get_context("fork")
    server = context.Process(target=serve)
    server.start()
    common.connect().close()
    client = Manager(("127.0.0.1", PORT), b"secret")
    client.connect()
    far = client.remote()
    with context.Manager() as manager, context.Pool(2) as pool:
        tasks, results = manager.Queue(), manager.Queue()
        workers = [context.Process(target=work, args=(tasks, results)) for _ in range(2)]
        for worker in workers:
            worker.start()
        common.AFTERWARDS = 3
        for number in common.rounds():
            one_round(number, manager, context, tasks, results, pool, far)
        for _ in workers:
            tasks.put(None)
        for worker in workers:
            worker.join()
        pool.close()
        pool.join()
    server.terminate()
    server.join()
    equal(server.exitcode, -common.signal.SIGTERM, "the server's status")
    common.done()


common.guarded(main)
