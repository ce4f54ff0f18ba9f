"""kr8s inside pods: commands, forwarded ports; a watch that goes on where another ended; a Lease that one of two takes."""

import socket
from datetime import datetime, timezone

import kr8s
from kr8s.objects import ConfigMap, Namespace, Pod, new_class

NAMESPACE = "kr8s-inside"
Lease = new_class(kind="Lease", version="coordination.k8s.io/v1", namespaced=True)


def commands():
    container = {"name": "tools", "image": "toolbox", "command": ["sleep", "3600"]}
    pod = Pod({
        "metadata": {"name": "tools", "namespace": NAMESPACE},
        "spec": {"containers": [container], "terminationGracePeriodSeconds": 0},
    })
    pod.create()
    pod.wait("condition=Ready", timeout=60)
    ran = pod.exec(["echo", "hello", "you"])
    assert (ran.returncode, ran.stdout) == (0, b"hello you\n"), ran
    assert pod.exec(["false"], check=False).returncode == 1
    pod.delete()


def forwarded():
    pod = next(iter(kr8s.get("pods", namespace="default", label_selector="app=hello")))
    with pod.portforward(8080, local_port="auto") as port:
        with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
            connection.sendall(b"GET /?name=kr8s HTTP/1.1\r\nHost: hello\r\nConnection: close\r\n\r\n")
            answer = b""
            while piece := connection.recv(4096):
                answer += piece
    assert answer.startswith(b"HTTP/1.1 200") and b"hello, kr8s" in answer, answer


def watching(api):
    """Every change is seen once, although each watch sees only one of them and the next begins where it ended."""
    settings = ConfigMap({"metadata": {"name": "settings", "namespace": NAMESPACE}, "data": {"number": "0"}})
    settings.create()
    since = settings.metadata.resourceVersion
    for number in range(1, 4):
        settings.patch({"data": {"number": str(number)}})
    seen = []
    while len(seen) < 3:
        selected = {"namespace": NAMESPACE, "field_selector": "metadata.name=settings", "since": since}
        for event, found in api.watch("configmaps", **selected):
            seen.append((event, found.data["number"]))
            since = found.metadata.resourceVersion
            break
    assert seen == [("MODIFIED", "1"), ("MODIFIED", "2"), ("MODIFIED", "3")], seen


def elected():
    """Whoever read the Lease before somebody else took it does not get it."""
    now = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    spec = {"leaseDurationSeconds": 15, "acquireTime": now, "renewTime": now}
    lease = Lease({"metadata": {"name": "controller", "namespace": NAMESPACE}, "spec": spec})
    lease.create()
    version = lease.metadata.resourceVersion
    take = lambda holder: {"metadata": {"resourceVersion": version}, "spec": {"holderIdentity": holder}}
    lease.patch(take("first"))
    try:
        Lease.get("controller", namespace=NAMESPACE).patch(take("second"))
        raise AssertionError("two leaders")
    except kr8s.ServerError as refused:
        assert refused.response.status_code == 409, refused
    lease.refresh()
    assert lease.spec.holderIdentity == "first", lease.raw


def main():
    namespace = Namespace({"metadata": {"name": NAMESPACE}})
    namespace.create()
    commands()
    forwarded()
    watching(kr8s.api())
    elected()
    namespace.delete()


main()
