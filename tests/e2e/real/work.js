// Worker threads with messages and shared memory, promises, timers, hashing, big objects that the garbage
// collector has to deal with; the same output each time.
const { Worker, isMainThread, parentPort, workerData } = require('worker_threads');
const crypto = require('crypto');

const digest = (n) => {
    let value = String(n);
    for (let i = 0; i < 200; i++) value = crypto.createHash('sha256').update(value).digest('hex');
    return value;
};

if (!isMainThread) {
    const shared = new Int32Array(workerData);
    parentPort.on('message', (n) => {
        if (n === null) return parentPort.close();
        Atomics.add(shared, 0, n);
        parentPort.postMessage([n, digest(n)]);
    });
} else {
    const rounds = Number(process.argv[2] || 40);
    const buffer = new SharedArrayBuffer(16);
    const workers = [0, 1, 2].map(() => new Worker(__filename, { workerData: buffer }));
    const pending = new Map();
    for (const worker of workers)
        worker.on('message', ([n, value]) => { pending.get(n)(value); pending.delete(n); });
    const ask = (n) => new Promise((resolve) => { pending.set(n, resolve); workers[n % 3].postMessage(n); });
    const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
    const garbage = (n) => Array.from({ length: 20000 }, (_, i) => ({ i, s: `${n}-${i}` })).reduce((a, o) => a + o.s.length, 0);

    (async () => {
        for (let round = 0; round < rounds; round++) {
            const values = await Promise.all(Array.from({ length: 30 }, (_, i) => ask(round * 30 + i)));
            await sleep(5);
            console.log(round, digest(values.join('')), garbage(round));
        }
        for (const worker of workers) worker.postMessage(null);
        console.log('sum', new Int32Array(buffer)[0]);
        console.log('end');
    })();
}
