"""The files that start clusters as tests read them: texts by name, so that a rule can be shown a broken copy."""

from __future__ import annotations

import functools
import io
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
Files = dict[str, str]

LAUNCHER = ("aws.yaml", "gcp.yaml")
KUBERAY = ("rayjob-train.yaml", "rayjob-tune.yaml", "raycluster.yaml", "rayservice.yaml")
KUBERNETES = (*KUBERAY, "mlflow.yaml")
_COMMANDS = ("setup_commands", "head_setup_commands", "worker_setup_commands", "head_start_ray_commands", "worker_start_ray_commands")


def files() -> Files:
    """What is in `cluster/` now, but for Python files."""
    return {path.name: path.read_text() for path in sorted(CLUSTER.iterdir()) if path.is_file() and path.suffix != ".py"}


def broken(name: str, old: str, new: str) -> Files:
    """A copy of the files in which a text of one, which has to be there, is another one."""
    found = files()
    assert old in found[name], f"{name} does not have {old!r}"
    return {**found, name: found[name].replace(old, new)}


def documents(text: str) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(io.StringIO(text)) if document]


def pins(text: str) -> dict[str, str]:
    """Versions of a lock by name, in lower case with dashes."""
    lines = [line.split("==") for line in text.splitlines() if line and not line.startswith("#")]
    return {name.lower().replace("_", "-"): version for name, version in lines}


LOCK = pins((ROOT / "requirements.lock").read_text())


def launcher_commands(text: str) -> list[str]:
    """All shell commands of a file of Ray's launcher, with what Ray adds to it of its own."""
    return [command for key in _COMMANDS for command in prepared(text).get(key) or ()]


@functools.cache
def prepared(text: str) -> dict[str, Any]:
    """A launcher file as Ray has it after its defaults are filled in: what it does not say itself is Ray's."""
    from ray.autoscaler._private.util import prepare_config

    config: dict[str, Any] = prepare_config(yaml.safe_load(text))
    return config


@dataclass(frozen=True)
class Pod:
    """A Pod that a Kubernetes object makes."""

    where: str  # file and path, for messages
    document: dict[str, Any]  # the whole object
    template: dict[str, Any]  # metadata and spec
    is_head: bool
    is_submitter: bool

    @property
    def spec(self) -> dict[str, Any]:
        return dict(self.template["spec"])

    @property
    def labels(self) -> dict[str, str]:
        return dict(self.template["metadata"]["labels"])

    @property
    def containers(self) -> list[dict[str, Any]]:
        return [*self.spec.get("initContainers", ()), *self.spec["containers"]]


def ray_cluster(document: dict[str, Any]) -> dict[str, Any] | None:
    """The spec of the RayCluster that an object is, or makes."""
    key = {"RayCluster": "spec", "RayJob": "rayClusterSpec", "RayService": "rayClusterConfig"}.get(document["kind"])
    if key is None:
        return None
    found: dict[str, Any] = document["spec"] if key == "spec" else document["spec"][key]
    return found


def pods(texts: Files) -> Iterator[Pod]:
    """Every Pod of every Kubernetes object."""
    for name in KUBERNETES:
        for document in documents(texts[name]):
            where = f"{name} {document['kind']} {document['metadata']['name']}"
            cluster = ray_cluster(document)
            if cluster is not None:
                yield Pod(f"{where} head", document, cluster["headGroupSpec"]["template"], True, False)
                for group in cluster["workerGroupSpecs"]:
                    yield Pod(f"{where} {group['groupName']}", document, group["template"], False, False)
                if "submitterPodTemplate" in document["spec"]:
                    yield Pod(f"{where} submitter", document, document["spec"]["submitterPodTemplate"], False, True)
            elif "template" in document.get("spec", {}):
                yield Pod(where, document, document["spec"]["template"], False, False)


def job_commands(texts: Files) -> Iterator[tuple[str, str, list[str]]]:
    """Every `python pipelines/...` of files and pages: where it is, the pipeline's file, its words."""
    for name, text in texts.items():
        entrypoints = (
            [one["spec"]["entrypoint"] for one in documents(text) if one.get("kind") == "RayJob"] if name.endswith(".yaml") else []
        )
        if not entrypoints:
            lines = re.sub(r"\\\n[#\s]*", " ", text).splitlines()
            entrypoints = [found for line in lines for found in re.findall(r"python pipelines/[^`#|]*", line)]
        for entrypoint in entrypoints:
            _, program, *words = shlex.split(entrypoint)
            yield name, program, words
