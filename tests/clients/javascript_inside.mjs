// @kubernetes/client-node inside pods: commands with input, exit codes, copies, forwarded ports; a watch that the server
// ends and that goes on; a Lease that changes hands.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { PassThrough, Readable } from 'node:stream';
import { text } from 'node:stream/consumers';
import * as k8s from '@kubernetes/client-node';

const namespace = 'javascript-inside';
const config = new k8s.KubeConfig();
config.loadFromDefault();
const core = config.makeApiClient(k8s.CoreV1Api);
const leases = config.makeApiClient(k8s.CoordinationV1Api);

/** Changes of objects behind a path until `look` has seen enough; a watch that the server ends is begun again after `ended`. */
async function watching(path, query, look, ended = async () => {}) {
  let since = query.resourceVersion;
  let ends = 0;
  for (let enough = false; !enough; ends += 1) {
    await new Promise((resolve, reject) => {
      const options = { ...query, resourceVersion: since };
      const watch = new k8s.Watch(config).watch(path, options, (event, object) => {
        since = object.metadata.resourceVersion;
        if (!enough && look(event, object)) {
          enough = true;
          watch.then((request) => request.abort()).then(resolve, reject);
        }
      }, (error) => (enough || !error || error === k8s.Watch.SERVER_SIDE_CLOSE ? resolve() : reject(error)));
      watch.catch(reject);
    });
    if (!enough) await ended(ends);
    assert.ok(ends < 100, `waited in vain behind ${path}`);
  }
  return ends;
}

/** Runs a command; what it wrote, and its status as the API tells it. */
async function run(command, input) {
  const [out, err] = [new PassThrough(), new PassThrough()];
  const written = text(out);
  const status = await new Promise((resolve, reject) => {
    const stdin = input === undefined ? null : Readable.from([input]);
    new k8s.Exec(config).exec(namespace, 'tools', 'tools', command, out, err, stdin, false, resolve).catch(reject);
  });
  out.end();
  return { written: await written, status };
}

await core.createNamespace({ body: { metadata: { name: namespace } } });
const container = { name: 'tools', image: 'toolbox', command: ['sleep', '3600'] };
await core.createNamespacedPod({
  namespace,
  body: { metadata: { name: 'tools' }, spec: { containers: [container], terminationGracePeriodSeconds: 0 } },
});
const pods = `/api/v1/namespaces/${namespace}/pods`;
await watching(pods, { timeoutSeconds: 5 }, (_, pod) => pod.status.phase === 'Running');

let ran = await run(['echo', 'hello', 'you']);
assert.equal(ran.written, 'hello you\n');
assert.equal(ran.status.status, 'Success');
ran = await run(['false']);
assert.equal(ran.status.status, 'Failure');
assert.deepEqual(ran.status.details.causes, [{ reason: 'ExitCode', message: '1' }]);
// A program that reads so much and no more ends by itself, whatever a client can say about the end of its input.
ran = await run(['head', '-n', '1'], 'one\ntwo\n');
assert.equal(ran.written, 'one\n');

const hello = (await core.listNamespacedPod({ namespace: 'default', labelSelector: 'app=hello' })).items[0];
const [answer, request] = [new PassThrough(), new PassThrough()];
const forward = await new k8s.PortForward(config).portForward(
  'default', hello.metadata.name, [8080], answer, null, request,
);
request.write('GET /?name=javascript HTTP/1.1\r\nHost: hello\r\n\r\n');
let said = '';
while (!said.includes('hello, javascript')) said += (await once(answer, 'data'))[0];
assert.ok(said.startsWith('HTTP/1.1 200'), said);
forward.close();

// The server ends the watch after a second, several times; every change is seen once.
const settings = await core.createNamespacedConfigMap({
  namespace, body: { metadata: { name: 'settings' }, data: { number: '0' } },
});
const seen = [];
const change = async (number) => {
  const patch = [{ op: 'replace', path: '/data/number', value: String(number) }];
  await core.patchNamespacedConfigMap({ name: 'settings', namespace, body: patch });
};
await change(1);
const query = {
  fieldSelector: 'metadata.name=settings', resourceVersion: settings.metadata.resourceVersion, timeoutSeconds: 1,
};
const look = (event, object) => seen.push(`${event} ${object.data.number}`) === 2;
// The next change comes when the watch that saw the first one has ended.
const ended = async (ends) => { if (ends === 0) await change(2); };
const ends = await watching(`/api/v1/namespaces/${namespace}/configmaps`, query, look, ended);
assert.deepEqual(seen, ['MODIFIED 1', 'MODIFIED 2']);
assert.ok(ends >= 2, `the watch ended ${ends} times`);

// A Lease: whoever read it before somebody else took it does not get it, and the next one does when it is given up.
const now = () => new k8s.V1MicroTime();
await leases.createNamespacedLease({
  namespace,
  body: { metadata: { name: 'controller' }, spec: { leaseDurationSeconds: 15, acquireTime: now(), renewTime: now() } },
});
const read = () => leases.readNamespacedLease({ name: 'controller', namespace });
const take = (lease, holder) => leases.replaceNamespacedLease({
  name: 'controller', namespace, body: { ...lease, spec: { ...lease.spec, holderIdentity: holder, renewTime: now() } },
});
const [first, other] = [await read(), await read()];
await take(first, 'first');
await assert.rejects(take(other, 'second'), (error) => error.code === 409);
assert.equal((await read()).spec.holderIdentity, 'first');
await take(await read(), 'second');
assert.equal((await read()).spec.holderIdentity, 'second');

await core.deleteNamespace({ name: namespace });
process.exit(0);
