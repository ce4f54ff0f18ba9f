"""The official Python client inside pods: commands with input and exit codes, attaching, forwarded ports; and the
library's own leader election, whose leader dies."""

import subprocess
import sys

from kubernetes import client, config, watch
from kubernetes.leaderelection import electionconfig, leaderelection
from kubernetes.leaderelection.resourcelock.leaselock import LeaseLock
from kubernetes.stream import portforward, stream

NAMESPACE = "python-inside"


def run_pod(core, name, command, stdin=False):
    """Starts a pod of the toolbox and waits until it runs."""
    container = {"name": "tools", "image": "toolbox", "command": command, "stdin": stdin}
    core.create_namespaced_pod(
        NAMESPACE, {"metadata": {"name": name}, "spec": {"containers": [container], "terminationGracePeriodSeconds": 0}}
    )
    pods = watch.Watch().stream(
        core.list_namespaced_pod, NAMESPACE, field_selector=f"metadata.name={name}", timeout_seconds=60
    )
    for event in pods:
        if event["object"].status.phase == "Running":
            return
    raise AssertionError(f"the pod {name} does not run")


def read_until(talk, wanted):
    said = ""
    while wanted not in said:
        assert talk.is_open(), said
        talk.update(timeout=60)
        said += talk.read_stdout() if talk.peek_stdout() else ""
    return said


def commands(core):
    run_pod(core, "tools", ["sleep", "3600"])
    command = core.connect_get_namespaced_pod_exec
    streams = {"stdout": True, "stderr": True, "tty": False}
    said = stream(command, "tools", NAMESPACE, command=["echo", "hello", "you"], stdin=False, **streams)
    assert said == "hello you\n", said
    for program, code in [("true", 0), ("false", 1), ("nothing", 127)]:
        ran = stream(command, "tools", NAMESPACE, command=[program], stdin=False, _preload_content=False, **streams)
        ran.run_forever(timeout=60)
        assert ran.returncode == code, (program, ran.returncode)
    talk = stream(command, "tools", NAMESPACE, command=["cat"], stdin=True, _preload_content=False, **streams)
    for word in ["one", "two"]:
        talk.write_stdin(f"{word}\n")
        assert read_until(talk, "\n") == f"{word}\n"
    talk.close()


def attached(core):
    run_pod(core, "echo", ["cat"], stdin=True)
    attach = core.connect_get_namespaced_pod_attach
    talk = stream(attach, "echo", NAMESPACE, stdin=True, stdout=True, stderr=True, tty=False, _preload_content=False)
    talk.write_stdin("said to the program itself\n")
    assert "said to the program itself\n" in read_until(talk, "\n")
    talk.close()


def forwarded(core):
    pods = core.list_namespaced_pod("default", label_selector="app=hello").items
    forward = portforward(
        core.connect_get_namespaced_pod_portforward, pods[0].metadata.name, "default", ports="8080"
    )
    connection = forward.socket(8080)
    connection.settimeout(60)
    connection.sendall(b"GET /?name=python HTTP/1.1\r\nHost: hello\r\nConnection: close\r\n\r\n")
    answer = b""
    while piece := connection.recv(4096):
        answer += piece
    assert answer.startswith(b"HTTP/1.1 200") and b"hello, python" in answer, answer
    assert forward.error(8080) is None, forward.error(8080)


def candidate(name):
    """What a replica of somebody's controller does: it leads until it dies."""

    def leads():
        print(name, flush=True)
        sys.stdin.read()

    lock = LeaseLock("controller", NAMESPACE, name)
    times = {"lease_duration": 4, "renew_deadline": 3, "retry_period": 1}
    election = electionconfig.Config(lock, onstarted_leading=leads, onstopped_leading=lambda: None, **times)
    leaderelection.LeaderElection(election).run()


def elected():
    """Two candidates: one leads, and when it dies the other does."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    start = lambda name: subprocess.Popen([sys.executable, __file__, name], **pipes)
    first = start("first")
    second = None
    try:
        assert first.stdout.readline() == "first\n"
        second = start("second")
        leases = client.CoordinationV1Api()
        assert leases.read_namespaced_lease("controller", NAMESPACE).spec.holder_identity == "first"
        first.kill()
        assert second.stdout.readline() == "second\n"
        lease = leases.read_namespaced_lease("controller", NAMESPACE)
        assert lease.spec.holder_identity == "second", lease.spec
    finally:
        for process in filter(None, [first, second]):
            process.kill()
            process.wait()


def main():
    config.load_kube_config()
    if len(sys.argv) > 1:
        return candidate(sys.argv[1])
    core = client.CoreV1Api()
    core.create_namespace(client.V1Namespace(metadata=client.V1ObjectMeta(name=NAMESPACE)))
    commands(core)
    attached(core)
    forwarded(core)
    elected()
    core.delete_namespace(NAMESPACE)


main()
