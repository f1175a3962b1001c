"""Counts primes with child processes and threads: a program to be checkpointed.

    primes.py LIMIT

Two child processes with two threads each work on slices of the numbers below LIMIT and send what they find
through pipes; the parent prints a line per slice and the total in the end."""

import multiprocessing
import sys
import threading

SLICES = 40


def count_primes(start, end):
    """By trial division: slow on purpose."""
    count = 0
    for n in range(max(start, 2), end):
        divisor = 2
        while divisor * divisor <= n:
            if n % divisor == 0:
                break
            divisor += 1
        else:
            count += 1
    return count


def worker(number, limit, results):
    for part in range(number, SLICES, 2):
        start, end = limit * part // SLICES, limit * (part + 1) // SLICES
        middle = (start + end) // 2
        counts = {}

        def count(key, first, last):
            counts[key] = count_primes(first, last)

        threads = [threading.Thread(target=count, args=("low", start, middle)),
                   threading.Thread(target=count, args=("high", middle, end))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        results.send((part, counts["low"] + counts["high"]))
    results.close()


def main():
    limit = int(sys.argv[1])
    readers, children = [], []
    for number in range(2):
        reader, writer = multiprocessing.Pipe(duplex=False)
        children.append(multiprocessing.Process(target=worker, args=(number, limit, writer)))
        children[-1].start()
        writer.close()
        readers.append(reader)
    total = 0
    for part in range(SLICES):
        got, count = readers[part % 2].recv()
        assert got == part
        total += count
        print(f"slice {part + 1} of {SLICES}: {count} primes, {total} so far", flush=True)
    for child in children:
        child.join()
        assert child.exitcode == 0
    print(f"total {total}", flush=True)


if __name__ == "__main__":
    main()
