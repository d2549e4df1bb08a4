"""What holds for all files that start clusters: each rule gives a line for everything that breaks it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import yaml

import pixelmodels

from .files import KUBERAY, KUBERNETES, LAUNCHER, LOCK, Files, documents, launcher_commands, pins, pods, prepared, ray_cluster

Rule = Callable[[Files], Iterator[str]]
_SECRET_NAME = r"\w*(?:PASSWORD|SECRET|TOKEN|API_KEYS?|ACCESS_KEY|KEY_ID|CREDENTIALS?)\w*"
_SECRET_VALUES = {
    "a key of AWS": r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b",
    "a private key": r"-----BEGIN [A-Z ]*PRIVATE KEY-----",
    "a key of the service": r"\bpm_[\w-]{20,}",
    "a login in an address": r"\w+://[^/\s:@]+:[^/\s@]+@",
    "32 or more digits of a token or hash": r"\b[0-9a-fA-F]{32,}\b",
    "a token of letters and digits": r"(?<![\w/.-])(?=[\w-]*[a-z])(?=[\w-]*[A-Z])(?=[\w-]*[0-9])[\w-]{32,}(?![\w/.-])",
}


def no_secrets(texts: Files) -> Iterator[str]:
    """No secret stands in a file: not as what it looks like, and not under a name of one."""
    for name, text in texts.items():
        for what, pattern in _SECRET_VALUES.items():
            yield from (f"{name}: {what}" for _ in re.finditer(pattern, text))
        # in shells: NAME=value is none where the value is an expansion, a file's name, or one of Ray's modes
        for found in re.finditer(rf"\b({_SECRET_NAME})=(\S*)", text):
            if not found[1].endswith("_PATH") and not re.match(r'"?\$|$', found[2]):
                yield f"{name}: {found[1]} has a value"
        for found in re.finditer(r"--from-literal=[\w-]+=(\S*)", text):
            if not found[1].startswith('"$') and found[0] != "--from-literal=username=admin":
                yield f"{name}: a literal secret"
        for document in documents(text) if name.endswith(".yaml") else ():
            if document.get("kind") == "Secret":
                yield f"{name}: a Secret"
            for variable in _variables(document):
                if re.fullmatch(_SECRET_NAME, variable["name"]) and "secretKeyRef" not in variable.get("valueFrom", {}):
                    yield f"{name}: {variable['name']} is no reference to a Secret"


def _variables(node: Any) -> Iterator[dict[str, Any]]:
    """All entries of all `env` lists."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield from value if key == "env" and isinstance(value, list) else _variables(value)
    elif isinstance(node, list):
        for value in node:
            yield from _variables(value)


def token_everywhere(texts: Files) -> Iterator[str]:
    """Whatever starts Ray demands its token, and the launcher hands one on that nobody else can read."""
    for name, text in texts.items():
        if re.search(r"RAY_AUTH_MODE[=:\s]+(?!token\b)\w+", text):
            yield f"{name}: RAY_AUTH_MODE is not token"
    for name in LAUNCHER:
        commands = launcher_commands(texts[name])
        yield from (
            f"{name}: '{one}' without a token" for one in commands if "ray start" in one and "RAY_AUTH_MODE=token ray start" not in one
        )
        for role in ("head", "worker"):
            setup = prepared(texts[name])[f"{role}_setup_commands"]
            if not any(re.search(r"chmod 600 .*~/\.ray/auth_token|chmod 600 ~/\.ray/auth_token", one) for one in setup):
                yield f"{name}: the token of a {role} may be read by others"
        if "~/.ray/auth_token" not in prepared(texts[name])["cluster_synced_files"]:
            yield f"{name}: workers get no token"
    for name in KUBERAY:
        for document in documents(texts[name]):
            cluster = ray_cluster(document)
            if cluster is not None and cluster.get("authOptions") != {"mode": "token"}:
                yield f"{name}: no token"
    if "RAY_AUTH_MODE=token" not in texts["Dockerfile"].rpartition(" AS pixelmodels\n")[2]:
        yield "Dockerfile: Ray in the image starts without a token"
    # the commands at the top of a file, in their order
    for name, text in texts.items():
        remarks = "\n".join(line for line in text.splitlines() if line.startswith("#"))
        start = re.search(r"^#\s+ray start", remarks, re.MULTILINE)
        if start and "export RAY_AUTH_MODE=token" not in remarks[: start.start()]:
            yield f"{name}: its commands start Ray without a token"


def nothing_listens_unguarded(texts: Files) -> Iterator[str]:
    """What listens is on loopback, on a machine's private address behind its firewall, or behind a NetworkPolicy."""
    for name in LAUNCHER:
        for command in launcher_commands(texts[name]):
            if "ray start --head" in command and "--dashboard-host=127.0.0.1" not in command:
                yield f"{name}: the dashboard is not on loopback"
            if "mlflow server" in command and ("--host $HEAD_IP" not in command or "--app-name basic-auth" not in command):
                yield f"{name}: MLflow is not on the private address behind a login"
            if "0.0.0.0" in command:
                yield f"{name}: listens on every network"
    host = yaml.safe_load(texts["serve.yaml"])["http_options"]["host"]
    if host != "127.0.0.1":
        yield f"serve.yaml: listens on {host}"
    for name in KUBERNETES:
        found = documents(texts[name])
        policies = [one["spec"] for one in found if one["kind"] == "NetworkPolicy"]
        for policy in policies:
            for rule in policy.get("ingress", ()):
                if not rule.get("from") or any(_is_anybody(peer) for peer in rule["from"]):
                    yield f"{name}: a NetworkPolicy lets everybody in"
        for pod in pods({**{other: "" for other in KUBERNETES}, name: texts[name]}):
            if not any(
                "Ingress" in policy["policyTypes"] and policy["podSelector"]["matchLabels"].items() <= pod.labels.items()
                for policy in policies
            ):
                yield f"{pod.where}: no NetworkPolicy"
            if pod.spec.get("hostNetwork") or any("hostPort" in port for one in pod.containers for port in one.get("ports", ())):
                yield f"{pod.where}: listens on the node"
        yield from (
            f"{name}: a Service for outside"
            for one in found
            if one["kind"] == "Service" and one["spec"].get("type", "ClusterIP") != "ClusterIP"
        )
    login = [one for one in documents(texts["mlflow.yaml"]) if one["kind"] == "Deployment"]
    if not all("basic-auth" in one["spec"]["template"]["spec"]["containers"][0]["command"] for one in login):
        yield "mlflow.yaml: MLflow has no login"


def _is_anybody(peer: dict[str, Any]) -> bool:
    """Whether a peer of a NetworkPolicy names nobody in particular."""
    selectors = [peer[key] for key in ("podSelector", "namespaceSelector") if key in peer]
    return "ipBlock" in peer or not any(selector.get("matchLabels") or selector.get("matchExpressions") for selector in selectors)


def pinned(texts: Files) -> Iterator[str]:
    """Images and packages have versions, and those of requirements.lock."""
    own = f"{pixelmodels.__version__}-"
    versions = {"pixelmodels": f"{own}ray{LOCK['ray']}", "pixelmodels-mlflow": f"{own}mlflow{LOCK['mlflow']}"}
    for name, text in texts.items():
        for image, tag in re.findall(r"registry\.example/([\w-]+):?([\w.-]*)", text):
            if tag != versions.get(image):
                yield f"{name}: {image}:{tag}"
        if re.search(r":latest\b|latest_dlami", text):
            yield f"{name}: latest"
    for pod in pods(texts):
        for container in pod.containers:
            if not re.search(r":\d+\.\d+[\w.-]*$", container["image"]):
                yield f"{pod.where}: image {container['image']} has no version"
    for name in KUBERAY:
        for document in documents(texts[name]):
            cluster = ray_cluster(document)
            if cluster is not None and cluster.get("rayVersion") != LOCK["ray"]:
                yield f"{name}: Ray {cluster.get('rayVersion')}"
    pythons = set(re.findall(r"^FROM python:(\S+?)-slim-\w+ AS", texts["Dockerfile"], re.MULTILINE))
    for name in LAUNCHER:
        pythons |= set(re.findall(r"--python (\d\S*)", texts[name])) or {"none"}
        for command in launcher_commands(texts[name]):
            for words in re.findall(r"pip install ([^|&;)]*)", command):
                yield from (f"{name}: {word} has no version" for word in _unpinned(words))
        if "-r ~/requirements.lock" not in " ".join(launcher_commands(texts[name])):
            yield f"{name}: does not install requirements.lock"
        mounts = prepared(texts[name])["file_mounts"]
        if mounts.get("~/requirements.lock") != "requirements.lock":
            yield f"{name}: does not copy requirements.lock"
        for kind in prepared(texts[name])["available_node_types"].values():
            config = kind["node_config"]
            image = config.get("ImageId") or config.get("disks", [{}])[0].get("initializeParams", {}).get("sourceImage", "")
            if not re.fullmatch(r"ami-[0-9a-f]{17}|projects/[\w-]+/global/images/family/[\w-]*\d[\w-]*", image):
                yield f"{name}: image '{image}' is not a certain one"
    if len(pythons) != 1 or not all(re.fullmatch(r"3\.\d+\.\d+", one) for one in pythons):
        yield f"different Pythons, or one without a version: {sorted(pythons)}"
    for line in texts["extra.lock"].splitlines():
        if not line.startswith("#") and not re.fullmatch(r"[\w.-]+==[\w.]+", line):
            yield f"extra.lock: {line}"
    yield from (
        f"extra.lock: {name} is in requirements.lock"
        for name in pins("\n".join(re.findall(r"^\S+==\S+$", texts["extra.lock"], re.M)))
        if name in LOCK
    )


def _unpinned(words: str) -> list[str]:
    """Packages of a `pip install` without a version: files, and values of options, are none."""
    takes_value = {"-r", "--python", "--index-url"}
    return [
        word
        for before, word in pairwise(["", *words.split()])
        if not word.startswith("-") and before not in takes_value and not re.fullmatch(r"[\w.\[\],-]+==[\w.]+", word)
    ]


def no_development_builds(texts: Files) -> Iterator[str]:
    """No wheel of Ray's nightly builds, which its launcher installs where a file has no commands of its own."""
    pattern = r"\.whl\b|\bdev\d|nightly|--pre\b|ray-wheels|ray(\[\w*\])? @|pip install -U"
    for name, text in texts.items():
        for what in (text, *launcher_commands(text)) if name in LAUNCHER else (text,):
            yield from (f"{name}: {found[0]}" for found in re.finditer(pattern, what))


def not_root(texts: Files) -> Iterator[str]:
    """Nothing runs as root, or may come to more rights than it begins with."""
    for pod in pods(texts):
        of_pod = pod.spec.get("securityContext", {})
        if of_pod.get("runAsNonRoot") is not True or not of_pod.get("runAsUser", 0) > 0:
            yield f"{pod.where}: may run as root"
        if of_pod.get("seccompProfile") != {"type": "RuntimeDefault"}:
            yield f"{pod.where}: no seccomp profile"
        yield from (f"{pod.where} {one['name']}: {what}" for one in pod.containers for what in _rights(one.get("securityContext", {})))
        if not pod.is_head and pod.spec.get("automountServiceAccountToken") is not False:
            yield f"{pod.where}: has a token of Kubernetes"
    for name in KUBERAY:
        for document in documents(texts[name]):
            cluster = ray_cluster(document)
            if cluster is not None:
                yield from (f"{name} autoscaler: {what}" for what in _rights(cluster["autoscalerOptions"].get("securityContext", {})))
    stages = re.split(r"^FROM .* AS (\w+)\n", texts["Dockerfile"], flags=re.MULTILINE)
    for stage, text in zip(stages[1::2], stages[2::2], strict=True):
        users = re.findall(r"^USER (\S+)", text, re.MULTILINE)
        if stage != "locked" and not (users and re.fullmatch(r"[1-9]\d*(:[1-9]\d*)?", users[-1])):
            yield f"Dockerfile: {stage} runs as {users[-1:] or 'root'}"


def _rights(context: dict[str, Any]) -> Iterator[str]:
    if context.get("allowPrivilegeEscalation") is not False or context.get("privileged"):
        yield "may gain rights"
    if context.get("capabilities") != {"drop": ["ALL"]}:
        yield "has capabilities"


def probed(texts: Files) -> Iterator[str]:
    """Kubernetes sees whether what stays is ready, and starts again what hangs."""
    for pod in pods(texts):
        for container in pod.spec["containers"]:
            for probe in ("readinessProbe", "livenessProbe"):
                if not pod.is_submitter and probe not in container:
                    yield f"{pod.where} {container['name']}: no {probe}"


def bounded(texts: Files) -> Iterator[str]:
    """Every container says what it needs, and gets no more."""
    for pod in pods(texts):
        for container in pod.containers:
            yield from (f"{pod.where} {container['name']}: {what}" for what in _unbounded(container.get("resources", {})))
    for name in KUBERAY:
        for document in documents(texts[name]):
            cluster = ray_cluster(document)
            if cluster is not None:
                yield from (f"{name} autoscaler: {what}" for what in _unbounded(cluster["autoscalerOptions"].get("resources", {})))


def _unbounded(resources: dict[str, Any]) -> Iterator[str]:
    for part in ("requests", "limits"):
        yield from (f"no {part} of {kind}" for kind in ("cpu", "memory") if kind not in resources.get(part, {}))
    if resources.get("requests", {}).get("nvidia.com/gpu") != resources.get("limits", {}).get("nvidia.com/gpu"):
        yield "GPUs requested are not those of the limit"


def begins_with_its_commands(texts: Files) -> Iterator[str]:
    """Each file that somebody starts says first how."""
    for name, text in texts.items():
        remarks = re.match(r"(#.*\n)*", text)
        assert remarks is not None
        if (name.endswith(".yaml") or name == "Dockerfile") and f"cluster/{name}" not in remarks[0]:
            yield f"{name}: does not begin with the commands that use it"


def spot_workers_from_none(texts: Files) -> Iterator[str]:
    """The head is on demand; workers are spot machines, and none where nothing is to do."""
    for name in LAUNCHER:
        config = prepared(texts[name])
        for kind, node in config["available_node_types"].items():
            is_spot = node["node_config"].get("InstanceMarketOptions", {}).get("MarketType") == "spot" or (
                node["node_config"].get("scheduling", {}).get("provisioningModel") == "SPOT"
            )
            is_head = kind == config["head_node_type"]
            if is_spot is is_head:
                yield f"{name}: {kind} is {'a spot machine' if is_head else 'on demand'}"
            if node["min_workers"] or (node["max_workers"] > 0) is is_head or ("GPU" in node["resources"]) is is_head:
                yield f"{name}: {kind} has other numbers than 0..N machines with a GPU"
    for name in KUBERAY:
        for document in documents(texts[name]):
            cluster = ray_cluster(document)
            if cluster is None:
                continue
            if cluster.get("enableInTreeAutoscaling") is not True:
                yield f"{name}: no autoscaling"
            for group in cluster["workerGroupSpecs"]:
                if group["minReplicas"] != (document["kind"] == "RayService") or group["maxReplicas"] <= group["minReplicas"]:
                    yield f"{name}: {group['groupName']} has {group['minReplicas']}..{group['maxReplicas']} machines"
                keys = {one["key"] for one in group["template"]["spec"].get("tolerations", ())}
                if not {"nvidia.com/gpu", "cloud.google.com/gke-spot"} <= keys:
                    yield f"{name}: {group['groupName']} does not tolerate spot machines with GPUs"
