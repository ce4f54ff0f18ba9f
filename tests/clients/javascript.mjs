// @kubernetes/client-node: typed calls, an informer that survives the end of its watch, server-side apply.
import assert from 'node:assert/strict';
import * as k8s from '@kubernetes/client-node';

const namespace = 'javascript';
const config = new k8s.KubeConfig();
config.loadFromDefault();
const core = config.makeApiClient(k8s.CoreV1Api);
const objects = k8s.KubernetesObjectApi.makeApiClient(config);

/** Resolves when `look` returns something; rejects after a minute. */
async function eventually(what, look) {
  const deadline = Date.now() + 60_000;
  for (;;) {
    const found = await look();
    if (found) return found;
    assert.ok(Date.now() < deadline, `waited in vain for ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

await core.createNamespace({ body: { metadata: { name: namespace } } });
const seen = new Map();
const informer = k8s.makeInformer(config, `/api/v1/namespaces/${namespace}/configmaps`, () =>
  core.listNamespacedConfigMap({ namespace }),
);
informer.on('add', (object) => seen.set(object.metadata.name, object.data));
informer.on('update', (object) => seen.set(object.metadata.name, object.data));
informer.on('delete', (object) => seen.delete(object.metadata.name));
informer.on('error', () => informer.start());
await informer.start();

const settings = { apiVersion: 'v1', kind: 'ConfigMap', metadata: { name: 'settings', namespace }, data: { a: '1' } };
await core.createNamespacedConfigMap({ namespace, body: settings });
await eventually('the informer to see it', () => seen.get('settings')?.a === '1');
await objects.patch(
  { ...settings, data: { a: '2', b: '3' } },
  undefined,
  undefined,
  'javascript',
  true,
  k8s.PatchStrategy.ServerSideApply,
);
await eventually('the informer to see the change', () => seen.get('settings')?.b === '3');
await assert.rejects(core.createNamespacedConfigMap({ namespace, body: settings }), (error) => error.code === 409);
await core.deleteNamespacedConfigMap({ name: 'settings', namespace });
await eventually('the informer to see it gone', () => !seen.has('settings'));
informer.stop();
await core.deleteNamespace({ name: namespace });
await eventually('the namespace to go', async () => {
  const list = await core.listNamespace();
  return !list.items.some((item) => item.metadata.name === namespace);
});
process.exit(0);
