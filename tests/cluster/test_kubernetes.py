"""Kubernetes objects and the Pods inside KubeRay's, held to the Kubernetes schemas; and what Ray and we read in them."""

from __future__ import annotations

import importlib.util
import pkgutil
from pathlib import Path
from typing import Any

import kubernetes_validate
import mlflow
import pytest
import yaml

from pixelmodels.serving.settings import Settings

from .files import KUBERAY, KUBERNETES, Files, broken, documents, files, pods, ray_cluster

VERSION = "1.33"
# KubeRay's own objects have no schema here: the fields that we use of them, from its documentation.
_CLUSTER = {"rayVersion", "authOptions", "enableInTreeAutoscaling", "autoscalerOptions", "headGroupSpec", "workerGroupSpecs"}
_FIELDS = {
    "RayCluster": _CLUSTER,
    "RayJob": {
        "entrypoint",
        "backoffLimit",
        "shutdownAfterJobFinishes",
        "ttlSecondsAfterFinished",
        "rayClusterSpec",
        "submitterPodTemplate",
    },
    "RayService": {"serveConfigV2", "rayClusterConfig"},
}
_AUTOSCALER = {"version", "idleTimeoutSeconds", "securityContext", "resources"}
_GROUP = {"groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"}


def complaints(texts: Files) -> list[str]:
    """What the schemas say to every object and Pod."""
    found = []
    objects = [(name, one) for name in KUBERNETES for one in documents(texts[name]) if one["apiVersion"] != "ray.io/v1"]
    objects += [(pod.where, {"apiVersion": "v1", "kind": "Pod", **pod.template}) for pod in pods(texts)]
    # KubeRay adds to the Pod of a head a container with what is said of the autoscaler
    for name in KUBERAY:
        for document in documents(texts[name]):
            cluster = ray_cluster(document)
            if cluster is not None:
                given = {key: cluster["autoscalerOptions"][key] for key in ("securityContext", "resources")}
                container = {"name": "autoscaler", "image": "x:1", **given}
                objects.append((name, {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": {"containers": [container]}}))
    for where, one in objects:
        try:
            kubernetes_validate.validate(one, VERSION, strict=True)
        except (kubernetes_validate.ValidationError, kubernetes_validate.SchemaNotFoundError) as error:
            found.append(f"{where}: {error.message}")
    return found


def test_the_schemas_take_every_object_and_pod() -> None:
    assert complaints(files()) == []


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("mlflow.yaml", "strategy: {type", "strategy: {kind"),
        ("mlflow.yaml", "accessModes: [ReadWriteOnce]", "accessMode: ReadWriteOnce"),
        ("mlflow.yaml", "containerPort: 5432", "containerPort: postgres"),
        ("mlflow.yaml", "policyTypes: [Ingress]", "policyType: Ingress"),
        ("raycluster.yaml", "httpGet: {path: /api/local_raylet_healthz", "httpget: {path: /api/local_raylet_healthz"),
        ("rayjob-train.yaml", "runAsNonRoot", "runAsNonroot"),
        ("rayjob-tune.yaml", "operator: Equal", "operators: Equal"),
        ("rayservice.yaml", "secretKeyRef: {name: pixelmodels-api-keys, key", "secretKeyRef: {name: pixelmodels-api-keys, keys"),
        ("rayservice.yaml", "&container {allowPrivilegeEscalation", "&container {allowPrivilegesEscalation"),
        ("rayjob-train.yaml", "        - name: submitter\n          image: *image", "        - name: submitter\n          images: *image"),
    ],
)
def test_the_schemas_refuse_a_broken_copy(name: str, old: str, new: str) -> None:
    assert any(line.startswith(name) for line in complaints(broken(name, old, new)))


@pytest.mark.parametrize("name", KUBERAY)
def test_kuberay_s_objects_have_fields_that_it_knows(name: str) -> None:
    (document,) = [one for one in documents(files()[name]) if one["apiVersion"] == "ray.io/v1"]
    cluster = ray_cluster(document)
    assert cluster is not None
    assert document.keys() == {"apiVersion", "kind", "metadata", "spec"}
    assert document["spec"].keys() == _FIELDS[document["kind"]]
    assert cluster.keys() == _CLUSTER
    assert cluster["autoscalerOptions"].keys() == _AUTOSCALER
    assert cluster["headGroupSpec"].keys() == {"rayStartParams", "template"}
    for group in cluster["workerGroupSpecs"]:
        assert group.keys() == _GROUP


@pytest.mark.parametrize("name", KUBERAY)
def test_ray_s_autoscaler_sees_machines_with_a_gpu(name: str) -> None:
    from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr

    (document,) = [one for one in documents(files()[name]) if one["apiVersion"] == "ray.io/v1"]
    object_ = {"metadata": {"name": "x", "namespace": "pixelmodels"}, "spec": ray_cluster(document)}
    config = _derive_autoscaling_config_from_ray_cr(object_)
    head, worker = (config["available_node_types"][kind] for kind in ("headgroup", "gpu"))
    assert (head["resources"]["CPU"], head["max_workers"]) == (0, 0)
    assert worker["resources"] == {"CPU": 8, "GPU": 1, "memory": 24 << 30}
    assert worker["min_workers"] == (name == "rayservice.yaml")
    assert worker["max_workers"] > worker["min_workers"]


@pytest.mark.parametrize("name", KUBERAY)
def test_ray_start_has_the_options_that_kuberay_gives_it(name: str) -> None:
    from ray.scripts.scripts import start

    for document in documents(files()[name]):
        cluster = ray_cluster(document)
        if cluster is None:
            continue
        for group, role in ((cluster["headGroupSpec"], ["--head"]), *((one, ["--address=x:6379"]) for one in cluster["workerGroupSpecs"])):
            start.make_context("ray start", [*role, *(f"--{key}={value}" for key, value in group["rayStartParams"].items())])


def test_probes_ask_what_ray_answers_without_its_token() -> None:
    from ray.dashboard.http_server_agent import PUBLIC_EXACT_PATHS

    answered = {52365: {*PUBLIC_EXACT_PATHS}, 8265: {"/api/gcs_healthz"}, 8000: {"/-/healthz"}, 5000: {"/health"}}
    asked = [
        container[probe]["httpGet"]
        for pod in pods(files())
        for container in pod.spec["containers"]
        for probe in ("readinessProbe", "livenessProbe")
        if "httpGet" in container.get(probe, {})
    ]
    assert len(asked) == 4 * 4 + 2
    assert all(one["path"] in answered[one["port"]] for one in asked)


def serve_config(name: str) -> Any:
    text = files()[name]
    return yaml.safe_load(documents(text)[0]["spec"]["serveConfigV2"] if name == "rayservice.yaml" else text)


@pytest.mark.parametrize("name", ["serve.yaml", "rayservice.yaml"])
def test_the_service_is_one_that_we_can_build(name: str) -> None:
    from ray.serve.schema import ServeDeploySchema

    from pixelmodels.serving.app import build

    found = serve_config(name)
    (application,) = ServeDeploySchema.model_validate(found).applications
    assert pkgutil.resolve_name(application.import_path) is build
    assert found["applications"][0].keys() <= {"name", "route_prefix", "import_path", "args"}
    settings = Settings(**application.args)
    assert settings.require_key
    assert settings.key_hashes == ()


def test_a_sampler_fits_a_machine_of_the_service() -> None:
    settings = Settings(**serve_config("rayservice.yaml")["applications"][0]["args"])
    cluster = ray_cluster(documents(files()["rayservice.yaml"])[0])
    assert cluster is not None
    (group,) = cluster["workerGroupSpecs"]
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert settings.gpus <= limits["nvidia.com/gpu"]
    assert settings.cpus <= int(limits["cpu"])
    assert settings.max_replicas is not None and settings.max_replicas <= group["maxReplicas"]


def test_images_reach_the_head_through_the_service_s_port() -> None:
    (policy,) = [one["spec"] for one in documents(files()["rayservice.yaml"]) if one["kind"] == "NetworkPolicy"]
    from_clients = policy["ingress"][-1]
    assert from_clients["ports"] == [{"port": serve_config("rayservice.yaml")["http_options"]["port"]}]


def test_who_asks_mlflow_is_let_in_by_it() -> None:
    found = {pod.where: pod for pod in pods(files())}
    for pod in found.values():
        names = {variable["name"] for container in pod.containers for variable in container.get("env", ())}
        if "MLFLOW_TRACKING_URI" in names:
            assert pod.labels["pixelmodels/asks-mlflow"] == "true", pod.where
    services = {one["metadata"]["name"]: one["spec"] for one in documents(files()["mlflow.yaml"]) if one["kind"] == "Service"}
    uris = {
        variable["value"]
        for pod in found.values()
        for container in pod.containers
        for variable in container.get("env", ())
        if variable["name"] == "MLFLOW_TRACKING_URI"
    }
    (uri,) = uris
    assert uri == f"http://pixelmodels-mlflow:{services['pixelmodels-mlflow']['ports'][0]['port']}"
    (server,) = found["mlflow.yaml Deployment pixelmodels-mlflow"].containers
    assert f"--allowed-hosts={uri.removeprefix('http://')}," in " ".join(server["args"])
    hosts = [variable["value"] for variable in server["env"] if variable["name"] == "PGHOST"]
    assert hosts == ["pixelmodels-postgres"] and hosts[0] in services


def test_volumes_and_settings_that_are_mounted_are_there() -> None:
    found = documents(files()["mlflow.yaml"])
    names = {(one["kind"], one["metadata"]["name"]) for one in found}
    mounted = [volume for one in found if "template" in one.get("spec", {}) for volume in one["spec"]["template"]["spec"]["volumes"]]
    assert len(mounted) == 2
    for volume in mounted:
        wanted = (
            ("ConfigMap", volume["configMap"]["name"])
            if "configMap" in volume
            else ("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"])
        )
        assert wanted in names


def test_mlflow_reads_the_settings_of_its_login(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (settings,) = [one["data"]["basic_auth.ini"] for one in documents(files()["mlflow.yaml"]) if one["kind"] == "ConfigMap"]
    (tmp_path / "basic_auth.ini").write_text(settings)
    monkeypatch.setenv("MLFLOW_AUTH_CONFIG_PATH", str(tmp_path / "basic_auth.ini"))
    monkeypatch.setenv("MLFLOW_AUTH_ADMIN_USERNAME", "admin")
    monkeypatch.setenv("MLFLOW_AUTH_ADMIN_PASSWORD", "x")
    # the file alone: its package wants what only the server's image has
    place = Path(mlflow.__file__).parent / "server" / "auth" / "config.py"
    spec = importlib.util.spec_from_file_location("mlflow_auth_config", place)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = module.read_auth_config()
    assert (found.admin_username, found.default_permission) == ("admin", "READ")
    (server,) = [pod.containers[0] for pod in pods(files()) if pod.where.endswith("Deployment pixelmodels-mlflow")]
    assert f"--backend-store-uri={found.database_uri}" in server["args"]
