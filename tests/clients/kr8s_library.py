"""kr8s: objects that know how to refresh, patch, scale, wait for and delete themselves."""

import kr8s
from kr8s.objects import ConfigMap, Deployment, Namespace, Pod

NAMESPACE = "kr8s-library"


def main():
    api = kr8s.api()
    assert api.version()["major"] == "1"
    namespace = Namespace({"metadata": {"name": NAMESPACE}})
    namespace.create()
    settings = ConfigMap({"metadata": {"name": "settings", "namespace": NAMESPACE}, "data": {"a": "1"}})
    settings.create()
    settings.patch({"data": {"b": "2"}})
    settings.label({"team": "blue"})
    settings.refresh()
    assert settings.data == {"a": "1", "b": "2"} and settings.labels["team"] == "blue", settings.raw
    found = list(kr8s.get("configmaps", namespace=NAMESPACE, label_selector="team=blue"))
    assert [item.name for item in found] == ["settings"], found

    labels = {"app": "web"}
    web = Deployment(
        {
            "metadata": {"name": "web", "namespace": NAMESPACE},
            "spec": {
                "replicas": 0,
                "selector": {"matchLabels": labels},
                "template": {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "absent:1"}]}},
            },
        }
    )
    web.create()
    web.patch({"spec": {"replicas": 2}})
    for event, pod in api.watch("pods", namespace=NAMESPACE):
        if event == "ADDED" and isinstance(pod, Pod):
            assert pod.labels["app"] == "web", pod.raw
            break
    web.delete()
    settings.delete()
    assert not settings.exists()
    namespace.delete()
    namespace.wait("delete", timeout=60)


main()
