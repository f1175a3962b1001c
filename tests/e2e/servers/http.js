// Node.js: a cluster of HTTP servers, with keep-alive clients that post and get large bodies in a process of their own,
// server-sent chunks, timers, a worker thread, and files.
'use strict';
const cluster = require('cluster');
const crypto = require('crypto');
const fs = require('fs');
const http = require('http');
const { Worker, isMainThread, parentPort } = require('worker_threads');

const port = +process.argv[2];
const afterwards = 20;
const sha = (data) => crypto.createHash('sha256').update(data).digest('hex');

function wrong(...what) {
    fs.writeSync(1, `wrong: ${what.join(' ')}\n`);
    process.exit(1);
}

function equal(got, expected, what) {
    if (got !== expected)
        wrong(what, 'is', String(got).slice(0, 200), 'and not', String(expected).slice(0, 200));
}

function serve() {
    const server = http.createServer({ keepAliveTimeout: 1e8 }, (request, response) => {
        const hash = crypto.createHash('sha256');
        let size = 0;
        request.on('data', (part) => { hash.update(part); size += part.length; });
        request.on('end', () => {
            if (request.url === '/sum') {
                response.end(`${size} ${hash.digest('hex')}`);
            } else { // /chunks/N: a chunk after the other
                let left = +request.url.split('/')[2];
                const next = () => {
                    if (left-- === 0)
                        return response.end();
                    response.write(`chunk ${left}\n`, () => setImmediate(next));
                };
                next();
            }
        });
    });
    server.listen(port, '127.0.0.1');
}

function ask(agent, method, path, body) {
    return new Promise((resolve) => {
        const request = http.request({ agent, method, path, port, host: '127.0.0.1' }, (response) => {
            const parts = [];
            response.on('data', (part) => parts.push(part));
            response.on('end', () => resolve(Buffer.concat(parts).toString()));
            response.on('error', (e) => wrong('response', e));
        });
        request.on('error', (e) => wrong(path, e));
        request.end(body);
    });
}

async function forever(work) {
    for (let number = 0, left = afterwards; left > 0; number++) {
        if (fs.existsSync('stop'))
            left--;
        await work(number);
    }
}

function pattern(number) {
    return Buffer.alloc(1 + (number * 7919) % 700000, `${number} `);
}

async function client() {
    const agent = new http.Agent({ keepAlive: true, maxSockets: 4 });
    const worker = new Worker(__filename);
    const answer = (message) => new Promise((resolve) => { worker.once('message', resolve); worker.postMessage(message); });
    const post = async (number) => {
        const body = pattern(number);
        equal(await ask(agent, 'POST', '/sum', body), `${body.length} ${sha(body)}`, 'sum');
    };
    const chunks = async (number) => {
        let expected = '';
        for (let i = number % 50; i-- > 0;)
            expected += `chunk ${i}\n`;
        equal(await ask(agent, 'GET', `/chunks/${number % 50}`), expected, 'chunks');
    };
    const files = async (number) => {
        const name = `file${number % 10}`;
        await fs.promises.appendFile(name, 'x');
        await new Promise((resolve) => setTimeout(resolve, 2));
        equal((await fs.promises.readFile(name)).length, Math.floor(number / 10) + 1, 'file');
    };
    const work = async (number) => equal(await answer(number), sha(`${number}`), 'worker');
    setTimeout(() => fs.writeFileSync('ready', ''), 100);
    await Promise.all([forever(post), forever(chunks), forever(post), forever(work), forever(files)]);
    agent.destroy();
    await worker.terminate();
    process.exit(0);
}

if (!isMainThread) {
    parentPort.on('message', (number) => parentPort.postMessage(sha(`${number}`)));
} else if (!cluster.isPrimary) {
    process.argv[3] === 'client' ? client() : serve();
} else {
    const servers = [cluster.fork(), cluster.fork()];
    let listening = 0;
    cluster.on('listening', () => {
        if (++listening !== 2)
            return;
        cluster.setupPrimary({ args: [port, 'client'] });
        cluster.fork().on('exit', (code) => {
            equal(code, 0, "the client's status");
            for (const server of servers)
                server.process.kill();
        });
    });
    let ended = 0;
    cluster.on('exit', () => {
        if (++ended === 3)
            console.log('all as it should be');
    });
}
