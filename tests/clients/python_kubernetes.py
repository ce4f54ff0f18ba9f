"""The official Python client: typed and dynamic access, watches that reconnect, patches, server-side apply, leases,
definitions."""

import datetime
import threading

from kubernetes import client, config, dynamic, watch
from kubernetes.client.rest import ApiException

NAMESPACE = "python-kubernetes"


def deployment(replicas):
    labels = {"app": "web"}
    container = {"name": "web", "image": "absent:1", "ports": [{"containerPort": 8080}]}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}},
        },
    }


def crud(core, apps):
    core.create_namespace(client.V1Namespace(metadata=client.V1ObjectMeta(name=NAMESPACE)))
    created = core.create_namespaced_config_map(
        NAMESPACE, client.V1ConfigMap(metadata=client.V1ObjectMeta(name="settings"), data={"colour": "red"})
    )
    created.data["colour"] = "blue"
    core.replace_namespaced_config_map("settings", NAMESPACE, created)
    try:
        core.replace_namespaced_config_map("settings", NAMESPACE, created)
        raise AssertionError("a stale resourceVersion was accepted")
    except ApiException as refused:
        assert refused.status == 409, refused
    core.patch_namespaced_config_map("settings", NAMESPACE, {"data": {"size": "10"}})
    read = core.read_namespaced_config_map("settings", NAMESPACE)
    assert read.data == {"colour": "blue", "size": "10"}, read.data

    apps.create_namespaced_deployment(NAMESPACE, deployment(2))
    for _ in range(10):
        # The controller writes the status meanwhile: a conflict is tried again, as everywhere.
        scale = apps.read_namespaced_deployment_scale("web", NAMESPACE)
        assert scale.spec.replicas == 2, scale
        scale.spec.replicas = 1
        try:
            apps.replace_namespaced_deployment_scale("web", NAMESPACE, scale)
            break
        except ApiException as refused:
            assert refused.status == 409, refused
    assert apps.read_namespaced_deployment("web", NAMESPACE).spec.replicas == 1


def watching(core):
    """Sees every change once, over a watch that the server ends twice on the way."""
    listed = core.list_namespaced_config_map(NAMESPACE)
    version = listed.metadata.resource_version

    def write():
        for number in range(3):
            core.patch_namespaced_config_map("settings", NAMESPACE, {"data": {"number": str(number)}})

    writer = threading.Thread(target=write)
    writer.start()
    seen = []
    while len(seen) < 3:
        watcher = watch.Watch()
        stream = watcher.stream(
            core.list_namespaced_config_map,
            NAMESPACE,
            resource_version=version,
            field_selector="metadata.name=settings",
            timeout_seconds=10,
        )
        for event in stream:
            seen.append(event["object"].data.get("number"))
            version = event["object"].metadata.resource_version
            break
        watcher.stop()
    writer.join()
    assert seen == ["0", "1", "2"], seen


def applying(api):
    resources = dynamic.DynamicClient(api)
    maps = resources.resources.get(api_version="v1", kind="ConfigMap")
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "applied"}, "data": {"a": "1", "b": "2"}}
    resources.server_side_apply(maps, body=body, namespace=NAMESPACE, field_manager="one")
    theirs = dict(body, data={"a": "9"})
    try:
        resources.server_side_apply(maps, body=theirs, namespace=NAMESPACE, field_manager="two")
        raise AssertionError("a conflict was not noticed")
    except ApiException as refused:
        assert refused.status == 409 and "conflict" in str(refused.body), refused
    del body["data"]["b"]
    applied = resources.server_side_apply(maps, body=body, namespace=NAMESPACE, field_manager="one")
    assert dict(applied.data) == {"a": "1"}, applied.data


def leading(coordination):
    """Two candidates, one Lease: only one can take it."""
    now = datetime.datetime.now(datetime.timezone.utc)
    spec = client.V1LeaseSpec(holder_identity="a", lease_duration_seconds=15, acquire_time=now, renew_time=now)
    lease = coordination.create_namespaced_lease(
        NAMESPACE, client.V1Lease(metadata=client.V1ObjectMeta(name="leader"), spec=spec)
    )
    first = coordination.read_namespaced_lease("leader", NAMESPACE)
    lease.spec.holder_identity = "b"
    coordination.replace_namespaced_lease("leader", NAMESPACE, lease)
    first.spec.renew_time = datetime.datetime.now(datetime.timezone.utc)
    try:
        coordination.replace_namespaced_lease("leader", NAMESPACE, first)
        raise AssertionError("two leaders")
    except ApiException as refused:
        assert refused.status == 409, refused


def definitions():
    """A resource of one's own: defined, established, its rules kept, its status a part of its own."""
    group = "python.example.com"
    schema = {
        "type": "object",
        "properties": {
            "spec": {
                "type": "object",
                "properties": {"least": {"type": "integer"}, "most": {"type": "integer", "default": 10}},
                "x-kubernetes-validations": [{"rule": "self.least <= self.most", "message": "least is more than most"}],
            },
            "status": {"type": "object", "properties": {"phase": {"type": "string"}}},
        },
    }
    version = {
        "name": "v1",
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": schema},
        "subresources": {"status": {}},
    }
    names = {"plural": "ranges", "singular": "range", "kind": "Range"}
    extensions, objects = client.ApiextensionsV1Api(), client.CustomObjectsApi()
    extensions.create_custom_resource_definition(
        {
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {"name": f"ranges.{group}"},
            "spec": {"group": group, "scope": "Namespaced", "names": names, "versions": [version]},
        }
    )
    for event in watch.Watch().stream(extensions.list_custom_resource_definition, timeout_seconds=60):
        if event["object"].metadata.name != f"ranges.{group}":
            continue
        conditions = (event["object"].status and event["object"].status.conditions) or []
        if any(condition.type == "Established" and condition.status == "True" for condition in conditions):
            break
    place = (group, "v1", NAMESPACE, "ranges")
    body = {"apiVersion": f"{group}/v1", "kind": "Range", "metadata": {"name": "a"}, "spec": {"least": 3}}
    made = objects.create_namespaced_custom_object(*place, body)
    assert made["spec"]["most"] == 10, made
    try:
        objects.patch_namespaced_custom_object(*place, "a", {"spec": {"least": 11}})
        raise AssertionError("a rule was not kept")
    except ApiException as refused:
        assert refused.status == 422 and "least is more than most" in refused.body, refused
    told = objects.patch_namespaced_custom_object_status(*place, "a", {"status": {"phase": "ok"}, "spec": {"least": 5}})
    assert told["status"]["phase"] == "ok" and told["spec"]["least"] == 3, told
    extensions.delete_custom_resource_definition(f"ranges.{group}")


def pages(core):
    for number in range(7):
        core.create_namespaced_secret(
            NAMESPACE, client.V1Secret(metadata=client.V1ObjectMeta(name=f"s{number}", labels={"page": "yes"}))
        )
    names, token = [], None
    while True:
        page = core.list_namespaced_secret(NAMESPACE, limit=3, _continue=token, label_selector="page=yes")
        names += [secret.metadata.name for secret in page.items]
        token = page.metadata._continue
        if not token:
            break
    assert names == [f"s{number}" for number in range(7)], names


def main():
    config.load_kube_config()
    core, apps = client.CoreV1Api(), client.AppsV1Api()
    assert client.VersionApi().get_code().major == "1"
    crud(core, apps)
    watching(core)
    applying(client.ApiClient())
    leading(client.CoordinationV1Api())
    definitions()
    pages(core)
    core.delete_namespace(NAMESPACE)
    for event in watch.Watch().stream(core.list_namespace, timeout_seconds=60):
        if event["type"] == "DELETED" and event["object"].metadata.name == NAMESPACE:
            return
    raise AssertionError("the namespace was not deleted")


main()
